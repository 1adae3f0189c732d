"""Cut every movie into clips of one TR (2 s), frame-accurately.

A movie of another frame rate, or with uneven timestamps, is resampled by timestamp to the data set's rate: each clip
frame is the film frame whose timestamp is nearest. The film starts with its first frame, whatever time that one bears.

Reads    {data_root}/{data set}/Stimuli/video_fmri_dataset/stimuli/{run}.mp4
Writes   stimuli_clips/{Train,Test}/{run}_{j}.mp4     60 frames each, H.264; j from 1
         stimuli_clips/{Train,Test}/clips.json        SHA-256 of every clip

    python Data_preprocess/CC2017/step1_cut_video_clips.py --dataset phantom
    python Data_preprocess/CC2017/step1_cut_video_clips.py --dataset CC2017 --data_root DATA --workers 8

15 core-seconds for the phantom. 0.05 core-seconds per frame of a megapixel: some 5 core-hours for CC2017's 23 movies.
"""

import shutil
from itertools import islice

from common import cli, video
from Data_preprocess.clips import clips_are_there, write_listing
from common.datasets import CC2017Like, get_dataset
from common.files import UserError, sha256
from common.layout import Layout
from common.records import Record
from common.workers import add_workers_flag, remove_partial, run_jobs


def too_short(movie, expected, found):
    return UserError(movie, f"{expected:.2f} s", f"{found:.2f} s", "copy the movie again, or --drop_short to do without the last clips")


def check_movies(movies, seconds, drop_short):
    """Find missing, truncated and too short movies by their headers, before any work is done."""
    for movie in movies:
        info = video.film_info(movie)
        if info.n_frames and info.rate and not drop_short:
            found = float(info.n_frames / info.rate)
            if found < seconds - 0.5:  # nearer than that, only the timestamps tell
                raise too_short(movie, seconds, found)


def cut_movie(job):
    """Cut one movie; clips that exist are kept. Returns the SHA-256 of each clip by name.

    Parameters
    ----------
    job : tuple of movie path, clip paths, frames per clip, frames per second, CRF, whether to drop a short last clip
    """
    movie, clips, clip_frames, fps, crf, drop_short = job
    made = {}
    if all(clip.exists() for clip in clips):
        return {clip.stem: sha256(clip) for clip in clips}
    frames = video.resample(movie, fps)
    for number, clip in enumerate(clips):
        content = list(islice(frames, clip_frames))
        if len(content) < clip_frames:
            if drop_short:
                break
            raise too_short(movie, len(clips) * clip_frames / fps, (number * clip_frames + len(content)) / fps)
        if not clip.exists():
            video.write_mp4(clip, content, fps, crf)
        made[clip.stem] = sha256(clip)
    return made


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, split=True)
    group = parser.add_argument_group("clips")
    group.add_argument("--crf", type=cli.between(0, 51), default=12, help="x264's constant rate factor: 0 lossless, 51 worst")
    group.add_argument("--drop_short", action="store_true", help="drop clips that a movie does not fill, instead of an error")
    add_workers_flag(parser, "movies")
    return parser


def main(args):
    dataset, layout = get_dataset(args.dataset, CC2017Like), Layout.of(args)
    for split in args.split:
        folder = layout.clip(split, "any").parent
        movies = [dataset.movie_path(args.data_root, run) for run in dataset.runs(split)]
        record = Record(folder, args, movies, neutral={"split", "drop_short"})
        expected = dataset.n_clips(split)
        if clips_are_there(layout, split, None if args.drop_short else expected) and record.is_done():
            continue
        check_movies(movies, dataset.clips_per_run(split) * dataset.clip_seconds, args.drop_short)
        record.check_same()
        if args.overwrite and folder.exists():
            shutil.rmtree(folder)
        remove_partial(folder)
        record.start()
        jobs = [
            (
                movie,
                [layout.clip(split, f"{run}_{j}") for j in range(1, dataset.clips_per_run(split) + 1)],
                dataset.clip_frames, dataset.fps, args.crf, args.drop_short,
            )
            for run, movie in zip(dataset.runs(split), movies, strict=True)
        ]  # fmt: skip
        made = {}
        for clips in run_jobs(cut_movie, jobs, args.workers, f"{args.dataset} {split} movies", "movie"):
            made |= clips
        write_listing(layout, split, dataset, made)
        print(f"{args.dataset} {split}: {len(made)} clips of {dataset.clip_frames} frames made, {expected} expected")
        record.finish(clips=len(made), expected=expected)


if __name__ == "__main__":
    cli.run(main, get_parser)
