"""Train the semantic decoder: fMRI to CLIP's text embedding and to Stable Diffusion's text tokens.

Reads    fMRI_in_fslr/sub{ID}/Train/masked4500_trn_data.npy, captions/Train_captions_new.h5, stimuli_frames/Train/,
         features/Train_{text_embeddings_SD,text_embeddings_CLIP_512,img_embeddings_CLIP_512}.npy
Writes   checkpoints/sub{ID}/{arm}/semantic/               epoch_{n}, last, best (.safetensors and .json), log.jsonl
         checkpoints/sub{ID}/{arm}/figures/semantic_loss.png

    python Feature_decoding/train_semantic_decoder.py --dataset phantom --config configs/phantom.yaml
    python Feature_decoding/train_semantic_decoder.py --dataset CC2017 --subj_ID 1 --sd_path stable-diffusion-v1-5/stable-diffusion-v1-5

About half a minute for the phantom on one CPU thread. CC2017 needs a GPU: every epoch, captions and frames are
augmented and encoded anew (--image_aug off spares the frames, --num_workers reads them ahead).
"""

from common import cli
from Feature_decoding.contrastive import ContrastiveTask, add_contrastive_flags
from common.layout import Layout
from Feature_decoding.training import Run, Trainer, exponential_lr, get_training_parser, make_adam
from models.losses import semantic_loss
from models.semantic_decoder import SemanticDecoder

# ---------------------------------------------------------------------------------------------- what it learns


class SemanticTask(ContrastiveTask):
    def forward(self, model, batch):
        embedding, tokens = model(batch["fmri"])
        return {"embedding": embedding, "tokens": tokens}, self.targets(batch)

    def loss(self, model, outputs, targets, epoch):
        return semantic_loss(
            outputs["embedding"], outputs["tokens"], targets["text"], targets["image"], targets["tokens"], model.logit_scale,
            k1=self.args.k1, k2=self.args.k2, alpha=self.args.alpha,
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------- the script


def get_parser():
    parser = get_training_parser(__doc__, epoch=100, lr=2e-4, models=("sd", "clip"))
    group = parser.add_argument_group("model")
    group.add_argument("--n_blocks", type=int, default=3, help="residual blocks")
    group.add_argument("--projector_dims", type=cli.one_or_more, nargs="+", default=[2048, 4096], help="hidden widths of the token projector")
    group = parser.add_argument_group("loss")
    group.add_argument("--k1", type=float, default=0.01, help="weight of the contrastive loss")
    group.add_argument("--k2", type=float, default=0.5, help="weight of the token loss")
    add_contrastive_flags(group)
    return parser


def main(args):
    layout = Layout.of(args)
    features = [layout.text_embeddings_sd("train"), layout.text_embeddings_clip("train"), layout.image_embeddings_clip("train")]
    run = Run(args, "semantic", [*features, layout.captions("train")])
    if run.is_done():
        return
    fmri = run.load_fmri()
    task = SemanticTask(run, fmri, sd_tokens=True)
    model = run.build(
        SemanticDecoder, in_dim=fmri.shape[1], hidden_dim=task.width("text"), n_blocks=args.n_blocks,
        n_tokens=task.n_tokens - 1, token_dim=task.width("tokens"), projector_dims=args.projector_dims,
    )  # fmt: skip
    Trainer(run, model, task, make_adam(model, args.lr), exponential_lr(args.lr)).fit()


if __name__ == "__main__":
    cli.run(main, get_parser)
