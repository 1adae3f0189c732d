"""Cut the clips that an event table names out of films, or bring ready clips to one rate and length.

For a data set of your own, an OwnDataset of common/datasets.py (docs/own_data.md). Every clip is resampled by timestamp
to the registry's rate: each of its frames is the film frame whose timestamp is nearest. A ready clip is a film whose
clip starts at 0 s. Each film is decoded once, also where clips overlap. Steps 2 and 3 are those of CC2017.

Reads    {data_root}/{data set}/events.csv and the films that it names
Writes   stimuli_clips/{Train,Test}/{split}_{i}.mp4     clip_frames frames each, H.264; i from 1
         stimuli_clips/{Train,Test}/clips.csv           clip, film, start and caption (empty where the table has none), in clip order
         stimuli_clips/{Train,Test}/clips.json          SHA-256 of every clip

    python Data_preprocess/Own/step1_cut_event_clips.py --dataset mine --data_root DATA --workers 8

0.05 core-seconds per frame of a megapixel.
"""

import csv
import io
import shutil
from argparse import Namespace
from collections import deque

from common import cli, video
from Data_preprocess.clips import clips_are_there, write_listing
from common.datasets import OwnDataset, get_dataset
from Data_preprocess.events import clips_of, first_frame, read_events
from common.files import UserError, sha256, write_text
from common.layout import Layout
from common.records import Record
from common.workers import add_workers_flag, remove_partial, run_jobs


def too_short(film, expected, found):
    return UserError(film, f"{expected:.2f} s, the end of its last clip", f"{found:.2f} s", "copy the film again, or mend the event table")


def check_films(films, clip_frames, fps):
    """Find missing, truncated and too short films by their headers, before any work is done.

    Parameters
    ----------
    films : dict film path -> dict clip path -> first frame
    """
    for film, clips in films.items():
        info = video.film_info(film)
        expected = (max(clips.values()) + clip_frames) / fps
        if info.n_frames and info.rate and info.n_frames / info.rate < expected - 0.5:  # nearer than that, only timestamps tell
            raise too_short(film, expected, float(info.n_frames / info.rate))


def cut_film(job):
    """Cut one film; clips that exist are kept. Returns the SHA-256 of each clip by name.

    Parameters
    ----------
    job : tuple of film path, dict clip path -> first frame, frames per clip, frames per second, CRF
    """
    film, clips, clip_frames, fps, crf = job
    ending = {}
    for clip, first in clips.items():
        if not clip.exists():
            ending.setdefault(first + clip_frames, []).append(clip)
    recent, n = deque(maxlen=clip_frames), 0
    for n, frame in enumerate(video.resample(film, fps) if ending else (), 1):
        recent.append(frame)
        for clip in ending.pop(n, ()):
            video.write_mp4(clip, recent, fps, crf)
        if not ending:
            break
    if ending:
        raise too_short(film, max(ending) / fps, n / fps)
    return {clip.stem: sha256(clip) for clip in clips}


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, split=True)
    parser.add_argument("--crf", type=cli.between(0, 51), default=12, help="x264's constant rate factor: 0 lossless, 51 worst")
    add_workers_flag(parser, "films")
    return parser


def main(args):
    dataset, layout = get_dataset(args.dataset, OwnDataset), Layout.of(args)
    events = read_events(dataset, args.data_root, timed=False)
    for split in args.split:
        names, clips, films = dataset.clip_names(split), clips_of(events, split), {}
        for name, clip in zip(names, clips, strict=True):
            of_film = films.setdefault(dataset.film_path(args.data_root, clip.film), {})
            of_film[layout.clip(split, name)] = first_frame(clip, dataset.fps)
        check_films(films, dataset.clip_frames, dataset.fps)
        folder = layout.clip(split, "any").parent
        # an entry of one's own may be edited: what the clips depend on counts as a setting
        settings = Namespace(**vars(args), clip_frames=dataset.clip_frames, fps=dataset.fps)
        record = Record(folder, settings, [dataset.events_path(args.data_root), *films], neutral={"split"})
        if clips_are_there(layout, split, len(names)) and record.is_done():
            continue
        record.check_same()
        if args.overwrite and folder.exists():
            shutil.rmtree(folder)
        remove_partial(folder)
        record.start()
        jobs = [(film, of_film, dataset.clip_frames, dataset.fps, args.crf) for film, of_film in films.items()]
        made = {}
        for checksums in run_jobs(cut_film, jobs, args.workers, f"{args.dataset} {split} films", "film"):
            made |= checksums
        write_listing(layout, split, dataset, {name: made[name] for name in names})
        table = io.StringIO()
        lines = [(name, clip.film, clip.start, clip.caption) for name, clip in zip(names, clips, strict=True)]
        csv.writer(table).writerows([("clip", "film", "start", "caption"), *lines])
        write_text(folder / "clips.csv", table.getvalue())
        print(f"{args.dataset} {split}: {len(made)} clips of {dataset.clip_frames} frames made, {dataset.n_clips(split)} expected")
        record.finish(clips=len(made), expected=dataset.n_clips(split))


if __name__ == "__main__":
    cli.run(main, get_parser)
