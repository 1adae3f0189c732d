"""Take eight frames out of every clip: 0, 8, ..., 56, stretched to the size that the models see.

Each clip is decoded once. The frames are stretched, not cropped, with an area filter.

Reads    stimuli_clips/{Train,Test}/{clip}.mp4
Writes   stimuli_frames/{Train,Test}/{clip}/{frame:07d}.jpg     (or .png), 512 x 512; 64 x 64 for the phantom
         stimuli_frames/{Train,Test}/SHA256SUMS

    python Data_preprocess/CC2017/step2_get_video_frames.py --dataset phantom
    python Data_preprocess/CC2017/step2_get_video_frames.py --dataset CC2017 --jpg_quality 100

4 core-seconds for the phantom, some 0.3 per clip of CC2017 (half an hour on one core).
"""

from functools import partial

from common import cli
from common.datasets import get_dataset
from common.layout import Layout
from Data_preprocess.frames import add_frame_flags, make_frames


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, split=True)
    add_frame_flags(parser)
    return parser


def main(args):
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    for split in args.split:
        make_frames(args, dataset, split, partial(layout.clip, split), partial(layout.frames, split))


if __name__ == "__main__":
    cli.run(main, get_parser)
