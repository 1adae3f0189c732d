"""Train the Consistency Motion Generator: fMRI and the latent frames so far to the next latent frame.

Learns   fMRI (B, 4500) and latent frames 0 to 6 (B, 7, 16384), each a whole 4 x 64 x 64 latent -> frames (B, 7, 16384)
         compared with latent frames 1 to 7 (B, 7, 16384): MSE + w * sum |weights|. With --patch_size 4 or 8, frames
         are (B, 7, 4, 64, 64)
Reads    fMRI_in_fslr/sub{ID}/Train/masked4500_trn_data.npy     (N, 4500)
         features/Train_contents.npy                            (N, 4, 8, 64, 64), channels before frames
Writes   checkpoints/sub{ID}/{arm}/CMG/                    epoch_{n}, last, best (.safetensors and .json), log.jsonl
         checkpoints/sub{ID}/{arm}/figures/CMG_loss.png

    python Feature_decoding/train_CMG.py --dataset phantom
    python Feature_decoding/train_CMG.py --dataset CC2017 --subj_ID 1 --mask_ratio 0.6

Trained with the true earlier frames, validated by generating all frames from the true first one: the first loss says
little about motion. About a minute for the phantom on one CPU thread; CC2017's model has 335 M parameters and 4 GB of training state,
which is written as often as takes a tenth of the time.
"""

import math

import torch
from einops import rearrange
from torch.nn import functional as F

from common import cli
from common.files import UserError, load_array
from common.layout import Layout
from common.randomness import torch_generator
from Feature_decoding.plan import build_model, get_training_parser, load_training_fmri, make_plan
from Feature_decoding.training import Task, Trainer, make_adam
from models.cmg import ConsistencyMotionGenerator, sparse_causal_mask
from models.cmg_patch import PatchCMG
from models.losses import structure_loss
from models.schedules import compounding_decay, noam_lr

L1_DECAY = 1e-3
BETAS, EPS = (0.9, 0.98), 1e-9  # of Adam, with the Noam schedule

# ---------------------------------------------------------------------------------------------- what it learns


class MotionTask(Task):
    """fMRI and earlier latent frames to the next ones.

    Parameters
    ----------
    fmri : tensor, shape (N, V), float32
    contents : array, shape (N, C, F, H, W)
        latents; may be a memory map
    whole_frames : bool
        whether a token is a whole frame, so that frames are vectors; else they stay (C, H, W)
    keep_ratio : float
        chance that an earlier frame is visible in training
    new_masks : bool
        draw a mask for every clip and epoch, rather than one for all
    visibility : str
        "released" or "causal": what later frames see in validation
    l1_weight : array, shape (epochs + 1,)
        weight of the L1 norm in each epoch
    """

    def __init__(self, fmri, contents, *, whole_frames, keep_ratio, new_masks, visibility, l1_weight, seed):
        self.fmri, self.contents, self.whole_frames = fmri, contents, whole_frames
        self.keep_ratio, self.new_masks, self.visibility, self.l1_weight, self.seed = keep_ratio, new_masks, visibility, l1_weight, seed

    def mask(self, clip, epoch):
        """Which frames see which, (1, F - 1, F - 1) bool."""
        key = ("mask", epoch, clip) if self.new_masks else ("mask",)
        return sparse_causal_mask(self.contents.shape[2] - 1, self.keep_ratio, torch_generator(self.seed, *key))

    def load(self, clips, epoch):
        frames = torch.from_numpy(self.contents[clips]).float()
        frames = rearrange(frames, "b c f h w -> b f (c h w)" if self.whole_frames else "b c f h w -> b f c h w")
        batch = {"fmri": self.fmri[clips], "frames": frames}
        if epoch is not None:
            batch["mask"] = torch.cat([self.mask(clip, epoch) for clip in clips])
        return batch

    def forward(self, model, batch):
        before, after = batch["frames"][:, :-1], batch["frames"][:, 1:]  # frames 0 to 6, 1 to 7
        return {"frames": model(batch["fmri"], before, batch["mask"])}, {"frames": after}

    def loss(self, model, outputs, targets, epoch):
        return structure_loss(outputs["frames"], targets["frames"], model.parameters(), self.l1_weight[epoch])

    def validate(self, model, batch):
        frames = batch["frames"]
        how = {"visibility": self.visibility} if self.whole_frames else {}
        mse = F.mse_loss(model.generate(batch["fmri"], frames[:, 0], frames.shape[1], **how)[:, 1:], frames[:, 1:])
        return mse, {"mse": mse}


def build_cmg(args, in_dim, n_frames, frame_shape, whole_frames):
    """The CMG whose token is a whole frame, or the patch CMG; `frame_shape` is (channels, height, width) of a latent frame."""
    channels, height, width = frame_shape
    n_heads = args.n_heads or (4 if whole_frames else 8)
    attn_dim, flag = (args.attn_dim, "--attn_dim") if whole_frames else (args.hidden_dim, "--hidden_dim")
    if attn_dim % n_heads:
        raise UserError(f"--n_heads {n_heads} does not divide {flag} {attn_dim}; use another number of heads")
    if whole_frames:
        return build_model(
            ConsistencyMotionGenerator, args.seed, in_dim=in_dim, d_model=math.prod(frame_shape), n_layers=args.N or 2, n_heads=n_heads,
            attn_dim=args.attn_dim, d_ff=args.d_ff, encoder_dim=args.encoder_dim, encoder_blocks=args.n_blocks, dropout=args.dropout,
        )  # fmt: skip
    if height != width or height % int(args.patch_size):
        raise UserError(f"--patch_size {args.patch_size} does not divide latents of {height} x {width}; use another size, or whole")
    if args.hidden_dim % 4:
        raise UserError(f"--hidden_dim {args.hidden_dim} is not a multiple of 4, as the position code needs; use another width")
    return build_model(
        PatchCMG, args.seed, input_size=height, patch_size=int(args.patch_size), in_channels=channels, in_dim=in_dim,
        hidden_dim=args.hidden_dim, depth=args.N or 4, n_heads=n_heads, n_frames=n_frames - 1,
    )  # fmt: skip


def get_parser():
    parser = get_training_parser(__doc__, epoch=300, lr=None)
    group = parser.add_argument_group("model")
    group.add_argument(
        "--patch_size", default="whole", choices=["whole", "64", "8", "4"], help="side of a token: a whole latent frame, or a patch"
    )
    group.add_argument("--N", "--n_layers", dest="N", type=cli.whole(1, 100), help="number of layers (default: 2; patch CMG: 4)")
    group.add_argument("--n_heads", type=cli.whole(1, 1024), help="number of attention heads (default: 4; patch CMG: 8)")
    group.add_argument(
        "--d_model", type=cli.one_or_more, changes_result=False, help="size of a latent frame; follows from the data, checked when given"
    )
    group.add_argument("--attn_dim", type=cli.width, default=1024, help="width of the attention")
    group.add_argument("--d_ff", type=cli.width, default=768, help="width of the feed-forward layers")
    group.add_argument("--encoder_dim", type=cli.width, default=768, help="width of the fMRI encoder")
    group.add_argument("--n_blocks", type=cli.whole(0, 100), default=1, help="number of residual blocks in the fMRI encoder")
    group.add_argument("--dropout", type=cli.real(0, below=1), default=0.2, help="probability that a unit is dropped in training")
    group.add_argument("--hidden_dim", type=cli.width, default=512, help="width of the patch CMG")
    group = parser.add_argument_group("masks")
    group.add_argument(
        "--mask_ratio", "--keep_ratio", dest="mask_ratio", type=cli.real(0, 1), default=0.6,
        help="probability that an earlier frame stays visible in training",
    )  # fmt: skip
    schedules, views = ["random", "fixed"], ["released", "causal"]
    group.add_argument(
        "--mask_schedule", choices=schedules, default="random", help="masks: new for every clip and epoch, or one (released)"
    )
    group.add_argument(
        "--visibility", choices=views, default="released", help="frames that later ones see in validation: the first, or all before"
    )
    group = parser.add_argument_group("schedule and loss")
    group.add_argument("--warm_up", type=cli.one_or_more, default=50, help="optimiser steps of rising learning rate")
    group.add_argument("--lr_scale", type=cli.real(above=0), default=1.0, help="factor on the Noam schedule")
    group.add_argument(
        "--w", "--l1_weight", dest="w", type=cli.real(0), default=6e-7, help="first weight of the L1 norm; after epoch e times exp(-1e-3 e)"
    )
    return parser


def main(args):
    layout, plan = Layout.of(args), make_plan(args, "CMG")
    with plan.working(args, [layout.contents("train")]) as record:
        if record is None:
            return
        fmri = load_training_fmri(args)  # (N, V)
        contents = load_array(
            layout.contents("train"), shape=(len(fmri), *[None] * 4), mmap=True, do="run content_feature_extraction again"
        )
        channels, n_frames, *hw = contents.shape[1:]
        d_model = math.prod((channels, *hw))
        if args.d_model not in (None, d_model):
            raise UserError(f"--d_model {args.d_model} is not the size of a latent frame, {d_model}; leave it out")
        whole_frames = args.patch_size == "whole" or int(args.patch_size) == hw[0]
        model = build_cmg(args, fmri.shape[1], n_frames, (channels, *hw), whole_frames)
        task = MotionTask(
            fmri, contents, whole_frames=whole_frames, keep_ratio=args.mask_ratio, new_masks=args.mask_schedule == "random",
            visibility=args.visibility, l1_weight=compounding_decay(args.w, L1_DECAY, args.epoch), seed=args.seed,
        )  # fmt: skip

        def learning_rate(step, epoch):
            return args.lr_scale * noam_lr(step, d_model, args.warm_up)

        Trainer(plan, record, model, task, make_adam(model, learning_rate(1, 1), betas=BETAS, eps=EPS), learning_rate).fit()


if __name__ == "__main__":
    cli.run(main, get_parser)
