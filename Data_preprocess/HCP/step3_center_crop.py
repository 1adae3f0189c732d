"""Crop every frame to the 420 x 420 pixels of its centre and enlarge these to 512 x 512.

Reads    stimuli_frames_uncropped/{Train,Test}/{clip}/{frame:07d}.png     (or .jpg)
Writes   stimuli_frames/{Train,Test}/{clip}/{frame:07d}.jpg               (or .png), 512 x 512; 64 x 64 for the phantom
         stimuli_frames/{Train,Test}/SHA256SUMS

    python Data_preprocess/HCP/step3_center_crop.py --dataset HCP --jpg_quality 100
    python Data_preprocess/HCP/step3_center_crop.py --dataset phantom-hcp

Some 0.1 core-seconds a clip.
"""

from functools import partial

from common import cli
from common.datasets import HCPMovie
from common.layout import Layout
from Data_preprocess.frames import add_frame_flags, make_frames, read_cropped
from Data_preprocess.splits import make_step_parser, split_dataset


def get_parser():
    parser = make_step_parser(__doc__, "HCP", split=True)
    add_frame_flags(parser)
    return parser


def main(args):
    dataset, layout = split_dataset(args, HCPMovie), Layout.of(args)
    crop = partial(read_cropped, dataset.uncropped_size, dataset.crop)
    for split in args.split:
        source, target = partial(layout.uncropped_frames, split), partial(layout.frames, split)
        make_frames(args, dataset, split, source, target, names=dataset.clip_names(split), read=crop)


if __name__ == "__main__":
    cli.run(main, get_parser)
