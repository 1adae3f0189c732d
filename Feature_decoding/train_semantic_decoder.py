"""Train the semantic decoder: fMRI to CLIP's text embedding and to Stable Diffusion's text tokens.

Learns   fMRI (B, 4500), 10 % of it newly set to zero in every epoch -> embedding (B, 512) and tokens (B, 19, 768)
         embedding compared with CLIP features of an augmented caption (B, 512): MSE, and k1 * contrastive loss with
         these and with CLIP features of a crop of the middle frame (B, 512)
         tokens compared with Stable Diffusion's of the same caption, without the start token (B, 19, 768): k2 * MSE
Reads    fMRI_in_fslr/sub{ID}/Train/masked4500_trn_data.npy     (N, 4500)
         captions/Train_captions_new.h5, stimuli_frames/Train/  N captions, N clips
         features/Train_{text,img}_embeddings_CLIP_512.npy      (N, 512)
         features/Train_text_embeddings_SD.npy                  (N, 20, 768)
Writes   checkpoints/sub{ID}/{arm}/semantic/               epoch_{n}, last, best (.safetensors and .json), log.jsonl
         checkpoints/sub{ID}/{arm}/figures/semantic_loss.png

    python Feature_decoding/train_semantic_decoder.py --dataset phantom
    python Feature_decoding/train_semantic_decoder.py --dataset CC2017 --subj_ID 1 --sd_path stable-diffusion-v1-5/stable-diffusion-v1-5

About half a minute for the phantom on one CPU thread. CC2017 needs a GPU: every epoch, captions and frames are
augmented and encoded again (--image_aug off spares the frames, --num_workers reads them ahead).
"""

from common import cli
from common.datasets import get_dataset
from common.layout import Layout
from common.model_sources import model_path
from Feature_decoding.contrastive import ContrastiveTask, add_contrastive_flags
from Feature_decoding.plan import build_model, get_training_parser, load_training_fmri, make_plan
from Feature_decoding.training import Trainer, exponential_lr, make_adam
from models.loading import model_files
from models.losses import semantic_loss
from models.semantic_decoder import SemanticDecoder


class SemanticTask(ContrastiveTask):
    """fMRI to CLIP embedding and tokens; k1, k2 : float, weights of the contrastive and of the token loss."""

    def __init__(self, *data, k1, k2, **options):
        super().__init__(*data, **options)
        self.k1, self.k2 = k1, k2

    def forward(self, model, batch):
        embedding, tokens = model(batch["fmri"])  # (B, V) -> (B, 512), (B, 19, 768)
        return {"embedding": embedding, "tokens": tokens}, self.targets(batch)

    def loss(self, model, outputs, targets, epoch):
        return semantic_loss(
            outputs["embedding"], outputs["tokens"], targets["text"], targets["image"], targets["tokens"], model.logit_scale,
            k1=self.k1, k2=self.k2, alpha=self.alpha,
        )  # fmt: skip


def get_parser():
    parser = get_training_parser(__doc__, epoch=100, lr=2e-4, models=("sd", "clip"))
    group = parser.add_argument_group("model")
    group.add_argument("--n_blocks", type=cli.whole(0, 100), default=3, help="number of residual blocks")
    group.add_argument("--projector_dims", type=cli.width, nargs="+", default=[2048, 4096], help="hidden widths of the token projector")
    group = parser.add_argument_group("loss")
    group.add_argument("--k1", "--contrastive_weight", dest="k1", type=cli.real(0), default=0.01, help="weight of the contrastive loss")
    group.add_argument("--k2", "--token_weight", dest="k2", type=cli.real(0), default=0.5, help="weight of the token loss")
    add_contrastive_flags(group)
    return parser


def main(args):
    dataset, layout, plan = get_dataset(args.dataset), Layout.of(args), make_plan(args, "semantic")
    features = [layout.text_embeddings_sd("train"), layout.text_embeddings_clip("train"), layout.image_embeddings_clip("train")]
    encoders = [*model_files(model_path(args, "clip")), *model_files(model_path(args, "sd"), "text_encoder", "tokenizer")]
    with plan.working(args, [*features, layout.captions("train"), *encoders]) as record:
        if record is None:
            return
        fmri = load_training_fmri(args)  # (N, V)
        task = SemanticTask(
            layout, dataset, fmri, n_train=len(plan.train_clips), n_epochs=args.epoch, seed=args.seed, alpha=args.alpha,
            crop_frames=args.image_aug == "on", clip_path=model_path(args, "clip"), sd_path=model_path(args, "sd"), k1=args.k1, k2=args.k2,
        )  # fmt: skip
        _, n_tokens, token_dim = task.stored["tokens"].shape
        model = build_model(
            SemanticDecoder, args.seed, in_dim=fmri.shape[1], hidden_dim=task.stored["text"].shape[1], n_blocks=args.n_blocks,
            n_tokens=n_tokens, token_dim=token_dim, projector_dims=args.projector_dims,
        )  # fmt: skip
        Trainer(plan, record, model, task, make_adam(model, args.lr), exponential_lr(args.lr)).fit()


if __name__ == "__main__":
    cli.run(main, get_parser)
