"""Train a retrieval decoder: fMRI to a CLIP embedding that finds its clip.

Learns   fMRI (B, 4500), 10 % of it newly set to zero in every epoch -> embedding (B, 512)
         compared with CLIP features of a crop of the middle frame (B, 512): MSE; with --method contrastive also with
         these and with CLIP features of an augmented caption (B, 512): contrastive loss
Reads    fMRI_in_fslr/sub{ID}/Train/masked4500_trn_data.npy     (N, 4500)
         captions/Train_captions_new.h5, stimuli_frames/Train/  N captions, N clips
         features/Train_{text,img}_embeddings_CLIP_512.npy      (N, 512)
Writes   checkpoints/sub{ID}/{arm}/{name}/                 epoch_{n}, last, best (.safetensors and .json), log.jsonl
         checkpoints/sub{ID}/{arm}/figures/{name}_loss.png
         {name} is retrieval, or retrieval_linear_mse, retrieval_linear_mse_ridge, retrieval_mlp_mse

    python Retrieval/train_retrieval_decoder.py --dataset phantom --config configs/phantom.yaml
    python Retrieval/train_retrieval_decoder.py --dataset CC2017 --subj_ID 1
    python Retrieval/train_retrieval_decoder.py --dataset CC2017 --subj_ID 1 --method linear_mse --solver ridge

The authors' own training code is lost: the loss is the contrastive one of the semantic decoder plus the squared error
to CLIP's image embedding, optimiser and augmentation are the semantic decoder's. Methods: contrastive (residual MLP),
and the paper's baselines, which learn the squared error alone: mlp_mse (the same MLP) and linear_mse (one linear map,
trained like the others, or by ridge regression with the penalty chosen by cross-validation).

About half a minute for the phantom on one CPU thread; for CC2017 as train_semantic_decoder.py.
"""

from common import cli
from common.datasets import get_dataset
from common.files import UserError
from common.layout import Layout
from common.model_sources import model_path
from Feature_decoding.contrastive import ContrastiveTask, add_contrastive_flags
from Feature_decoding.plan import build_model, get_training_parser, load_training_fmri, make_plan
from Feature_decoding.training import Trainer, exponential_lr, make_adam
from models.loading import model_files
from models.losses import embedding_loss, retrieval_loss
from models.retrieval_decoder import LinearDecoder, RetrievalDecoder
from Retrieval.galleries import METHODS, checkpoint_folder
from Retrieval.ridge import train_ridge

RELEASED_EPOCHS = (20, 40)  # of the released weights: subject 2, subjects 1 and 3

# ---------------------------------------------------------------------------------------------- what it learns


class RetrievalTask(ContrastiveTask):
    def forward(self, model, batch):
        return {"embedding": model(batch["fmri"])}, self.targets(batch)  # (B, V) -> (B, 512)

    def loss(self, model, outputs, targets, epoch):
        return retrieval_loss(outputs["embedding"], targets["text"], targets["image"], model.logit_scale, self.alpha)


class BaselineTask(RetrievalTask):
    """The squared error alone; captions are not needed."""

    def start_epoch(self, epoch):
        self.draw_sparse(epoch)

    def load(self, clips, epoch):
        if epoch is None:
            return super().load(clips, epoch)
        return {"fmri": self.sparse[clips], **self.load_images(clips, epoch)}

    def loss(self, model, outputs, targets, epoch):
        return embedding_loss(outputs["embedding"], targets["image"])


def make_model(args, in_dim, width):
    """A new model of the method."""
    if args.method == "linear_mse":
        return build_model(LinearDecoder, args.seed, in_dim=in_dim, hidden_dim=width)
    model = build_model(RetrievalDecoder, args.seed, in_dim=in_dim, hidden_dim=width, n_blocks=args.n_blocks)
    model.logit_scale.requires_grad_(args.method == "contrastive")
    return model


# ---------------------------------------------------------------------------------------------- the script


def get_parser():
    parser = get_training_parser(__doc__, epoch=100, lr=2e-4, models=("clip",))
    group = parser.add_argument_group("model")
    group.add_argument(
        "--method", choices=list(METHODS), default="contrastive", help="model and loss: the paper's, or one of its baselines"
    )
    group.add_argument(
        "--solver",
        choices=["gradient", "ridge"],
        default="gradient",
        help="solver of linear_mse: training, or cross-validated ridge regression",
    )
    group.add_argument("--n_blocks", type=cli.whole(0, 100), default=2, help="number of residual blocks of the MLP")
    add_contrastive_flags(parser.add_argument_group("loss"))
    return parser


def main(args):
    if args.solver == "ridge" and args.method != "linear_mse":
        raise UserError(f"--solver ridge is for --method linear_mse, not {args.method}; leave it out")
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    plan = make_plan(args, "retrieval", further_epochs=RELEASED_EPOCHS, name=checkpoint_folder(args.method, args.solver))
    targets = [layout.text_embeddings_clip("train"), layout.image_embeddings_clip("train"), layout.captions("train")]
    with plan.working(args, [*targets, *model_files(model_path(args, "clip"))]) as record:
        if record is None:
            return
        fmri = load_training_fmri(args)  # (N, V)
        kind = RetrievalTask if args.method == "contrastive" else BaselineTask
        task = kind(
            layout, dataset, fmri, n_train=len(plan.train_clips), n_epochs=args.epoch, seed=args.seed, alpha=args.alpha,
            crop_frames=args.image_aug == "on", clip_path=model_path(args, "clip"),
        )  # fmt: skip
        if args.solver == "ridge":
            return train_ridge(plan, record, task)
        model = make_model(args, fmri.shape[1], task.stored["text"].shape[1])
        Trainer(plan, record, model, task, make_adam(model, args.lr), exponential_lr(args.lr)).fit()


if __name__ == "__main__":
    cli.run(main, get_parser)
