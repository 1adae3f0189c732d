"""Look through a raw data set before any long job starts: what is there, what is missing, what has the wrong shape.

Only headers are read, of series one volume besides, and of Algonauts2021 the responses. A warning tells of two series
that are one scan. The exit status is 0 when all is there, else 1.

Reads    {data_root}/...         movies and fMRI of the data set, as its entry in common/datasets lists them
         or {released_root}/...  the authors' download: test clips, masks, test fMRI, checkpoints, Stable Diffusion, results

    python Data_preprocess/check_data.py --dataset phantom --data_root data
    python Data_preprocess/check_data.py --dataset CC2017 --data_root DATA --subj_ID 1 2 3
    python Data_preprocess/check_data.py --dataset CC2017 --released_root Mind_Animator_data

Seconds for the phantom; CC2017 has 86 series a subject, a twentieth of a second each on one core.
"""

import hashlib
import logging
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from common import cli
from common.cortex import N_CORTEX
from common.datasets import get_dataset
from common.datasets.base import RawFile
from common.files import MissingFile, UserError, load_array, missing, read_json
from common.layout import DECODERS
from common.readers import FolderClips, detect_layout, format_clips
from common.released import ReleasedTree
from common.workers import add_workers_flag, run_jobs
from Data_preprocess.cifti import open_series, plain_and_compressed
from Data_preprocess.event_runs import check_orientation, read_shape
from Data_preprocess.events import COLUMNS, TIME_COLUMNS, event_volumes, read_events
from Data_preprocess.finding import Finder
from Data_preprocess.movies import check_frames, check_rate, movie_info
from Data_preprocess.pickles import read_responses
from Data_preprocess.tables import read_table
from models.loading import model_files
from models.released import find_checkpoint

log = logging.getLogger(__name__)

RELEASED = "the authors' published folder"
AGAIN = "copy or download it again"
ARCHIVE = "video_fmri_dataset"  # folder that every archive of CC2017 holds


@dataclass(frozen=True)
class Checkpoint(RawFile):
    """A checkpoint in the authors' folder; `search` holds the arguments of find_checkpoint."""

    search: dict = field(default_factory=dict)


@dataclass(frozen=True)
class EventMovie(RawFile):
    """A film of the event table; `line` is the first that names it."""

    line: int = 0


@dataclass(frozen=True)
class EventSeries(RawFile):
    """A run's series; `last` is the end of its last event, s, 0 for a participant without events."""

    last: float = 0


class Unusual(UserError):
    """A file that can be used, and of which something is odd."""


# ---------------------------------------------------------------------------------------------- what must be there


def with_events(files, dataset, data_root, subjects):
    """Files of a data set; after an event table, the movies and series that it names."""
    for file in files:
        if file.kind == "events":
            yield from event_files(dataset, data_root, subjects)
        else:
            yield file


def event_files(dataset, data_root, subjects):
    """What the event table names, iterable of RawFile; the table itself must be there and right."""
    ends, lines, series, events = {}, {}, {}, read_events(dataset, data_root, timed=False)
    for event in events:
        movie = dataset.film_path(data_root, event.film)
        lines.setdefault(movie, event.line)
        ends[movie] = max(ends.get(movie, 0), event.start + dataset.clip_seconds)
    for movie, seconds in ends.items():
        yield EventMovie("movies", movie, "movie", seconds, line=lines[movie])
    lacking = [name for name in TIME_COLUMNS if getattr(events[0], name) is None]
    if lacking:
        path = dataset.events_path(data_root)
        log.warning(
            "warning: no column %s in %s: runs were not looked at; only ready rows (--fmri_train, --fmri_test) could be used; columns are %s",
            " and ".join(map(repr, lacking)), path, ", ".join(read_table(path, COLUMNS)[0]),
        )  # fmt: skip
    for subject in () if lacking else subjects:
        of_subject = [event for event in events if event.subject in (None, subject)]
        if not of_subject:
            yield EventSeries(f"subject {subject}", dataset.events_path(data_root), "array")
        for event in of_subject:
            end = event_volumes(event.onset, dataset.clip_seconds, dataset.lag_seconds, dataset.tr)[1]
            least, last = series.get((subject, event.run), (0, 0))
            series[subject, event.run] = max(least, end), max(last, event.onset + dataset.clip_seconds)
    for (subject, run), (least, last) in series.items():
        path = dataset.series_path(data_root, subject, run)
        yield EventSeries(f"subject {subject}", path, "array" if path.suffix == ".npy" else "series", least, dataset.tr, last=last)


def released_files(dataset, root, subjects):
    """What is in the authors' folder, iterable of RawFile."""
    trees = {subject: ReleasedTree(root, dataset, subject) for subject in subjects}
    shared = trees[subjects[0]]
    unet = shared.stable_diffusion / "unet" / "config.json"
    token_dim = read_json(unet).get("cross_attention_dim", 768) if unet.is_file() else 768
    for name in dataset.clip_names("test"):
        yield RawFile("test clips", shared.clip(name), "movie", dataset.clip_frames / dataset.fps)
    for part in ("unet", "text_encoder", "vae", "tokenizer", "scheduler"):
        yield RawFile("Stable Diffusion", shared.stable_diffusion / part, "model")
    for subject, tree in trees.items():
        group = f"subject {subject}"
        yield RawFile(group, tree.mask, "rows", shape=(N_CORTEX,))
        yield RawFile(group, tree.test_fmri, "rows", shape=(dataset.n_test, None))
        for decoder in DECODERS:
            epoch = dataset.epochs.get((decoder, subject), dataset.epochs[decoder])
            search = {**tree.checkpoints(decoder), "epoch": epoch, "token_dim": token_dim}
            yield Checkpoint(group, search["folder"], "checkpoint", search=search)
        yield RawFile(group, tree.results, "zip", dataset.n_test)


# ---------------------------------------------------------------------------------------------- finding


def find_file(file, finder):
    """Path of a RawFile, or None where there is none."""
    patterns = [*file.preferred, file.path]
    if file.kind == "series":
        patterns = [form for pattern in patterns for form in plain_and_compressed(pattern)]
    return finder.first(*patterns)


def mixed_kinds(files, paths):
    """A line for every group whose series are of different kinds, where they should be of one, list of str."""
    kinds = {}
    for file, path in zip(files, paths, strict=True):
        if path and file.preferred:
            kind = path.name.removesuffix(".gz").removeprefix(file.path.name.partition("*")[0])
            kinds.setdefault(file.group, {}).setdefault(kind, path)
    mixed = [list(of_group.values()) for of_group in kinds.values() if len(of_group) > 1]
    return [f"{a} and {b.name} are of different kinds of series; {AGAIN}, or name one kind with --series" for a, b, *_ in mixed]


def mixed_trees(files, paths):
    """What lies where, list of a str, when some archives were unpacked into one tree and others into trees of their own."""
    groups = {}
    for file, path in zip(files, paths, strict=True):
        if path and ARCHIVE in path.parts:
            root = Path(*path.parts[: path.parts.index(ARCHIVE) + 1])
            groups.setdefault(root, {})[file.group] = True
    shared = [group for of_root in groups.values() for group in of_root]
    if len(groups) <= 1 or (len(set(shared)) == len(shared) and max(map(len, groups.values()), default=0) == 1):
        return []
    return ["; ".join(f"{', '.join(of_root)} in {root}" for root, of_root in groups.items())]


def middle_volume(path):
    """SHA-256 of a series' middle volume, by which a scan is known again under another name."""
    series = open_series(path)
    return hashlib.sha256(series.read(series.n_volumes // 2, 1).tobytes()).hexdigest()


def same_series(files, paths, seen, workers):
    """A line for every two series that are one scan, list of str; of those that are as expected."""
    series = [
        (file, path)
        for file, path, (state, _) in zip(files, paths, seen, strict=True)
        if file.kind == "series" and state in ("there", "unusual")
    ]
    known, lines = {}, []
    sums = run_jobs(middle_volume, [path for _, path in series], workers, "series compared", "series")
    for (file, path), digest in zip(series, sums, strict=True):
        other, before = known.setdefault(digest, (file, path))
        if before != path:
            which = file.group if file.group == other.group else f"{other.group} and {file.group}"
            lines.append(f"{before} and {path} hold the same series ({which}); {AGAIN}")
    return lines


# ---------------------------------------------------------------------------------------------- looking


def look_at_movie(path, file):
    info = movie_info(path)
    seconds = float(info.n_frames / info.rate) if info.n_frames and info.rate else None
    if seconds is not None and seconds < file.least - 1 / float(info.rate):
        raise UserError(f"{path} lasts {seconds:.2f} s, not {file.least:.2f} s; {AGAIN}")
    check_rate(path, info, file.rate)
    return f"{info.width} x {info.height}, {float(info.rate or 0):.2f} frames a second"


def look_at_video(path, file):
    info = movie_info(path)
    check_frames(path, info, file.least)
    return f"{info.width} x {info.height}, {info.n_frames or 'any number of'} frames"


def too_short(path, n_volumes, file):
    return UserError(f"{path} has {n_volumes} volumes, fewer than the {file.least} that are needed; {AGAIN}")


def check_length(path, shape, file):
    if isinstance(file, EventSeries) and (odd := check_orientation(path, shape, file.least, file.last, file.tr)):
        raise Unusual(odd)


def look_at_series(path, file):
    series = open_series(path)
    check_length(path, (series.n_volumes, series.n_columns), file)
    if series.n_volumes < file.least:
        raise too_short(path, series.n_volumes, file)
    series.check_tr(file.tr)
    return f"{series.n_volumes} volumes of {series.n_columns} grayordinates{'' if series.tr else ', the time between them not said'}"


def look_at_array(path, file):
    if isinstance(file, EventSeries) and not file.last:
        raise UserError(f"{path} has no event of {file.group}; add its events")
    shape = n_volumes, n_voxels = read_shape(path, file.tr)
    check_length(path, shape, file)
    if n_volumes < file.least:
        raise too_short(path, n_volumes, file)
    return f"{n_volumes} volumes of {n_voxels} voxels"


def look_at_rows(path, file):
    return f"shape {load_array(path, shape=file.shape, mmap=True, do=AGAIN).shape}"


def look_at_responses(path, file):
    return f"responses of shape {read_responses(path, file.shape).shape}"


def look_at_model(path, file):
    files = [part for part in model_files(path.parent, path.name) if part.stat().st_size]
    weights = path.name in ("tokenizer", "scheduler") or any(part.suffix in (".bin", ".safetensors") for part in files)
    if not (weights and any(part.suffix == ".json" for part in files)):
        lacks = "no weights" if any(part.suffix == ".json" for part in files) else "no configuration"
        raise UserError(f"{path} has {lacks}; {AGAIN}")
    return ", ".join(part.name for part in files)


def look_at_zip(path, file):
    clips = FolderClips(path, detect_layout(path))
    if len(clips) != file.least:
        raise UserError(f"{path} has {len(clips)} clips, not {file.least} (there are {format_clips(clips.numbers)}); {AGAIN}")
    return f"{len(clips)} clips, layout {clips.layout}"


def look_at_checkpoint(path, file):
    found = find_checkpoint(**file.search)
    return f"{found.relative_to(path)} as {file.search['decoder']} decoder, {found.stat().st_size} bytes"


LOOK = {
    "movie": look_at_movie, "video": look_at_video, "series": look_at_series, "array": look_at_array, "rows": look_at_rows, "responses": look_at_responses,
    "model": look_at_model, "zip": look_at_zip, "checkpoint": look_at_checkpoint,
}  # fmt: skip


def look_at(job):
    """Check one file; the job is (RawFile, its path or None) -> (state, line): 'there', 'unusual', 'missing' or 'wrong'."""
    file, path = job
    try:
        if path is None:
            of_table = f"line {file.line} of the event table names it; " if isinstance(file, EventMovie) else ""
            raise missing(file.path, of_table + AGAIN)
        return "there", f"{path}: {LOOK[file.kind](path, file)}"
    except MissingFile as error:
        return "missing", cli.one_line(error).removeprefix("file not found: ")
    except Unusual as error:
        return "unusual", cli.one_line(error)
    except UserError as error:
        return "wrong", cli.one_line(error)


def get_parser():
    parser = cli.make_parser(__doc__)
    group = cli.add_data_flags(parser)
    group.add_argument("--released_root", type=Path, help="the authors' folder Mind_Animator_data, to be looked through instead")
    group.add_argument("--subj_ID", nargs="+", help="participants to look for (default: all of the data set's)")
    group.add_argument("--list", action="store_true", help="lines for what is as it should be, too")
    add_workers_flag(parser, "files")
    return parser


def main(args):
    dataset = get_dataset(args.dataset)
    subjects = args.subj_ID or dataset.subjects
    if args.released_root:
        source, files = RELEASED, list(released_files(dataset, args.released_root, subjects))
    else:
        raw = dataset.raw_files(args.data_root, subjects)
        source, files = dataset.source, list(with_events(raw, dataset, args.data_root, subjects))
    finder = Finder()
    paths = [find_file(file, finder) for file in files]
    seen = run_jobs(look_at, list(zip(files, paths, strict=True)), args.workers, f"{dataset.name} files", "file")
    mixed = mixed_kinds(files, paths)
    more = [("wrong", mixed), ("mixed", mixed_trees(files, paths)), ("warning", same_series(files, paths, seen, args.workers))]
    for state, line in [*seen, *((state, line) for state, lines in more for line in lines)]:
        if state != "there" or args.list:
            print(f"{state:8s} {line}")
    good = Counter(file.group for file, (state, _) in zip(files, seen, strict=True) if state in ("there", "unusual"))
    for group, n in Counter(file.group for file in files).items():
        print(f"{dataset.name} {group}: {good[group]} of {n} as expected")
    if not args.released_root:
        print(f"{dataset.name}: {dataset.n_train} training and {dataset.n_test} test clips come out of a complete data set")
    if mixed or good.total() < len(files):
        print(f"not as expected; {f'it comes from {source}' if source else f'correct what is named above, or the entry of {dataset.name} in common/datasets'}")
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, get_parser)
