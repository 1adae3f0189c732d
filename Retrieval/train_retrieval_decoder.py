"""Train the retrieval decoder: fMRI to a CLIP embedding that finds its clip.

Learns   fMRI (B, 4500), 10 % of it newly set to zero in every epoch -> embedding (B, 512)
         compared with CLIP features of a crop of the middle frame (B, 512): MSE; with these and with CLIP features of
         an augmented caption (B, 512): contrastive loss
Reads    fMRI_in_fslr/sub{ID}/Train/masked4500_trn_data.npy     (N, 4500)
         captions/Train_captions_new.h5, stimuli_frames/Train/  N captions, N clips
         features/Train_{text,img}_embeddings_CLIP_512.npy      (N, 512)
Writes   checkpoints/sub{ID}/{arm}/retrieval/              epoch_{n}, last, best (.safetensors and .json), log.jsonl
         checkpoints/sub{ID}/{arm}/figures/retrieval_loss.png

    python Retrieval/train_retrieval_decoder.py --dataset phantom --image_aug off
    python Retrieval/train_retrieval_decoder.py --dataset CC2017 --subj_ID 1

The authors' own training code is lost: the loss is the contrastive one of the semantic decoder plus the squared error
to CLIP's image embedding, optimiser and augmentation are the semantic decoder's.
"""

from common import cli
from common.datasets import get_dataset
from common.layout import Layout
from common.model_sources import model_path
from Feature_decoding.contrastive import ContrastiveTask, add_contrastive_flags
from Feature_decoding.plan import build_model, get_training_parser, load_training_fmri, make_plan
from Feature_decoding.training import Trainer, exponential_lr, make_adam
from models.losses import retrieval_loss
from models.retrieval_decoder import RetrievalDecoder

RELEASED_EPOCHS = (20, 40)  # of the released weights: subject 2, subjects 1 and 3

# ---------------------------------------------------------------------------------------------- what it learns


class RetrievalTask(ContrastiveTask):
    def forward(self, model, batch):
        return {"embedding": model(batch["fmri"])}, self.targets(batch)  # (B, V) -> (B, 512)

    def loss(self, model, outputs, targets, epoch):
        return retrieval_loss(outputs["embedding"], targets["text"], targets["image"], model.logit_scale, self.alpha)


# ---------------------------------------------------------------------------------------------- the script


def get_parser():
    parser = get_training_parser(__doc__, epoch=100, lr=2e-4, models=("clip",))
    parser.add_argument_group("model").add_argument("--n_blocks", type=cli.whole(0), default=2, help="number of residual blocks")
    add_contrastive_flags(parser.add_argument_group("loss"))
    return parser


def main(args):
    dataset, layout, plan = get_dataset(args.dataset), Layout.of(args), make_plan(args, "retrieval", further_epochs=RELEASED_EPOCHS)
    targets = [layout.text_embeddings_clip("train"), layout.image_embeddings_clip("train"), layout.captions("train")]
    with plan.working(args, targets) as record:
        if record is None:
            return
        fmri = load_training_fmri(args)  # (N, V)
        task = RetrievalTask(
            layout, dataset, fmri, n_train=len(plan.train_clips), n_epochs=args.epoch, seed=args.seed, alpha=args.alpha,
            crop_frames=args.image_aug == "on", clip_path=model_path(args, "clip"),
        )  # fmt: skip
        width = task.stored["text"].shape[1]
        model = build_model(RetrievalDecoder, args.seed, in_dim=fmri.shape[1], hidden_dim=width, n_blocks=args.n_blocks)
        Trainer(plan, record, model, task, make_adam(model, args.lr), exponential_lr(args.lr)).fit()


if __name__ == "__main__":
    cli.run(main, get_parser)
