"""Time and loss of writing clips: GIF, movie strip and mp4, with the libraries' defaults and as here.

A photograph that pans stands for the clips. Beside the ratio stands how far what is read back lies from the frames.

Reads    scikit-image's astronaut
Writes   nothing; prints ratios, PSNR and bytes

    python benchmarks/writing.py
    python benchmarks/writing.py --size 256

Half a minute on one core, 0.3 GB.
"""

import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence
from skimage.data import astronaut
from timing import compare

from common import cli
from common.video import read_frames, write_mp4
from Evaluation_Metrics.movie_strip import write_strip
from Reconstruction.outputs import gif_bytes, gif_of

N_FRAMES, N_MOVIE = 8, 60  # of a reconstruction, of CC2017's clips


def psnr(frames, found):
    """Of all frames together, dB."""
    return 10 * np.log10(255**2 / np.mean((np.asarray(frames, float) - found) ** 2))


def panning(size, n):
    """Frames (n, size, size, 3) uint8 of the photograph, which moves by a pixel a frame."""
    picture = np.asarray(Image.fromarray(astronaut()).resize((size + n, size + n), Image.Resampling.LANCZOS))
    return np.stack([picture[k : k + size, k : k + size] for k in range(n)])


def read_back(gif):
    return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(io.BytesIO(gif)))])


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("benchmark")
    group.add_argument("--size", type=cli.whole(64, 4096), default=512, help="height and width of the frames")
    group.add_argument("--repeats", type=cli.one_or_more, default=5, help="number of repetitions")
    return parser


def main(args):
    clip, movie = panning(args.size, N_FRAMES), panning(args.size, N_MOVIE)
    what = f"{args.size} x {args.size}"
    gifs = compare(
        f"GIF of {N_FRAMES} frames, {what}; plain: PIL's palette", lambda: gif_of([Image.fromarray(frame).quantize(256) for frame in clip]),
        lambda: gif_bytes(clip), repeats=args.repeats,
    )  # fmt: skip
    print("  PSNR {:.1f}, {:.1f} dB; {} and {} bytes".format(*(psnr(clip, read_back(gif)) for gif in gifs), *map(len, gifs)))
    with tempfile.TemporaryDirectory() as folder:
        plain, ours = (Path(folder) / name for name in ("plain", "ours"))
        strip = f"movie strip of 2 x {N_FRAMES} frames; plain: PIL's compression"
        write_strip(ours, clip, clip)
        pixels = Image.open(ours).copy()
        compare(strip, lambda: pixels.save(plain, "png"), lambda: write_strip(ours, clip, clip), repeats=args.repeats)
        print(f"  {plain.stat().st_size} and {ours.stat().st_size} bytes")
        for path, preset in ((plain, "medium"), (ours, "veryfast")):
            write_mp4(path, movie, 30, preset=preset)
        compare(
            f"mp4 of {N_MOVIE} frames, {what}; plain: x264's preset medium", lambda: write_mp4(plain, movie, 30, preset="medium"),
            lambda: write_mp4(ours, movie, 30), repeats=args.repeats,
        )  # fmt: skip
        found = [psnr(movie, read_frames(path)) for path in (plain, ours)]
        print(f"  PSNR {found[0]:.1f}, {found[1]:.1f} dB; {plain.stat().st_size} and {ours.stat().st_size} bytes")


if __name__ == "__main__":
    cli.run(main, get_parser)
