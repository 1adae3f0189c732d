"""Look through a raw data set before any long job starts: what is there, what is missing, what has the wrong shape.

Only headers are read, and of Algonauts2021 the responses. The exit status is 0 when all is there, else 1.

Reads    {data_root}/...         movies and fMRI of the data set
         or {released_root}/...  the authors' download: test clips, masks, test fMRI, checkpoints, Stable Diffusion, results

    python Data_preprocess/check_data.py --dataset phantom --data_root data
    python Data_preprocess/check_data.py --dataset CC2017 --data_root DATA --subj_ID 1 2 3
    python Data_preprocess/check_data.py --dataset CC2017 --released_root Mind_Animator_data

Seconds for the phantom; CC2017 has 86 series a subject, a twentieth of a second each on one core.
"""

import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common import cli
from common.cifti import open_series
from common.cortex import N_CORTEX
from common.datasets import Algonauts, CC2017Like, HCPMovie, OwnDataset, get_dataset
from Data_preprocess.events import event_volumes, read_events
from common.files import UserError, load_array, read_json
from common.model_sources import model_files
from Data_preprocess.pickles import read_arrays
from common.readers import FolderClips, detect_layout, format_clips
from common.released import ReleasedTree
from common.video import movie_info
from common.workers import add_workers_flag, run_jobs

SOURCES = {  # where a data set comes from
    "CC2017": "the Purdue University Research Repository, purr.purdue.edu/publications/2809",
    "phantom": "Data_preprocess/Phantom/step1_make_stimuli.py and step2_make_fmri.py",
    "HCP": "db.humanconnectome.org, HCP Young Adult 7T movie data",
    "Algonauts2021": "algonauts.csail.mit.edu/2021",
}
RELEASED = "the authors' published folder"


@dataclass(frozen=True)
class Item:
    """One thing that must be there.

    Attributes
    ----------
    group : str, under which it is counted
    path : Path, or a pattern of which the first match is taken
    kind : one of LOOK
    least : seconds of a movie, volumes of a series or an array, clips of a zip
    tr : float, s between volumes of a series
    shape : tuple, of a 'rows' array or of the responses in a pickle; None for any number
    source : function without arguments that gives the path of a 'file', or raises a UserError
    """

    group: str
    path: Path
    kind: str
    least: float = 0
    tr: float = 0
    shape: tuple = ()
    source: object = None


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
        results = find_folder(root, Path(str(participant)) / "MNINonLinear" / "Results")
        for number, run in enumerate(dataset.runs, 1):
            cleaned = results / run / f"{run}_Atlas_hp2000_clean.dtseries.nii"  # goes before all others
            path = cleaned if cleaned.is_file() else results / run / f"{run}_Atlas*.dtseries.nii"
            yield Item(f"subject {subject} ({participant})", path, "series", int(dataset.volume_indices(number)[-1]) + 1, dataset.tr)


def algonauts_items(dataset, root, subjects):
    n_videos, videos = dataset.n_train + dataset.n_test, find_folder(root, dataset.video_folder)
    for number in range(1, n_videos + 1):
        yield Item("videos", videos / f"{number:04d}_*.mp4", "movie", 1)
    responses = find_folder(root, Path("participants_data_v2021") / "mini_track")
    for subject in subjects:
        for roi in dataset.rois:
            path = responses / f"sub{subject:02d}" / f"{roi}.pkl"
            yield Item(f"subject {subject}", path, "responses", shape=(n_videos, dataset.repetitions, None))


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


def released_items(dataset, root, subjects):
    """What is in the authors' folder."""
    trees = {subject: ReleasedTree(root, dataset, subject) for subject in subjects}
    common = trees[subjects[0]]
    unet = common.stable_diffusion / "unet" / "config.json"
    token_dim = read_json(unet)["cross_attention_dim"] if unet.is_file() else 768
    for name in dataset.clip_names("test") if hasattr(dataset, "clip_names") else ():
        yield Item("test clips", common.clip(name), "movie", dataset.clip_frames / dataset.fps)
    for part in ("unet", "text_encoder", "vae", "tokenizer", "scheduler"):
        yield Item("Stable Diffusion", common.stable_diffusion / part, "model")
    for subject, tree in trees.items():
        group = f"subject {subject}"
        yield Item(group, tree.mask, "rows", shape=(N_CORTEX,))
        yield Item(group, tree.test_fmri, "rows", shape=(dataset.n_test, None))
        for decoder, epoch in dataset.epochs.items():
            yield Item(group, tree.root, "file", source=partial(tree.checkpoint, decoder, epoch, token_dim))
        yield Item(group, tree.results, "zip", dataset.n_test)


# ---------------------------------------------------------------------------------------------- looking


def find_folder(root, name):
    """A folder at any depth below root; root/name where there is none."""
    return next(iter(sorted(root.glob(f"**/{name}"))), root / name)


def find(pattern):
    """First file that a path or pattern stands for, or None."""
    if "*" not in str(pattern):
        return pattern if pattern.is_file() else None
    parts = pattern.parts
    fixed = next(i for i, part in enumerate(parts) if "*" in part)
    return next(iter(sorted(Path(*parts[:fixed]).glob("/".join(parts[fixed:])))), None)


def too_little(path, expected, found):
    return UserError(path, expected, found, "copy or download it again")


def look_at_movie(path, item):
    info = movie_info(path)
    seconds = float(info.n_frames / info.rate) if info.n_frames and info.rate else None
    if seconds is not None and seconds < item.least - 1 / float(info.rate):
        raise too_little(path, f"{item.least:.2f} s", f"{seconds:.2f} s")
    return f"{info.width} x {info.height}, {float(info.rate or 0):.2f} frames a second"


def look_at_series(path, item):
    series = open_series(path)
    if series.n_volumes < item.least:
        raise too_little(path, f"at least {item.least} volumes", series.n_volumes)
    series.check_tr(item.tr)
    return f"{series.n_volumes} volumes of {series.n_columns} grayordinates{'' if series.tr else ', the time between them not said'}"


def look_at_array(path, item):
    n_volumes, n_voxels = load_array(path, shape=(None, None), finite=False, mmap=True, do="copy it again").shape
    if n_volumes < item.least:
        raise too_little(path, f"at least {item.least} volumes", n_volumes)
    return f"{n_volumes} volumes of {n_voxels} voxels"


def look_at_rows(path, item):
    return f"shape {load_array(path, shape=item.shape, mmap=True, do='download it again').shape}"


def look_at_responses(path, item):
    arrays = read_arrays(path)
    shape = arrays["train"].shape if "train" in arrays else "no 'train'"
    if (
        not isinstance(shape, tuple)
        or len(shape) != len(item.shape)
        or any(n not in (None, m) for n, m in zip(item.shape, shape, strict=True))
    ):
        raise too_little(path, f"'train' of shape {item.shape}".replace("None", "any"), shape)
    return f"responses of shape {shape}"


def look_at_model(path, item):
    files = [file for file in model_files(path.parent, path.name) if file.stat().st_size]
    weights = path.name in ("tokenizer", "scheduler") or any(file.suffix in (".bin", ".safetensors") for file in files)
    if not (weights and any(file.suffix == ".json" for file in files)):
        raise too_little(path, "a configuration" + " and weights" * (not weights), ", ".join(file.name for file in files) or "none")
    return ", ".join(file.name for file in files)


def look_at_zip(path, item):
    clips = FolderClips(path, detect_layout(path))
    if len(clips) != item.least:
        raise too_little(path, f"{item.least} clips", f"{len(clips)}: {format_clips(clips.numbers)}")
    return f"{len(clips)} clips, layout {clips.layout}"


def look_at_file(path, item):
    return f"{path.stat().st_size} bytes"


LOOK = {
    "movie": look_at_movie, "series": look_at_series, "array": look_at_array, "rows": look_at_rows, "responses": look_at_responses,
    "model": look_at_model, "zip": look_at_zip, "file": look_at_file,
}  # fmt: skip


def look_at(item):
    """Check one item -> (state, line): 'there', 'missing' or 'wrong'."""
    try:
        path = item.source() if item.source else item.path if item.kind == "model" else find(item.path)
        if path is None or not path.exists():
            return "missing", f"{item.path}"
        return "there", f"{path}: {LOOK[item.kind](path, item)}"
    except UserError as error:
        return "missing" if error.args[2] == "none" else "wrong", cli.one_line(error)


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    group = cli.add_data_flags(parser)
    group.add_argument("--released_root", type=Path, help="look through the authors' folder Mind_Animator_data instead")
    group.add_argument("--subj_ID", type=int, nargs="+", help="subjects to look for (default: all of the data set's)")
    group.add_argument("--list", action="store_true", help="list also what is as it should be")
    add_workers_flag(parser, "files")
    return parser


def main(args):
    dataset = get_dataset(args.dataset)
    subjects = args.subj_ID or dataset.subjects
    for subject in subjects:
        dataset.check_subject(subject)
    list_items, root = (released_items, args.released_root) if args.released_root else (ITEMS[type(dataset)], args.data_root)
    items = list(list_items(dataset, root, subjects))
    seen = run_jobs(look_at, items, args.workers, f"{dataset.name} files", "file")
    for state, line in seen:
        if state != "there" or args.list:
            print(f"{state:8s} {line}")
    groups = Counter(item.group for item in items)
    good = Counter(item.group for item, (state, _) in zip(items, seen, strict=True) if state == "there")
    for group, n in groups.items():
        print(f"{dataset.name} {group}: {good[group]} of {n} as expected")
    if not args.released_root:
        print(f"{dataset.name}: {dataset.n_train} training and {dataset.n_test} test clips come out of a complete data set")
    if sum(good.values()) < len(items):
        print(f"not as expected; it comes from {RELEASED if args.released_root else SOURCES.get(dataset.name, 'its makers')}")
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, get_parser)
