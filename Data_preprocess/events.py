"""The event table of a data set of one's own: which clip was shown when, and in which run."""

import csv
import math
from dataclasses import dataclass

from common.files import UserError, missing

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
CLIP_COLUMNS, TIME_COLUMNS = ("split", "film"), ("run", "onset")  # what a table must have: always, and for fMRI
EDGE = 1e-6  # of a TR or a frame: rounding errors of times


@dataclass(frozen=True)
class Event:
    """One presentation of a clip: a line of the table; run, onset and subject are None where there is no such column."""

    line: int
    split: str
    film: str
    start: float
    run: str | None
    onset: float | None
    subject: int | str | None
    caption: str

    @property
    def clip(self):
        """What makes two presentations repetitions of one clip."""
        return self.film, self.start


def read_events(dataset, data_root, timed=True):
    """Read and check the event table.

    Parameters
    ----------
    dataset : OwnDataset
    data_root : str or Path
        folder of the raw data
    timed : bool
        whether the table must say when and in which run each clip was shown

    Returns
    -------
    list of Event
        in the table's order

    Raises
    ------
    UserError
        no readable table, a column that is missing or unknown, a cell that is not what its column holds, two events at one
        time, a clip in both splits, or another number of clips than the data set's entry says
    """
    path = dataset.events_path(data_root)
    rows = _read_table(path, CLIP_COLUMNS + (TIME_COLUMNS if timed else ()))
    events = [_parse(dataset, path, line, row) for line, row in rows]
    times, splits = {}, {}
    for event in events:
        time = (event.subject, event.run, event.onset)
        if event.onset is not None and time in times:
            raise UserError(
                f"{path}, line {event.line}: run {event.run} has an event at {event.onset:g} s already, in line {times[time]}; "
                "delete one of the two"
            )
        times[time] = event.line
        if splits.setdefault(event.clip, event.split) != event.split:
            raise UserError(
                f"{path}, line {event.line}: the clip of {event.film} from {event.start:g} s is in both splits; "
                "use either train or test for it"
            )
    for split in ("train", "test"):
        n = len(clips_of(events, split))
        if n != dataset.n_clips(split):
            raise UserError(
                f"{path} has {n} different {split} clips, but n_{split} of {dataset.name} is {dataset.n_clips(split)}; "
                "correct the table, or the entry in common/datasets/own.py"
            )
    return events


def _read_table(path, required):
    """Lines of the table, list of (line number, dict of str), once its columns are right."""
    if not path.is_file():
        raise missing(path, "write the event table (docs/own_data.md), or check --data_root")
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", restkey="more", restval="")
            rows, columns = [(reader.line_num, row) for row in reader], reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a readable table ({error}); write it as UTF-8, .csv with commas or .tsv with tabs") from None
    if lacking := [column for column in required if column not in columns]:
        raise UserError(f"{path} has no column {', '.join(lacking)} (it has {', '.join(columns) or 'none'}); add it")
    if unknown := [column for column in columns if column not in COLUMNS]:
        raise UserError(f"{path} has the unknown column {', '.join(unknown)}; delete it, or rename it to one of {', '.join(COLUMNS)}")
    for line, row in rows:
        if "more" in row:
            raise UserError(f"{path}, line {line} has {len(columns) + len(row['more'])} cells, not {len(columns)}; quote cells with commas")
    return rows


def _parse(dataset, path, line, row):
    """A line of the table as an Event."""

    def wrong(column, right):
        return UserError(f"{path}, line {line}: {row[column]!r} is no value for {column}; use {right}")

    def number(column, least=-math.inf):
        if column not in row:
            return None
        try:
            value = float(row[column])
        except ValueError:
            raise wrong(column, "a number of seconds") from None
        if not least <= value < math.inf:
            raise wrong(column, "a number of seconds" if least < 0 else f"a number of seconds of at least {least:g}")
        return value

    row = {column: cell.strip() for column, cell in row.items()}
    row["split"] = row["split"].lower()
    if row["split"] not in ("train", "test"):
        raise wrong("split", COLUMNS["split"])
    for column in ("film", "run"):
        if row.get(column) == "":
            raise wrong(column, f"the {COLUMNS[column]}")
    subject = None
    if "subject" in row:
        try:
            subject = dataset.find_subject(row["subject"])
        except UserError:
            raise wrong("subject", f"one of {', '.join(map(str, dataset.subjects))}") from None
    # half a frame less: a log's times are rounded
    number("duration", least=dataset.clip_seconds - 0.5 / dataset.fps)
    return Event(
        line, row["split"], row["film"], number("start", least=0) or 0.0, row.get("run"), number("onset"),
        subject, row.get("caption", ""),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- clips


def clips_of(events, split):
    """The clips of a split in the order of first appearance, list of Event: the first presentation of each."""
    first = {}
    for event in events:
        if event.split == split:
            first.setdefault(event.clip, event)
    return list(first.values())


def first_frame(event, fps):
    """Frame of the movie, at the data set's rate, that a clip starts with: the one nearest to its start."""
    return math.floor(event.start * fps + 0.5 + EDGE)


# ---------------------------------------------------------------------------------------------- volumes


def event_volumes(onset, seconds, lag, tr, how="mean"):
    """Volumes that answer to an event.

    Volume k is taken to lie at k * tr seconds.

    Parameters
    ----------
    onset : float
        s
    seconds : float
        length of the clip
    lag : float
        s between what is seen and the response to it
    tr : float
        s between volumes
    how : str
        'mean' for all volumes from onset + lag until the clip's length later, and the nearest one when none lies there;
        'nearest' for the one volume that is nearest to onset + lag

    Returns
    -------
    first, end : int
        volumes first <= k < end
    """
    start = (onset + lag) / tr
    first, end = math.ceil(start - EDGE), math.ceil(start + seconds / tr - EDGE)
    if how == "nearest" or end == first:
        first = math.floor(start + 0.5)
        end = first + 1
    return first, end
