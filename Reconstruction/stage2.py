"""Stage 2 from the command line: its flags, the pipeline that they ask for, the noise of a clip, and clips in batches.

The recipe itself is models.pipeline.render.
"""

import argparse
import logging
import sys
import time

import numpy as np
import torch
from tqdm import tqdm

from common import cli
from common.files import UserError
from common.randomness import torch_generator
from common.readers import format_clips
from models.loading import check_sd, load_sd_part
from models.pipeline import InflatedSDPipeline, check_steps, make_scheduler
from models.precision import allow_tf32

log = logging.getLogger(__name__)

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# of --preset: what differs from the paper's recipe, which the defaults are; benchmarks/sampling.py compares them
PRESETS = {"paper": {}, "fast": {"scheduler": "dpmsolver++", "steps": 20, "inversion_steps": 10}}


class _Preset(argparse.Action):
    """Sets all flags of its group; a flag that comes later on the command line overrules it."""

    def __call__(self, parser, namespace, value, option_string=None):
        for action in self.container._group_actions:
            setattr(namespace, action.dest, PRESETS[value].get(action.dest, action.default))
        setattr(namespace, self.dest, value)


def add_stage2_flags(parser):
    """Add the flags of stage 2: what it computes, and how fast and in how much memory."""
    group = parser.add_argument_group("stage 2")
    group.add_argument(
        "--preset", action=_Preset, choices=list(PRESETS), changes_result=False,
        help="the paper's recipe or a fast one, in place of all flags of this group before it (default: what the flags say)",
    )  # fmt: skip
    group.add_argument(
        "--scheduler", choices=["ddim", "dpmsolver++"], default="ddim", help="solver of the denoising; the inversion is DDIM's"
    )
    group.add_argument("--steps", type=cli.whole(1, 999), default=50, help="steps of the whole grid, for inversion and denoising")
    group.add_argument(
        "--inversion_steps", type=cli.whole(1, 999), help="steps of the inversion, spread over those that are used (default: all of them)"
    )
    group.add_argument("--guidance", type=cli.real(0, 1000), default=12.5, help="guidance scale")
    group.add_argument(
        "--guidance_interval", type=cli.whole(0, 999), nargs=2, metavar=("LOW", "HIGH"), help="steps with guidance (default: all)"
    )
    group.add_argument(
        "--deep_every", type=cli.whole(1, 999), default=1, help="number of steps of which one computes the UNet's deep blocks"
    )
    group.add_argument("--no_inversion", action="store_true", help="no inversion: noise added to the decoded latents themselves")
    group.add_argument("--noise_timestep", type=cli.whole(0, 999), default=200, help="level of the added noise, 0 to 999")
    group.add_argument(
        "--start_timestep", type=cli.whole(1, 999), help="highest step of the grid that is used (default: all, from 981 for 50 steps)"
    )
    group.add_argument("--noise_shared", action="store_true", help="one noise frame for all frames of a clip")

    group = parser.add_argument_group("memory and speed")
    group.add_argument("--batch_size", type=cli.one_or_more, default=1, changes_result=False, help="clips per UNet call")
    group.add_argument("--precision", choices=list(PRECISIONS), default="fp32", help="number format of Stable Diffusion's weights")
    group.add_argument("--tf32", action="store_true", help="TensorFloat-32 in products of float32, on a GPU: faster, less precise")
    for flag, what in (
        ("--channels_last", "memory format of the convolutions with channels last"),
        ("--compile", "torch.compile of the UNet; the first call takes longer"),
        ("--vae_slicing", "decoding of one frame at a time"),
        ("--attention_slicing", "cross-attention in slices"),
        ("--cpu_offload", "only the model that is at work on the GPU, the others in main memory"),
    ):
        group.add_argument(flag, action="store_true", changes_result=False, help=what)


def render_options(args):
    """Keyword arguments of models.pipeline.render that the flags stand for."""
    return {
        "n_steps": args.steps, "guidance": args.guidance, "noise_timestep": args.noise_timestep,
        "start_timestep": args.start_timestep, "inversion": not args.no_inversion, "inversion_steps": args.inversion_steps,
        "guidance_interval": args.guidance_interval, "deep_every": args.deep_every,
    }  # fmt: skip


def pipeline_options(args):
    """Keyword arguments of `load_pipeline` that the flags stand for."""
    names = ("scheduler", "precision", "tf32", "channels_last", "vae_slicing", "attention_slicing", "cpu_offload")
    return {name: getattr(args, name) for name in names} | {"compiled": args.compile}


def load_sd_config(sd_path, args):
    """Configuration of Stable Diffusion's UNet; a UserError for parts that do not fit each other or the flags."""
    configs = check_sd(sd_path)
    try:
        check_steps(
            configs["scheduler"], args.steps, args.noise_timestep, args.start_timestep, args.inversion_steps, args.guidance_interval
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"--sd_path {sd_path}, scheduler: {error}") from None
    return configs["unet"]


def load_pipeline(
    path, device, *, scheduler="ddim", precision="fp32", tf32=False, channels_last=False, compiled=False, vae_slicing=False,
    attention_slicing=False, cpu_offload=False,
):  # fmt: skip
    """InflatedSDPipeline of a Stable Diffusion folder or hub id; the options are the flags above."""
    parts = {part: load_sd_part(path, part, PRECISIONS[precision]) for part in ("vae", "text_encoder", "unet")}
    scheduler = make_scheduler(scheduler, load_sd_part(path, "scheduler").config)
    pipe = InflatedSDPipeline(tokenizer=load_sd_part(path, "tokenizer"), scheduler=scheduler, **parts)
    allow_tf32(tf32)
    pipe.set_progress_bar_config(leave=False, disable=not sys.stderr.isatty())
    if cpu_offload:
        if device.type == "cpu":
            raise UserError("--cpu_offload moves models between a GPU and main memory, and there is no GPU; leave the flag out")
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
    if channels_last:
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    if vae_slicing:
        pipe.vae.enable_slicing()
    if attention_slicing:
        pipe.enable_attention_slicing()
    if compiled:
        pipe.unet.compile()
    return pipe


def clip_noise(seed, clip, shape, shared=False, sample=1):
    """Noise of one clip, (C, F or 1, h, w) float32, the same whichever other clips are made.

    Parameters
    ----------
    shape : tuple
        (C, F, h, w)
    shared : bool
        one noise frame for all frames
    sample : int
        which of a clip's noises, from 1
    """
    channels, n_frames, height, width = shape
    which = (seed, "noise", clip) if sample == 1 else (seed, "noise", clip, sample)
    return torch.randn(channels, 1 if shared else n_frames, height, width, generator=torch_generator(*which))


def render_batches(batches, make, worked=False, debug=False):
    """Frames of clips, batch by batch.

    A batch that fails is tried again clip by clip, so that one clip costs no other; when nothing of the first one works,
    nothing else will, which is a UserError.

    Parameters
    ----------
    batches : list of lists of int
    make : function of a list of clips -> list of (frames, stage1 or None)
    worked : bool
        whether any clip has been made before
    debug : bool
        show the traceback of what fails

    Yields
    ------
    seconds : float
        per clip
    made, failed : dict
        clip -> (frames, stage1), and clip -> reason
    """

    def attempt(batch):
        try:
            return dict(zip(batch, make(batch), strict=True)), {}
        except Exception as error:  # whatever it is, the other clips go on
            if cli.lacks_memory(error):  # which they would meet as well
                raise
            if debug:
                log.exception("clips %s", format_clips(batch))
            if len(batch) == 1:
                return {}, {batch[0]: cli.one_line(error)}
            log.warning("clips %s: %s; tried again one by one", format_clips(batch), cli.one_line(error))
            made, failed = zip(*(attempt([clip]) for clip in batch), strict=True)
            return {clip: result for part in made for clip, result in part.items()}, {
                clip: why for part in failed for clip, why in part.items()
            }

    failed = {}
    for batch in tqdm(batches, desc="stage 2", unit="batch"):
        if failed and not worked:
            clips, reason = format_clips(failed), next(iter(failed.values()))
            raise UserError(f"none of the first clips ({clips}) could be reconstructed: {reason}; use --debug to see the traceback")
        began = time.time()
        made, failed = attempt(batch)
        failed |= {clip: "frames that are not finite numbers" for clip, (frames, _) in made.items() if not np.isfinite(frames).all()}
        made = {clip: result for clip, result in made.items() if clip not in failed}
        worked = worked or bool(made)
        yield (time.time() - began) / len(batch), made, failed
