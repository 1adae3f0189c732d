"""Look through a raw data set before any long job starts: what is there, what is missing, what has the wrong shape.

Only headers are read. The exit status is 0 when all is there, else 1.

Reads    {data_root}/...      movies and fMRI of the data set

    python Data_preprocess/check_data.py --dataset phantom --data_root data
    python Data_preprocess/check_data.py --dataset CC2017 --data_root DATA --subj_ID 1 2 3

Seconds for the phantom; CC2017 has 86 series a subject, a tenth of a second each on one core.
"""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from common import cli
from common.cifti import open_series
from common.datasets import Algonauts, CC2017Like, HCPMovie, OwnDataset, get_dataset
from common.events import event_volumes, read_events
from common.files import UserError, load_array
from common.video import film_info
from common.workers import add_workers_flag, run_jobs

SOURCES = {  # where a data set comes from
    "CC2017": "the Purdue University Research Repository, purr.purdue.edu/publications/2809",
    "phantom": "Data_preprocess/Phantom/step1_make_stimuli.py and step2_make_fmri.py",
    "HCP": "db.humanconnectome.org, HCP Young Adult 7T movie data",
    "Algonauts2021": "algonauts.csail.mit.edu/2021",
}


@dataclass(frozen=True)
class Item:
    """One thing that must be there.

    Attributes
    ----------
    group : str, under which it is counted
    path : Path, or a pattern of which the first match is taken
    kind : 'movie', 'series', 'array' or 'file'
    least : seconds of a movie, volumes of a series or an array, bytes of a file
    tr : float, s between volumes of a series
    """

    group: str
    path: Path
    kind: str
    least: float
    tr: float = 0


# ---------------------------------------------------------------------------------------------- what must be there


def cc2017_items(dataset, root, subjects):
    for split in ("train", "test"):
        for run in dataset.runs(split):
            yield Item("movies", dataset.movie_path(root, run), "movie", dataset.clips_per_run(split) * dataset.clip_seconds)
    for subject in subjects:
        for split in ("train", "test"):
            for run in dataset.runs(split):
                volumes = dataset.volume_offset(run) + dataset.clips_per_run(split)
                for rep in dataset.repetitions(subject, run):
                    yield Item(f"subject {subject}", dataset.series_path(root, subject, run, rep), "series", volumes, dataset.tr)


def hcp_items(dataset, root, subjects):
    for number, movie in enumerate(dataset.movies, 1):
        seconds = int(dataset.clip_start_seconds(number)[-1]) + 1
        yield Item("movies", root / "**" / f"{movie}.mp4", "movie", seconds)
    for subject in subjects:
        participant = dataset.participants[subject - 1]
        for number, run in enumerate(dataset.runs, 1):
            path = root / "**" / str(participant) / "MNINonLinear/Results" / run / f"{run}_Atlas*.dtseries.nii"
            yield Item(f"subject {subject} ({participant})", path, "series", int(dataset.volume_indices(number)[-1]) + 1, dataset.tr)


def algonauts_items(dataset, root, subjects):
    for number in range(1, dataset.n_train + dataset.n_test + 1):
        yield Item("videos", root / "**" / dataset.video_folder / f"{number:04d}_*.mp4", "movie", 1)
    for subject in subjects:
        for roi in dataset.rois:
            yield Item(f"subject {subject}", root / "**/participants_data_v2021/mini_track" / f"sub{subject:02d}" / f"{roi}.pkl", "file", 1)


def own_items(dataset, root, subjects):
    """What the event table names; the table itself must be there and right."""
    ends, volumes = {}, {}
    for event in read_events(dataset, root, timed=False):
        film = dataset.film_path(root, event.film)
        ends[film] = max(ends.get(film, 0), event.start + dataset.clip_seconds)
        if event.run is None or event.onset is None:  # rows are given ready-made
            continue
        end = event_volumes(event.onset, dataset.clip_seconds, dataset.lag_seconds, dataset.tr)[1]
        for subject in subjects:
            if event.subject in (None, subject):
                volumes[subject, event.run] = max(volumes.get((subject, event.run), 0), end)
    for film, seconds in ends.items():
        yield Item("films", film, "movie", seconds)
    for (subject, run), least in volumes.items():
        path = dataset.series_path(root, subject, run)
        yield Item(f"subject {subject}", path, "array" if path.suffix == ".npy" else "series", least, dataset.tr)


ITEMS = {CC2017Like: cc2017_items, HCPMovie: hcp_items, Algonauts: algonauts_items, OwnDataset: own_items}


# ---------------------------------------------------------------------------------------------- looking


def find(pattern):
    """First file that a path or pattern stands for, or None."""
    if "*" not in str(pattern):
        return pattern if pattern.is_file() else None
    parts = pattern.parts
    fixed = next(i for i, part in enumerate(parts) if "*" in part)
    return next(iter(sorted(Path(*parts[:fixed]).glob("/".join(parts[fixed:])))), None)


def look_at(item):
    """Check one item -> (state, line): 'there', 'odd' (usable, with a remark), 'missing' or 'wrong'."""
    path = find(item.path)
    if path is None:
        return "missing", f"{item.path}"
    try:
        if item.kind == "movie":
            info = film_info(path)
            seconds = float(info.n_frames / info.rate) if info.n_frames and info.rate else None
            if seconds is not None and seconds < item.least - 1 / float(info.rate):
                return "wrong", f"{path}: expected {item.least:.2f} s, found {seconds:.2f} s"
            return "there", f"{path}: {info.width} x {info.height}, {float(info.rate or 0):.2f} frames a second"
        if item.kind == "series":
            series = open_series(path)
            if series.n_volumes < item.least:
                return "wrong", f"{path}: expected at least {item.least} volumes, found {series.n_volumes}"
            if abs(series.tr - item.tr) > 1e-3:
                return "odd", f"{path}: expected {item.tr:g} s between volumes, the file says {series.tr:g}"
            return "there", f"{path}: {series.n_volumes} volumes of {series.n_columns} grayordinates"
        if item.kind == "array":
            n_volumes, n_voxels = load_array(path, shape=(None, None), finite=False, mmap=True, do="copy it again").shape
            if n_volumes < item.least:
                return "wrong", f"{path}: expected at least {item.least} volumes, found {n_volumes}"
            return "there", f"{path}: {n_volumes} volumes of {n_voxels} voxels"
        if path.stat().st_size < item.least:
            return "wrong", f"{path}: an empty file"
        return "there", f"{path}: {path.stat().st_size} bytes"
    except UserError as error:
        return "wrong", cli.one_line(error)


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    group = cli.add_data_flags(parser)
    group.add_argument("--subj_ID", type=int, nargs="+", help="subjects to look for (default: all of the data set's)")
    group.add_argument("--list", action="store_true", help="list also what is as it should be")
    add_workers_flag(parser, "files")
    return parser


def main(args):
    dataset = get_dataset(args.dataset)
    subjects = args.subj_ID or dataset.subjects
    for subject in subjects:
        dataset.check_subject(subject)
    items = list(ITEMS[type(dataset)](dataset, args.data_root, subjects))
    seen = run_jobs(look_at, items, args.workers, f"{dataset.name} files", "file")
    for state, line in seen:
        if state != "there" or args.list:
            print(f"{state:8s} {line}")
    groups = Counter(item.group for item in items)
    good = Counter(item.group for item, (state, _) in zip(items, seen, strict=True) if state in ("there", "odd"))
    for group, n in groups.items():
        print(f"{dataset.name} {group}: {good[group]} of {n} as expected")
    print(f"{dataset.name}: {dataset.n_train} training and {dataset.n_test} test clips come out of a complete data set")
    if sum(good.values()) < len(items):
        print(f"not complete; it comes from {SOURCES.get(dataset.name, 'its makers')}")
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, get_parser)
