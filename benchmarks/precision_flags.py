"""Frames and seconds of stage 2 with --compile, --channels_last and --precision bf16 against plain fp32.

The phantom's generator (phantom/models/sd) makes clips of random phantom scenes from their own VAE latents and captions,
once with the phantom's profile (configs/phantom.yaml) and once with the released recipe (inversion, from 981). Every batch
goes through all settings in turn, so that what else the machine does disturbs them alike; the first batch, which compiles
and builds kernels, is timed apart. The bars, on the phantom's profile, are frames in 0...1 that are equal to 1e-4 (compile,
channels last) and a PSNR of 30 dB or more of every clip (bf16); exit status 1 when one is missed. No bar for the time,
which depends on the machine.

The released recipe is shown without a bar: guidance of 12.5 from the highest noise down amplifies rounding, so that for a few
clips plain fp32 is as far from a UNet in fp64, which is shown as well, as from the other settings.

Reads    the phantom's generator and profile
Writes   nothing; prints a table

    python benchmarks/precision_flags.py
    python benchmarks/precision_flags.py --clips 2 --batch_size 1 --recipes phantom

About 7 min of one core, 1.3 GB.
"""

import sys
import time
from statistics import median

import numpy as np
import torch
from tqdm import tqdm

from common import cli
from models.encoders import N_TOKENS
from models.pipeline import encode_prompts, render
from phantom.perfect_decoding import decode_perfectly
from Reconstruction import video_recons
from Reconstruction.stage2 import clip_noise, load_pipeline, pipeline_options, render_options

SD = cli.PROJECT / "phantom" / "models" / "sd"
RECIPES = {"phantom": [], "released": ["--preset", "paper"]}
PLAIN, DOUBLE = "plain fp32", "UNet in fp64"
FLAGS = {PLAIN: {}, DOUBLE: {}, "compile": {"compile": True}, "channels last": {"channels_last": True}, "bf16": {"precision": "bf16"}}
SAME = ("compile", "channels last")
MOST_DIFFERENCE = 1e-4  # of SAME
LEAST_PSNR = 30  # dB, of bf16


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("benchmark")
    group.add_argument("--clips", type=cli.one_or_more, default=6, help="number of clips")
    group.add_argument("--batch_size", type=cli.one_or_more, default=2, help="clips per UNet call")
    group.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES), help="settings of stage 2")
    group.add_argument("--threads", type=cli.one_or_more, default=1, help="number of threads")
    return parser


def recipe(name, **flags):
    """Flags of stage 2 as video_recons has them: the defaults, which are the released ones, or the phantom's profile but its memory format."""
    args = cli.parse(video_recons.get_parser, ["--dataset", "phantom", *RECIPES[name]], "Reconstruction/video_recons")
    vars(args).update({"channels_last": False} | flags)
    return args


def compare(name, clips, batch_size, seed, labels=tuple(FLAGS), **changes):
    """Run a recipe with several settings (`labels` of FLAGS, plain fp32 always); `changes` are flags of stage 2 other than the recipe's.

    Returns
    -------
    dict
        setting -> (frames (clips, F, H, W, 3) float32 in 0...1, [seconds of each batch])
    """
    settings = {label: recipe(name, **changes, **FLAGS[label]) for label in {PLAIN: None} | dict.fromkeys(labels)}
    pipes = {label: load_pipeline(SD, torch.device("cpu"), **pipeline_options(args)) for label, args in settings.items()}
    if DOUBLE in pipes:
        pipes[DOUBLE].unet.double()
    prompts = {label: encode_prompts(pipe, N_TOKENS) for label, pipe in pipes.items()}
    _, latents, tokens = decode_perfectly(pipes[PLAIN], clips, seed)
    shared = settings[PLAIN].noise_shared
    noise = torch.stack([clip_noise(seed, clip, latents.shape[1:], shared) for clip in range(1, clips + 1)])
    made = {label: ([], []) for label in settings}
    for start in tqdm(range(0, clips, batch_size), desc=name, unit="batch", leave=False, disable=None):
        part = slice(start, start + batch_size)
        for label, (frames, seconds) in made.items():
            began = time.perf_counter()
            batch = (latents[part], tokens[part], noise[part], prompts[label])
            frames.append(render(pipes[label], *batch, **render_options(settings[label])))
            seconds.append(time.perf_counter() - began)
    return {label: (np.concatenate(frames), seconds) for label, (frames, seconds) in made.items()}


def difference(frames, expected):
    """Largest absolute difference, and PSNR in dB, of each clip's frames in 0...1."""
    error = (frames.astype(np.float64) - expected).reshape(len(frames), -1)
    with np.errstate(divide="ignore"):
        return np.abs(error).max(1), -10 * np.log10((error**2).mean(1))


def missed_bar(label, largest, psnr):
    """How a setting's frames miss their bar, or None; `largest` and `psnr` (N,) are those of each clip against plain fp32."""
    if label in SAME and not (largest <= MOST_DIFFERENCE).all():  # nor if it is NaN
        return f"difference {largest.max():.1e}, not {MOST_DIFFERENCE:.0e}"
    if label == "bf16" and not (psnr >= LEAST_PSNR).all():
        return f"{psnr.min():.1f} dB, not {LEAST_PSNR}"
    return None


def main(args):
    torch.set_num_threads(args.threads)
    print(f"phantom, {args.clips} clips of 8 frames, batches of {args.batch_size}, seed {args.seed}, {args.threads} threads")
    print(
        "recipe    setting         largest difference   clips above 1e-4   lowest PSNR   s/clip, first batch   later (median)   times plain"
    )
    missed = []
    for name in args.recipes:
        made = compare(name, args.clips, args.batch_size, args.seed)
        later = {label: median(seconds[1:] or seconds) / args.batch_size for label, (_, seconds) in made.items()}
        for label, (frames, seconds) in made.items():
            largest, psnr = difference(frames, made[PLAIN][0])
            times = f"{seconds[0] / args.batch_size:21.2f} {later[label]:16.2f} {later[PLAIN] / later[label]:13.2f}"
            print(f"{name:9} {label:15} {largest.max():18.1e} {(largest > MOST_DIFFERENCE).sum():18} {psnr.min():13.1f} {times}")
            if name == "phantom" and (fault := missed_bar(label, largest, psnr)):
                missed.append(f"{name}, {label}: {fault}")
    if missed:
        print("missed: " + "; ".join(missed))
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, get_parser)
