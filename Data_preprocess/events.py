"""The event table of a data set of one's own: which clip was shown when, and in which run."""

import csv
import math
from dataclasses import dataclass

from common.files import UserError, missing

COLUMNS = {
    "split": "train or test",
    "film": "film or ready clip, its path below the data set's folder",
    "start": "s from the film's start to the clip's, 0 without this column",
    "run": "name of the run",
    "onset": "s from volume 0 of the run to the clip's first frame",
    "duration": "s that the clip was shown, for a check against the registry",
    "subject": "subject number, where subjects saw the clips at different times",
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
    subject: int | None
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
    data_root : folder of the raw data
    timed : bool, the table must say when and in which run each clip was shown

    Returns
    -------
    list of Event, in the table's order

    Raises
    ------
    UserError : no readable table, a column that is missing or unknown, a cell that is not what its column holds, two events
        at one time, a clip in both splits, or another number of clips than the registry says
    """
    path = dataset.events_path(data_root)
    rows = _read_table(path, CLIP_COLUMNS + (TIME_COLUMNS if timed else ()))
    events = [_parse(dataset, path, line, row) for line, row in rows]
    times, splits = {}, {}
    for event in events:
        time = (event.subject, event.run, event.onset)
        if event.onset is not None and time in times:
            found = f"a second event at {event.onset:g} s of run {event.run}, as in line {times[time]}"
            raise UserError(f"{path}, line {event.line}", "every event once", found, "delete one")
        times[time] = event.line
        if splits.setdefault(event.clip, event.split) != event.split:
            found = f"{event.film} from {event.start:g} s in both"
            raise UserError(f"{path}, line {event.line}", "every clip in one split", found, "choose one of train and test for it")
    for split in ("train", "test"):
        n = len(clips_of(events, split))
        if n != dataset.n_clips(split):
            expected = f"{dataset.n_clips(split)} different {split} clips (n_{split} of {dataset.name})"
            raise UserError(path, expected, n, "mend the table, or the entry in common/datasets.py")
    return events


def _read_table(path, required):
    """Lines of the table, list of (line number, dict of str), once its columns are right."""
    if not path.is_file():
        raise missing(path, "the event table", "write it (docs/own_data.md), or check --data_root")
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", restkey="more", restval="")
            rows, columns = [(reader.line_num, row) for row in reader], reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(path, "a readable table", f"'{error}'", "write it as UTF-8, .csv with commas or .tsv with tabs") from None
    if not set(required) <= set(columns) <= set(COLUMNS):
        expected = f"the columns {', '.join(required)}, and no others than {', '.join(COLUMNS)}"
        raise UserError(path, expected, ", ".join(columns) or "nothing", "rename or delete columns")
    for line, row in rows:
        if "more" in row:
            raise UserError(f"{path}, line {line}", f"{len(columns)} cells", len(columns) + len(row["more"]), "mend the line")
    return rows


def _parse(dataset, path, line, row):
    """A line of the table as an Event."""

    def wrong(column, expected):
        return UserError(f"{path}, line {line}", f"{column}: {expected}", repr(row[column]), "mend the table")

    def number(column, least=-math.inf):
        if column not in row:
            return None
        try:
            value = float(row[column])
        except ValueError:
            raise wrong(column, "a number of seconds") from None
        if not least <= value < math.inf:
            raise wrong(column, "a number of seconds" if least < 0 else f"{least:g} s or more")
        return value

    row = {column: cell.strip() for column, cell in row.items()}
    row["split"] = row["split"].lower()
    if row["split"] not in ("train", "test"):
        raise wrong("split", COLUMNS["split"])
    for column in ("film", "run"):
        if row.get(column) == "":
            raise wrong(column, COLUMNS[column])
    if "subject" in row and row["subject"] not in map(str, dataset.subjects):
        raise wrong("subject", f"one of {', '.join(map(str, dataset.subjects))}")
    # half a frame less: a log's times are rounded
    number("duration", least=dataset.clip_seconds - 0.5 / dataset.fps)
    return Event(
        line, row["split"], row["film"], number("start", least=0) or 0.0, row.get("run"), number("onset"),
        int(row["subject"]) if "subject" in row else None, row.get("caption", ""),
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
    """Film frame, at the registry's rate, that a clip starts with: the one nearest to its start."""
    return math.floor(event.start * fps + 0.5 + EDGE)


# ---------------------------------------------------------------------------------------------- volumes


def event_volumes(onset, seconds, lag, tr, how="mean"):
    """Volumes that answer to an event.

    Volume k is taken to lie at k * tr seconds.

    Parameters
    ----------
    onset : float, s
    seconds : float, length of the clip
    lag : float, s between what is seen and the response to it
    tr : float, s between volumes
    how : 'mean' for all volumes from onset + lag until the clip's length later, and the nearest one when none lies
        there; 'nearest' for the one volume that is nearest to onset + lag

    Returns
    -------
    first, end : int, volumes first <= k < end
    """
    start = (onset + lag) / tr
    first, end = math.ceil(start - EDGE), math.ceil(start + seconds / tr - EDGE)
    if how == "nearest" or end == first:
        first = math.floor(start + 0.5)
        end = first + 1
    return first, end
