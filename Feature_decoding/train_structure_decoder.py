"""Train the structure decoder: fMRI to the VAE latent of a clip's first frame.

Learns   fMRI (B, 4500), 20 % of it newly set to zero in every epoch -> latent (B, 4, 64, 64)
         compared with the stored latent of frame 0 (B, 4, 64, 64): k * MSE + w * sum |weights|
Reads    fMRI_in_fslr/sub{ID}/Train/masked4500_trn_data.npy     (N, 4500)
         features/Train_contents.npy                            (N, 4, 8, 64, 64), channels before frames
Writes   checkpoints/sub{ID}/{arm}/structure/              epoch_{n}, last, best (.safetensors and .json), log.jsonl
         checkpoints/sub{ID}/{arm}/figures/structure_loss.png

    python Feature_decoding/train_structure_decoder.py --dataset phantom
    python Feature_decoding/train_structure_decoder.py --dataset CC2017 --subj_ID 1

About a quarter of a minute for the phantom on one CPU thread.
"""

import torch
from torch.nn import functional as F

from common import cli
from common.files import load_array
from common.fmri import sparsify
from common.layout import Layout
from common.randomness import numpy_generator
from Feature_decoding.plan import build_model, get_training_parser, load_training_fmri, make_plan
from Feature_decoding.training import Task, Trainer, exponential_lr, make_adam
from models.losses import structure_loss
from models.schedules import compounding_decay
from models.structure_decoder import StructureDecoder

SELECT_RATE, ZERO_RATE = 0.4, 0.5  # of fMRI sparsification
L1_DECAY = 5e-5


class StructureTask(Task):
    """fMRI to the latent of the first frame.

    Parameters
    ----------
    fmri : tensor, shape (N, V), float32
    contents : array, shape (N, C, F, H, W)
        latents; may be a memory map
    n_train : int
        clips that are trained on, the first of the split
    k : float
        weight of the squared error
    l1_weight : array, shape (epochs + 1,)
        weight of the L1 norm in each epoch
    """

    def __init__(self, fmri, contents, *, n_train, seed, k, l1_weight):
        self.fmri, self.contents, self.n_train = fmri, contents, n_train
        self.seed, self.k, self.l1_weight = seed, k, l1_weight

    def start_epoch(self, epoch):
        rng = numpy_generator(self.seed, "sparsify", epoch)
        self.sparse = torch.from_numpy(sparsify(self.fmri[: self.n_train].numpy(), SELECT_RATE, ZERO_RATE, rng))

    def load(self, clips, epoch):
        first = torch.from_numpy(self.contents[clips, :, 0]).float()  # b c h w
        return {"fmri": (self.fmri if epoch is None else self.sparse)[clips], "latent": first}

    def forward(self, model, batch):
        return {"latent": model(batch["fmri"])}, {"latent": batch["latent"]}  # b c h w, both

    def loss(self, model, outputs, targets, epoch):
        return structure_loss(outputs["latent"], targets["latent"], model.parameters(), self.l1_weight[epoch], self.k)

    def validation_loss(self, model, outputs, targets):
        mse = F.mse_loss(outputs["latent"], targets["latent"])
        return self.k * mse, {"mse": mse}


def get_parser():
    parser = get_training_parser(__doc__, epoch=400, lr=1e-6)
    group = parser.add_argument_group("model")
    group.add_argument("--n_blocks", type=cli.whole(0, 100), default=2, help="number of residual blocks")
    group.add_argument("--hidden_dim", type=cli.width, default=1024, help="width of the hidden layers")
    group = parser.add_argument_group("loss")
    group.add_argument("--k", type=cli.real(0), default=1.0, help="weight of the squared error")
    group.add_argument(
        "--w", "--l1_weight", dest="w", type=cli.real(0), default=4e-6, help="first weight of the L1 norm; after epoch e times exp(-5e-5 e)"
    )
    return parser


def main(args):
    layout, plan = Layout.of(args), make_plan(args, "structure")
    with plan.working(args, [layout.contents("train")]) as record:
        if record is None:
            return
        fmri = load_training_fmri(args)  # (N, V)
        contents = load_array(
            layout.contents("train"), shape=(len(fmri), *[None] * 4), mmap=True, do="run content_feature_extraction again"
        )
        channels, _, height, width = contents.shape[1:]
        l1_weight = compounding_decay(args.w, L1_DECAY, args.epoch)
        task = StructureTask(fmri, contents, n_train=len(plan.train_clips), seed=args.seed, k=args.k, l1_weight=l1_weight)
        model = build_model(
            StructureDecoder, args.seed, in_dim=fmri.shape[1], hidden_dim=args.hidden_dim, n_blocks=args.n_blocks,
            latent_shape=(channels, height, width),
        )  # fmt: skip
        Trainer(plan, record, model, task, make_adam(model, args.lr), exponential_lr(args.lr)).fit()


if __name__ == "__main__":
    cli.run(main, get_parser)
