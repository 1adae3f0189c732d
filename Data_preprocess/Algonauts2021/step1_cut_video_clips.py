"""Take the first 1000 videos, by the number that their names begin with, as the clips.

A video is a clip as it is, whatever its frame rate and length: it is copied, not encoded again.

Reads    {data_root}/**/{nnnn}_*.mp4                          at any depth, symbolic links followed
Writes   stimuli_clips/{Train,Test}/clip_{i}.mp4              i over all videos, from 1
         stimuli_clips/{Train,Test}/SHA256SUMS
         split.json                                           with --test_clips: the test clips, which all scripts then take

    python Data_preprocess/Algonauts2021/step1_cut_video_clips.py --data_root DATA
    python Data_preprocess/Algonauts2021/step1_cut_video_clips.py --data_root DATA --test_clips 1-100

Seconds.
"""

import shutil

from common import cli
from common.datasets import Algonauts
from common.files import UserError, atomic_path, missing, sha256
from common.layout import Layout
from common.records import working
from common.workers import add_workers_flag, run_jobs
from Data_preprocess.cutting import clip_files, keep_sums
from Data_preprocess.finding import Finder
from Data_preprocess.movies import check_frames, movie_info
from Data_preprocess.splits import make_step_parser, print_split, split_dataset, split_facts

AGAIN = "download the videos again, or check --data_root"


def find_videos(dataset, data_root):
    """The first videos by number, list of Path; a UserError for one that is missing or there twice."""
    pattern, n, videos = dataset.video_pattern(data_root), dataset.n_train + dataset.n_test, {}
    for path in Finder().all(pattern):
        number = path.name.partition("_")[0]
        if number.isdecimal() and videos.setdefault(int(number), path) != path:
            raise UserError(f"{videos[int(number)]} and {path} have the same number; keep one of them below --data_root")
    if not videos:
        raise missing(pattern, AGAIN)
    first = min(min(videos), 1)
    lacking = [number for number in range(first, first + n) if number not in videos]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise UserError(f"{dataset.video_pattern(data_root, f'{lacking[0]:04d}')}{more} missing of the first {n} videos; {AGAIN}")
    return [videos[number] for number in range(first, first + n)]


def copy_video(job):
    """Copy a video with enough frames; the job is (video, clip, frames) -> (name of the clip, SHA-256)."""
    video, clip, n_frames = job
    check_frames(video, movie_info(video), n_frames)
    if clip.exists():
        return {}
    with atomic_path(clip) as temporary:
        shutil.copyfile(video, temporary)
    return {clip.name: sha256(clip)}


def get_parser():
    parser = make_step_parser(__doc__, "Algonauts2021", split=True)
    add_workers_flag(parser, "videos")
    return parser


def main(args):
    dataset, layout = split_dataset(args, Algonauts), Layout.of(args)
    videos, n_frames = find_videos(dataset, args.data_root), max(dataset.frame_indices) + 1
    for split in args.split:
        numbers, clips = dataset.clip_numbers(split), [layout.clip(split, name) for name in dataset.clip_names(split)]
        jobs = [(videos[number - 1], clip, n_frames) for number, clip in zip(numbers, clips, strict=True)]
        folder, sources = clips[0].parent, [video for video, *_ in jobs]
        outputs, facts = clip_files(folder, clips), split_facts(dataset)
        with working(folder, args, inputs=sources, outputs=outputs, facts=facts, clear=[folder]) as record:
            if record is None:
                continue
            keep_sums(folder, clips, run_jobs(copy_video, jobs, args.workers, f"{dataset.name} {split} videos", "video"))
            print(f"{dataset.name} {split}: {len(clips)} clips made, {dataset.n_clips(split)} expected")
            record.finish(clips=len(clips), expected=dataset.n_clips(split))
    print_split(dataset)


if __name__ == "__main__":
    cli.run(main, get_parser)
