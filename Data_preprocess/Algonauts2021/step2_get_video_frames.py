"""Take frames 0 to 7 out of every clip, stretched to the size that the models see.

They are the video's own first frames, whatever its rate. They are stretched, not cropped, with an area filter.

Reads    stimuli_clips/{Train,Test}/clip_{i}.mp4
Writes   stimuli_frames/{Train,Test}/clip_{i}/{frame:07d}.jpg     (or .png), 512 x 512; 64 x 64 for the phantom
         stimuli_frames/{Train,Test}/SHA256SUMS

    python Data_preprocess/Algonauts2021/step2_get_video_frames.py
    python Data_preprocess/Algonauts2021/step2_get_video_frames.py --dataset phantom-algonauts --format png

About 0.1 core-seconds a clip.
"""

from functools import partial

from common import cli
from common.datasets import Algonauts
from common.layout import Layout
from Data_preprocess.frames import add_frame_flags, make_frames
from Data_preprocess.splits import make_step_parser, split_dataset


def get_parser():
    parser = make_step_parser(__doc__, "Algonauts2021", split=True)
    add_frame_flags(parser)
    return parser


def main(args):
    dataset, layout = split_dataset(args, Algonauts), Layout.of(args)
    for split in args.split:
        make_frames(args, dataset, split, partial(layout.clip, split), partial(layout.frames, split))


if __name__ == "__main__":
    cli.run(main, get_parser)
