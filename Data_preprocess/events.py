"""The event table of a data set of one's own: which clip was shown when, and in which run."""

import difflib
import logging
import math
import posixpath
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from common.files import UserError, missing, sha256
from Data_preprocess.tables import as_number, read_table

log = logging.getLogger(__name__)

COLUMNS = {
    "split": "train or test",
    "film": "movie or ready clip, its path below the data set's folder",
    "start": "s from the movie's start to the clip's, 0 without this column",
    "run": "name of the run",
    "onset": "s from volume 0 of the run to the clip's first frame",
    "duration": "s that the clip was shown, for a check against the data set's entry",
    "subject": "participant, where participants saw the clips at different times",
    "caption": "caption of the clip",
}
BIDS = {"trial_type": "split", "stim_file": "film", "participant_id": "subject"}  # names that BIDS gives to columns
CLIP_COLUMNS, TIME_COLUMNS = ("split", "film"), ("run", "onset")  # what a table must have: always, and for fMRI
SECONDS = ("start", "onset", "duration")
LONGEST = 10**6  # s of anything
EDGE = 1e-6  # of a TR or a frame: rounding errors of times


@dataclass(frozen=True)
class Event:
    """One presentation of a clip: a line of the table; run, onset and subject are None where there is no such column.

    `first` is the movie's frame, at the data set's rate, that is nearest to `start` and that the clip begins with.
    """

    line: int
    split: str
    film: str
    start: float
    first: int
    run: str | None
    onset: float | None
    subject: int | str | None
    caption: str

    @property
    def clip(self):
        """What makes two presentations repetitions of one clip."""
        return self.film, self.first


def read_events(dataset, data_root, timed=True):
    """Read and check the event table, list of Event in the table's order.

    `timed` says whether the table must tell when and in which run each clip was shown. A UserError for no readable table, a column
    that is missing or misspelt, a cell that is not what its column holds, two events at one time, frames that are in both splits,
    or another number of clips than the data set's entry says.
    """
    path = dataset.events_path(data_root)
    rows, point = _read_rows(path, CLIP_COLUMNS + (TIME_COLUMNS if timed else ()))
    events = _name_films(dataset, data_root, [_parse(dataset, path, line, row, point) for line, row in rows])
    _check_times(dataset, path, events)
    _check_splits(dataset, path, events)
    _check_copies(dataset, data_root, path, events)
    for split in ("train", "test"):
        n = len(clips_of(events, split))
        if n != dataset.n_clips(split):
            lost = next((event for event in events if event.split == split and not dataset.film_path(data_root, event.film).exists()), None)
            maybe = f" (line {lost.line} names {lost.film}, which is not there)" if lost else ""
            raise UserError(
                f"{path} has {n} different {split} clips{maybe}, but n_{split} of {dataset.name} is {dataset.n_clips(split)}; "
                "correct the table, or the entry in common/datasets/own.py"
            )
    return events


def events_of(dataset, data_root, events, subject):
    """A participant's events, list of Event; a UserError where the table has none."""
    found = [event for event in events if event.subject in (None, subject)]
    if not found:
        raise UserError(f"{dataset.events_path(data_root)} has no event of subject {subject}; add them, or choose another --subj_ID")
    return found


# ---------------------------------------------------------------------------------------------- lines


def _read_rows(path, required):
    """Lines of the table, list of (line number, dict of str), once its columns are right, and the decimal mark of its numbers."""
    if not path.is_file():
        raise missing(path, "write the event table (docs/own_data.md), or check --data_root")
    columns, rows, separator = read_table(path, (*COLUMNS, *BIDS))
    columns = [BIDS[name] if name in BIDS and BIDS[name] not in columns else name for name in columns]
    if lacking := [name for name in required if name not in columns]:
        raise UserError(f"{path} has no column {', '.join(lacking)} (it has {', '.join(columns) or 'none'}); add it")
    further = [name for name in columns if name not in COLUMNS]
    for name in further:
        if meant := difflib.get_close_matches(name, COLUMNS.keys() - {*columns}, 1, 0.8):
            raise UserError(f"{path} has a column {name!r}; rename it to {meant[0]}, or to something less like it")
    if further:
        log.warning("warning: columns of %s that are not read: %s", path, ", ".join(further))
    rows = [(line, dict(zip(columns, cells, strict=True))) for line, cells in rows]
    commas = separator != "," and any("," in row.get(name, "") for _, row in rows for name in SECONDS)
    return rows, "," if commas else "."  # not both in one table: '1.234' is either


def _parse(dataset, path, line, row, point):
    """A line of the table as an Event."""

    def wrong(column, right):
        return UserError(f"{path}, line {line}: {row[column]!r} is no value for {column}; use {right}")

    def number(column, least=-LONGEST):
        if column not in row:
            return None
        try:
            value = as_number(row[column], point)
        except ValueError:
            raise wrong(column, f"a number of seconds, such as 1{point}5") from None
        if not least <= value <= LONGEST:
            raise wrong(column, f"a number of seconds from {least:g} to {LONGEST}")
        return value

    row["split"] = row["split"].lower()
    if row["split"] not in ("train", "test"):
        raise wrong("split", COLUMNS["split"])
    for column in ("film", "run"):
        if row.get(column) == "":
            raise wrong(column, f"the {COLUMNS[column]}")
    if {"..", "/"} & {*PurePosixPath(row.get("run", "")).parts}:
        raise wrong("run", "a name without '..' and without '/' at its beginning")
    subject = None
    if "subject" in row:
        try:
            subject = dataset.find_subject(row["subject"])
        except UserError:
            raise wrong("subject", f"one of {', '.join(map(str, dataset.subjects))}") from None
    if row.get("duration") not in ("", "n/a"):
        number("duration", least=dataset.clip_seconds - 0.5 / dataset.fps)  # half a frame less: a log's times are rounded
    start = number("start", least=0) or 0.0
    return Event(
        line, row["split"], row["film"], start, math.floor(start * dataset.fps + 0.5 + EDGE), row.get("run"), number("onset"),
        subject, "" if row.get("caption", "").lower() == "n/a" else row.get("caption", ""),
    )  # fmt: skip


def _name_films(dataset, data_root, events):
    """Call every movie by one path, however it is spelt, and below stimuli/ where BIDS has it."""
    names, known = {}, {}
    for film in dict.fromkeys(event.film for event in events):
        name = posixpath.normpath(film.replace("\\", "/"))
        if not dataset.film_path(data_root, name).exists() and dataset.film_path(data_root, f"stimuli/{name}").exists():
            name = f"stimuli/{name}"
        names[film] = known.setdefault(dataset.film_path(data_root, name).resolve(), name)
    return [replace(event, film=names[event.film]) for event in events]


# ---------------------------------------------------------------------------------------------- the whole table


def _check_times(dataset, path, events):
    """Raise a UserError for two events at one time; warn of clips that were shown while another was."""
    timed = [event for event in events if event.onset is not None]
    timed.sort(key=lambda event: (str(event.subject), event.run or "", event.onset))
    together = []
    for one, other in zip(timed, timed[1:], strict=False):
        if (one.subject, one.run) != (other.subject, other.run):
            continue
        apart = (other.onset - one.onset) * dataset.fps  # frames
        if apart < 0.5:
            first, second = sorted((one.line, other.line))
            raise UserError(
                f"{path}, line {second}: run {one.run} has an event at {one.onset:g} s already, in line {first}; delete one of the two"
            )
        if apart < dataset.clip_frames - 1:
            together.append((one, other))
    _warn(path, together, f"begin before the {dataset.clip_seconds:g} s of another of their run are over", "onset")


def _check_splits(dataset, path, events):
    """Raise a UserError for frames that are in both splits; warn of clips that share frames with another of their split."""
    of_clip, shared = {}, []
    for event in events:
        if of_clip.setdefault(event.clip, event).split != event.split:
            raise UserError(
                f"{path}, line {event.line}: the clip of {event.film} from {event.start:g} s is in both splits, "
                f"as in line {of_clip[event.clip].line}; use either train or test for it"
            )
    clips = sorted(of_clip.values(), key=lambda event: event.clip)
    for one, other in zip(clips, clips[1:], strict=False):
        # one frame is rounding
        if one.film != other.film or other.first - one.first >= dataset.clip_frames - 1:
            continue
        if one.split != other.split:
            raise UserError(
                f"{path}, lines {one.line} and {other.line}: the clips of {one.film} from {one.start:g} s and {other.start:g} s overlap, "
                f"and one is a {one.split}, one a {other.split} clip; move one of them, or use one split for both"
            )
        shared.append((one, other))
    _warn(path, shared, f"share frames with another, being {dataset.clip_seconds:g} s long", "start")
    captions = [(of_clip[event.clip], event) for event in events if event.caption not in ("", of_clip[event.clip].caption)]
    _warn(path, [pair for pair in captions if pair[0].caption], "have another caption than before, which is not used", "caption")


def _warn(path, pairs, what, column):
    if pairs:
        one, other = pairs[0]
        log.warning(
            "warning: %s: %d clips %s, such as lines %d and %d (%s: %s and %s)",
            path, len(pairs), what, one.line, other.line, column, getattr(one, column), getattr(other, column),
        )  # fmt: skip


def _check_copies(dataset, data_root, path, events):
    """Raise a UserError for a movie that is in both splits under two names."""
    splits, sizes = {}, {}
    for event in events:
        splits.setdefault(event.film, set()).add(event.split)
    for film in sorted(splits):
        file = dataset.film_path(data_root, film)
        if not file.is_file():
            continue
        known = sizes.setdefault(file.stat().st_size, [])
        for twin, of_twin in known:
            if len(splits[film] | of_twin) > 1 and sha256(twin) == sha256(file):
                raise UserError(
                    f"{path} has train and test clips of {twin} and {file}, which are copies of one movie; name one of them in both"
                )
        known.append((file, splits[film]))


# ---------------------------------------------------------------------------------------------- clips


def clips_of(events, split):
    """The clips of a split in the order of first appearance, list of Event: the first presentation of each, with its first caption."""
    first = {}
    for event in events:
        if event.split == split:
            known = first.setdefault(event.clip, event)
            first[event.clip] = known if known.caption else replace(known, caption=event.caption)
    return list(first.values())


# ---------------------------------------------------------------------------------------------- volumes


def event_volumes(onset, seconds, lag, tr, how="mean"):
    """Volumes first <= k < end that answer to an event, (first, end). Volume k is taken to lie at k * tr seconds.

    Parameters
    ----------
    onset, seconds, lag, tr : float
        s: of the clip's begin, its length, from what is seen to the response to it, between volumes
    how : str
        'mean' for all volumes from onset + lag until the clip's length later, and the nearest one when none lies there;
        'nearest' for the one volume that is nearest to onset + lag
    """
    start = (onset + lag) / tr
    first, end = math.ceil(start - EDGE), math.ceil(start + seconds / tr - EDGE)
    if how == "nearest" or end == first:
        first = math.floor(start + 0.5)
        end = first + 1
    return first, end
