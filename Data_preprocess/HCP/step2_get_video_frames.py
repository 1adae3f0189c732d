"""Take eight frames out of every clip: 0, 3, ..., 21, stretched to 512 x 512. Step 3 crops them.

Each clip is decoded once. The frames are stretched with an area filter, whatever their proportions.

Reads    stimuli_clips/{Train,Test}/{clip}.mp4
Writes   stimuli_frames_uncropped/{Train,Test}/{clip}/{frame:07d}.png     (or .jpg), 512 x 512; 78 x 78 for the phantom
         stimuli_frames_uncropped/{Train,Test}/SHA256SUMS

    python Data_preprocess/HCP/step2_get_video_frames.py --dataset HCP
    python Data_preprocess/HCP/step2_get_video_frames.py --dataset phantom-hcp

Some 0.3 core-seconds a clip and 8 GB for HCP; --format jpg takes 2 GB, and frames are then coded with loss twice. The
folder can be deleted after step 3.
"""

from functools import partial

from common import cli
from common.datasets import HCPMovie
from common.layout import Layout
from Data_preprocess.frames import add_frame_flags, make_frames
from Data_preprocess.splits import make_step_parser, split_dataset


def get_parser():
    parser = make_step_parser(__doc__, "HCP", split=True)
    add_frame_flags(parser, format="png")
    return parser


def main(args):
    dataset, layout = split_dataset(args, HCPMovie), Layout.of(args)
    for split in args.split:
        clips, target = partial(layout.clip, split), partial(layout.uncropped_frames, split)
        make_frames(args, dataset, split, clips, target, size=dataset.uncropped_size)


if __name__ == "__main__":
    cli.run(main, get_parser)
