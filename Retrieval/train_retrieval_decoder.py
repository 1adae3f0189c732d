"""Train the retrieval decoder: fMRI to a CLIP embedding that finds its clip.

Reads    fMRI_in_fslr/sub{ID}/Train/masked4500_trn_data.npy, captions/Train_captions_new.h5, stimuli_frames/Train/,
         features/Train_{text_embeddings_CLIP_512,img_embeddings_CLIP_512}.npy
Writes   checkpoints/sub{ID}/{arm}/retrieval/              epoch_{n}, last, best (.safetensors and .json), log.jsonl
         checkpoints/sub{ID}/{arm}/figures/retrieval_loss.png

    python Retrieval/train_retrieval_decoder.py --dataset phantom --image_aug off
    python Retrieval/train_retrieval_decoder.py --dataset CC2017 --subj_ID 1

The authors' own training code is lost: the loss is the contrastive one of the semantic decoder plus the squared error
to CLIP's image embedding, optimiser and augmentation are the semantic decoder's.
"""

from common import cli
from Feature_decoding.contrastive import ContrastiveTask, add_contrastive_flags
from common.layout import Layout
from Feature_decoding.training import Run, Trainer, exponential_lr, get_training_parser, make_adam
from models.losses import retrieval_loss
from models.retrieval_decoder import RetrievalDecoder

RELEASED_EPOCHS = (20, 40)  # of the released weights: subject 2, subjects 1 and 3

# ---------------------------------------------------------------------------------------------- what it learns


class RetrievalTask(ContrastiveTask):
    def forward(self, model, batch):
        return {"embedding": model(batch["fmri"])}, self.targets(batch)

    def loss(self, model, outputs, targets, epoch):
        return retrieval_loss(outputs["embedding"], targets["text"], targets["image"], model.logit_scale, self.args.alpha)


# ---------------------------------------------------------------------------------------------- the script


def get_parser():
    parser = get_training_parser(__doc__, epoch=100, lr=2e-4)
    parser.add_argument_group("model").add_argument("--n_blocks", type=int, default=2, help="residual blocks")
    add_contrastive_flags(parser.add_argument_group("loss"))
    return parser


def main(args):
    layout = Layout.of(args)
    features = [layout.text_embeddings_clip("train"), layout.image_embeddings_clip("train"), layout.captions("train")]
    run = Run(args, "retrieval", features, kept_epochs=RELEASED_EPOCHS)
    if run.is_done():
        return
    fmri = run.load_fmri()
    task = RetrievalTask(run, fmri)
    model = run.build(RetrievalDecoder, in_dim=fmri.shape[1], hidden_dim=task.width("text"), n_blocks=args.n_blocks)
    Trainer(run, model, task, make_adam(model, args.lr), exponential_lr(args.lr)).fit()


if __name__ == "__main__":
    cli.run(main, get_parser)
