"""Train the Consistency Motion Generator: fMRI and the latent frames so far to the next latent frame.

Reads    fMRI_in_fslr/sub{ID}/Train/masked4500_trn_data.npy, features/Train_contents.npy
Writes   checkpoints/sub{ID}/{arm}/CMG/                    epoch_{n}, last, best (.safetensors and .json), log.jsonl
         checkpoints/sub{ID}/{arm}/figures/CMG_loss.png

    python Feature_decoding/train_CMG.py --dataset phantom --config configs/phantom.yaml
    python Feature_decoding/train_CMG.py --dataset CC2017 --subj_ID 1 --mask_ratio 0.6

Trained with the true earlier frames, validated by generating all frames from the true first one: the first loss says
little about motion. About a minute for the phantom on one CPU thread; CC2017's model has 335 M parameters and writes
4 GB of `last` after every epoch.
"""

import math

import torch
from torch.nn import functional as F

from common import cli
from common.files import UserError, load_array
from common.layout import Layout
from common.randomness import torch_generator
from Feature_decoding.training import Run, Task, Trainer, get_training_parser, make_adam
from models.cmg import ConsistencyMotionGenerator, sparse_causal_mask
from models.cmg_patch import PatchCMG
from models.losses import cmg_loss
from models.schedules import compounding_decay, noam_lr

L1_DECAY = 1e-3
BETAS, EPS = (0.9, 0.98), 1e-9  # of Adam, with the Noam schedule

# ---------------------------------------------------------------------------------------------- what it learns


class MotionTask(Task):
    """Parameters: args; fMRI (N, V); contents (N, C, F, H, W), may be a memory map; flat: frames are vectors (c h w)."""

    def __init__(self, args, fmri, contents, flat):
        self.args, self.fmri, self.contents, self.flat = args, fmri, contents, flat
        self.l1_weight = compounding_decay(args.w, L1_DECAY, args.epoch)

    def mask(self, clip, epoch):
        """Which frames see which, (1, F - 1, F - 1): new for every clip and epoch, or one for the whole run."""
        key = ("mask", epoch, clip) if self.args.mask_schedule == "random" else ("mask",)
        return sparse_causal_mask(self.contents.shape[2] - 1, self.args.mask_ratio, torch_generator(self.args.seed, *key))

    def load(self, clips, epoch):
        frames = torch.from_numpy(self.contents[clips]).float().transpose(1, 2)  # b c f h w -> b f c h w
        batch = {"fmri": self.fmri[clips], "frames": frames.flatten(2) if self.flat else frames}
        if epoch is not None:
            batch["mask"] = torch.cat([self.mask(clip, epoch) for clip in clips])
        return batch

    def forward(self, model, batch):
        return {"frames": model(batch["fmri"], batch["frames"][:, :-1], batch["mask"])}, {"frames": batch["frames"][:, 1:]}

    def loss(self, model, outputs, targets, epoch):
        return cmg_loss(outputs["frames"], targets["frames"], model.parameters(), self.l1_weight[epoch])

    def validate(self, model, batch):
        frames = batch["frames"]
        how = {"visibility": self.args.visibility} if self.flat else {}
        mse = F.mse_loss(model.generate(batch["fmri"], frames[:, 0], frames.shape[1], **how)[:, 1:], frames[:, 1:])
        return mse, {"mse": mse}


def build_model(run, in_dim, n_frames, frame_shape):
    """The CMG whose token is a whole frame, or for a smaller --patch_size the patch CMG."""
    args, (channels, side, width) = run.args, frame_shape
    if is_whole(args.patch_size, side):
        return run.build(
            ConsistencyMotionGenerator, in_dim=in_dim, d_model=math.prod(frame_shape), n_layers=args.N or 2, n_heads=args.n_heads or 4,
            attn_dim=args.attn_dim, d_ff=args.d_ff, encoder_dim=args.encoder_dim, encoder_blocks=args.n_blocks, dropout=args.dropout,
        )  # fmt: skip
    if side != width or side % int(args.patch_size):
        raise UserError("--patch_size", f"a divisor of {side} x {width} latents", args.patch_size, "give another patch size, or whole")
    return run.build(
        PatchCMG, input_size=side, patch_size=int(args.patch_size), in_channels=channels, in_dim=in_dim, hidden_dim=args.hidden_dim,
        depth=args.N or 4, n_heads=args.n_heads or 8, n_frames=n_frames - 1,
    )  # fmt: skip


def is_whole(patch_size, side):
    """True when a token is a whole frame."""
    return patch_size == "whole" or int(patch_size) == side


# ---------------------------------------------------------------------------------------------- the script


def get_parser():
    parser = get_training_parser(__doc__, epoch=300, lr=None)
    group = parser.add_argument_group("model")
    group.add_argument("--patch_size", default="whole", choices=["whole", "64", "8", "4"], help="a token: a latent frame or a patch of it")
    group.add_argument("--N", type=cli.one_or_more, help="layers (default: 2; patches 4)")
    group.add_argument("--n_heads", type=cli.one_or_more, help="attention heads (default: 4; patches 8)")
    group.add_argument("--d_model", type=int, help="size of a latent frame; follows from the data, and is checked when given")
    group.add_argument("--attn_dim", type=cli.one_or_more, default=1024, help="width of the attention")
    group.add_argument("--d_ff", type=cli.one_or_more, default=768, help="width of the feed-forward layers")
    group.add_argument("--encoder_dim", type=cli.one_or_more, default=768, help="width of the fMRI encoder")
    group.add_argument("--n_blocks", type=int, default=1, help="residual blocks of the fMRI encoder")
    group.add_argument("--dropout", type=float, default=0.2, help="chance that a unit is dropped in training")
    group.add_argument("--hidden_dim", type=cli.one_or_more, default=512, help="width of the patch CMG")
    group = parser.add_argument_group("masks")
    group.add_argument("--mask_ratio", type=float, default=0.6, help="chance that an earlier frame is kept visible in training")
    schedules, views = ["random", "fixed"], ["released", "causal"]
    group.add_argument("--mask_schedule", choices=schedules, default="random", help="a new mask per clip and epoch, or (released) one")
    group.add_argument("--visibility", choices=views, default="released", help="validation: later frames see the first, or all before")
    group = parser.add_argument_group("schedule and loss")
    group.add_argument("--warm_up", type=int, default=50, help="optimiser steps of rising learning rate")
    group.add_argument("--lr_scale", type=float, default=1.0, help="factor on the Noam schedule")
    group.add_argument("--w", type=float, default=6e-7, help="first weight of the L1 norm; after epoch e times exp(-1e-3 e)")
    return parser


def main(args):
    layout = Layout.of(args)
    run = Run(args, "CMG", [layout.contents("train")])
    if run.is_done():
        return
    fmri = run.load_fmri()
    contents = load_array(layout.contents("train"), shape=(len(fmri), *[None] * 4), mmap=True, do="run content_feature_extraction")
    channels, n_frames, *hw = contents.shape[1:]
    d_model = math.prod((channels, *hw))
    if args.d_model not in (None, d_model):
        raise UserError("--d_model", f"{d_model}, the size of a latent frame in {layout.contents('train')}", args.d_model, "leave it out")
    model = build_model(run, fmri.shape[1], n_frames, (channels, *hw))
    task = MotionTask(args, fmri, contents, is_whole(args.patch_size, hw[0]))

    def learning_rate(step, epoch):
        return args.lr_scale * noam_lr(step, d_model, args.warm_up)

    Trainer(run, model, task, make_adam(model, learning_rate(1, 1), betas=BETAS, eps=EPS), learning_rate).fit()


if __name__ == "__main__":
    cli.run(main, get_parser)
