"""Train the structure decoder: fMRI to the VAE latent of a clip's first frame.

Reads    fMRI_in_fslr/sub{ID}/Train/masked4500_trn_data.npy, features/Train_contents.npy
Writes   checkpoints/sub{ID}/{arm}/structure/              epoch_{n}, last, best (.safetensors and .json), log.jsonl
         checkpoints/sub{ID}/{arm}/figures/structure_loss.png

    python Feature_decoding/train_structure_decoder.py --dataset phantom --config configs/phantom.yaml
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
from Feature_decoding.training import Run, Task, Trainer, exponential_lr, get_training_parser, make_adam
from models.losses import structure_loss
from models.schedules import compounding_decay
from models.structure_decoder import StructureDecoder

SELECT_RATE, ZERO_RATE = 0.4, 0.5  # of fMRI sparsification
L1_DECAY = 5e-5

# ---------------------------------------------------------------------------------------------- what it learns


class StructureTask(Task):
    """Parameters: args; fMRI (N, V); contents (N, C, F, H, W), may be a memory map; number of training clips."""

    def __init__(self, args, fmri, contents, n_train):
        self.args, self.fmri, self.contents, self.n_train = args, fmri, contents, n_train
        self.l1_weight = compounding_decay(args.w, L1_DECAY, args.epoch)

    def start_epoch(self, epoch):
        rng = numpy_generator(self.args.seed, "sparsify", epoch)
        self.sparse = torch.from_numpy(sparsify(self.fmri[: self.n_train].numpy(), SELECT_RATE, ZERO_RATE, rng))

    def load(self, clips, epoch):
        first = torch.from_numpy(self.contents[clips, :, 0]).float()  # b c h w
        return {"fmri": (self.fmri if epoch is None else self.sparse)[clips], "latent": first}

    def forward(self, model, batch):
        return {"latent": model(batch["fmri"])}, {"latent": batch["latent"]}

    def loss(self, model, outputs, targets, epoch):
        return structure_loss(outputs["latent"], targets["latent"], model.parameters(), self.l1_weight[epoch], self.args.k)

    def validation_loss(self, model, outputs, targets):
        mse = F.mse_loss(outputs["latent"], targets["latent"])
        return self.args.k * mse, {"mse": mse}


# ---------------------------------------------------------------------------------------------- the script


def get_parser():
    parser = get_training_parser(__doc__, epoch=400, lr=1e-6)
    group = parser.add_argument_group("model")
    group.add_argument("--n_blocks", type=int, default=2, help="residual blocks")
    group.add_argument("--hidden_dim", type=cli.one_or_more, default=1024, help="width")
    group = parser.add_argument_group("loss")
    group.add_argument("--k", type=float, default=1.0, help="weight of the squared error")
    group.add_argument("--w", type=float, default=4e-6, help="first weight of the L1 norm; after epoch e times exp(-5e-5 e)")
    return parser


def main(args):
    layout = Layout.of(args)
    run = Run(args, "structure", [layout.contents("train")])
    if run.is_done():
        return
    fmri = run.load_fmri()
    contents = load_array(layout.contents("train"), shape=(len(fmri), *[None] * 4), mmap=True, do="run content_feature_extraction")
    channels, _, height, width = contents.shape[1:]
    task = StructureTask(args, fmri, contents, len(run.train_clips))
    model = run.build(
        StructureDecoder, in_dim=fmri.shape[1], hidden_dim=args.hidden_dim, n_blocks=args.n_blocks, latent_shape=(channels, height, width)
    )
    Trainer(run, model, task, make_adam(model, args.lr), exponential_lr(args.lr)).fit()


if __name__ == "__main__":
    cli.run(main, get_parser)
