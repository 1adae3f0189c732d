"""Time the CMG's `generate` against recomputing the whole sequence for every frame, clip by clip.

Plain side: for each clip alone, `forward` on the frames so far, seven times; the fMRI encoder runs in each. Both sides
have one thread, the same weights (random, full size) and the same inputs, and are timed in processor seconds, which
other programs on the machine disturb little. The plain side is timed on --plain_clips clips and extrapolated;
`generate` runs on all --clips. The bars are 30 times for the released visibility, 15 for the causal one, equal to 1e-5,
6 GB; exit status 1 when one is missed at the full size.

Reads    nothing
Writes   nothing; prints a table

    python benchmarks/cmg_generate.py
    python benchmarks/cmg_generate.py --clips 8 --plain_clips 2 --d_model 256 --chunk_size 4

About 1 min of one core at full size, 2.6 GB.
"""

import resource
import sys
import time

import numpy as np
import torch
from timing import tell
from tqdm import tqdm

from common import cli
from models.cmg import ConsistencyMotionGenerator, sparse_causal_mask

FULL_SIZE = 16384
KEEP_RATIO = {"released": 0.0, "causal": 1.0}  # of the mask that gives a visibility in `forward`
BARS = {"released": 30, "causal": 15}


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("benchmark")
    group.add_argument("--clips", type=cli.one_or_more, default=1200, help="number of clips that generate makes")
    group.add_argument("--plain_clips", type=cli.one_or_more, default=6, help="number of clips that are recomputed one by one")
    group.add_argument("--frames", type=cli.whole(2, 11), default=8, help="frames per clip")
    group.add_argument("--d_model", type=cli.one_or_more, default=FULL_SIZE, help="channels * height * width of a latent frame")
    group.add_argument("--chunk_size", type=cli.one_or_more, default=128, help="clips that generate takes at a time")
    group.add_argument("--visibility", nargs="+", choices=list(BARS), default=list(BARS), help="earlier frames that a frame sees")
    return parser


@torch.no_grad()
def recompute(model, fmri, first_frame, n_frames, visibility):
    """The plain greedy loop: run `forward` on all frames so far to get one more."""
    frames = first_frame[:, None]
    for size in range(1, n_frames):
        following = model(fmri, frames, sparse_causal_mask(size, KEEP_RATIO[visibility]))
        frames = torch.cat([frames, following[:, -1:]], 1)
    return frames


def peak_gigabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(model, fmri, first_frame, n_frames, visibility, *, n_plain, chunk_size):
    """Seconds per clip of both sides, in rounds of one plain clip and a share of all, and the largest difference relative to the largest value.

    `fmri` (B, V), `first_frame` (B, d_model); n_plain clips are recomputed, `generate` takes chunk_size clips at a time.
    """
    recompute(model, fmri[:1], first_frame[:1], n_frames, visibility)  # warm
    model.generate(fmri[:chunk_size], first_frame[:chunk_size], 2, visibility)
    plain, found, times, ours, shares = [], [], [], [], torch.arange(len(fmri)).tensor_split(n_plain)
    for i, share in enumerate(tqdm(shares, desc=visibility, unit="round", leave=False)):
        start = time.process_time()
        plain.append(recompute(model, fmri[i : i + 1], first_frame[i : i + 1], n_frames, visibility))
        times.append(time.process_time() - start)
        start = time.process_time()
        frames = model.generate(fmri[share], first_frame[share], n_frames, visibility, chunk_size=chunk_size)
        ours.append((time.process_time() - start) / len(share))
        found.append(frames[:n_plain])
    plain, found = torch.cat(plain), torch.cat(found)[:n_plain]
    return np.array(times), np.array(ours), ((found - plain).abs().max() / plain.abs().max()).item()


def main(args):
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    n_plain = min(args.plain_clips, args.clips)
    model = ConsistencyMotionGenerator(d_model=args.d_model).eval()
    fmri, first_frame = torch.randn(args.clips, model.in_dim), torch.randn(args.clips, args.d_model)
    print(f"d_model {args.d_model}, {args.clips} clips of {args.frames} frames, one thread, chunks of {args.chunk_size}")
    missed = []
    for visibility in args.visibility:
        plain, ours, error = measure(
            model, fmri, first_frame, args.frames, visibility, n_plain=n_plain, chunk_size=args.chunk_size
        )  # fmt: skip
        tell(f"{args.clips} clips, visibility {visibility}", plain * args.clips, ours * args.clips, extrapolated=True)
        print(f"  largest difference {error:.1e}")
        if (ratio := np.median(plain / ours)) < BARS[visibility]:
            missed.append(f"{visibility}: {ratio:.1f} times, not {BARS[visibility]}")
        if error > 1e-5:
            missed.append(f"{visibility}: difference {error:.1e}")
    print(f"peak memory {peak_gigabytes():.2f} GB")
    if peak_gigabytes() > 6:
        missed.append("memory above 6 GB")
    if missed and args.d_model == FULL_SIZE:
        print("missed: " + "; ".join(missed))
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, get_parser)
