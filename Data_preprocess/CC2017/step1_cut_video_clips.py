"""Cut every movie into clips of one TR (2 s), frame-accurately.

A movie of another frame rate, or with uneven timestamps, is resampled by timestamp to the data set's rate: each clip
frame is the movie frame whose timestamp is nearest. A movie starts with its first frame, whatever time that one bears.

Reads    {data_root}/{data set}/Stimuli/video_fmri_dataset/stimuli/{run}.mp4
Writes   stimuli_clips/{Train,Test}/{run}_{j}.mp4     60 frames each, H.264; j from 1
         stimuli_clips/{Train,Test}/SHA256SUMS

    python Data_preprocess/CC2017/step1_cut_video_clips.py --dataset phantom
    python Data_preprocess/CC2017/step1_cut_video_clips.py --dataset CC2017 --data_root DATA --workers 8

15 core-seconds for the phantom. 0.05 core-seconds per frame of a megapixel: some 5 core-hours for CC2017's 23 movies.
"""

from common import cli
from common.datasets import CC2017Like, get_dataset
from common.layout import Layout
from Data_preprocess.cutting import add_cut_flags, cut_clips

TOO_SHORT = "copy the movie again, or use --drop_short to do without the last clips"


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, split=True)
    group = add_cut_flags(parser)
    group.add_argument("--drop_short", action="store_true", changes_result=False, help="omission of clips that a movie does not fill")
    return parser


def main(args):
    dataset, layout = get_dataset(args.dataset, CC2017Like), Layout.of(args)
    for split in args.split:
        movies = {
            dataset.movie_path(args.data_root, run): {
                layout.clip(split, f"{run}_{j + 1}"): j * dataset.clip_frames for j in range(dataset.clips_per_run(split))
            }
            for run in dataset.runs(split)
        }
        cut_clips(args, dataset, split, movies, advice="" if args.drop_short else TOO_SHORT)


if __name__ == "__main__":
    cli.run(main, get_parser)
