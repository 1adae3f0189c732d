"""Runs of a data set with an event table: rows of every run's events, and their means over presentations."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common import fmri
from common.cortex import N_CORTEX
from common.files import UserError, card_path, load_array, read_json, save_array, sha256
from Data_preprocess import fmri_arrays, fmri_runs
from Data_preprocess.cifti import find_series, open_series
from Data_preprocess.events import clips_of, event_volumes

_AGAIN = "delete it and run this step again"
BLOCK = 2048  # voxels correlated at a time
FAR = 10  # times its length that a run's last event ends at, where onsets are hardly in seconds
log = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------- one run


@dataclass(frozen=True)
class Run:
    """One run of one subject: what goes in and where it ends up."""

    name: str
    path: Path  # of its series
    windows: tuple  # (first, end) volume of each event, in the table's order
    trend_order: int
    rows: Path  # of the array that it becomes

    def how(self):
        """What the array depends on, as its data card keeps it."""
        windows = [list(window) for window in self.windows]
        return {"source": fmri_arrays.file_facts(self.path), "windows": windows, "trend_order": self.trend_order}

    def is_done(self):
        return fmri_arrays.is_made(self.rows, self.how())


def is_cifti(path):
    return not path.name.endswith(".npy")


def read_shape(path, tr):
    """(volumes, voxels) of a series, from its header; `tr` None asks for no TR."""
    if not is_cifti(path):
        do = "give the run's series as (volumes, voxels)"
        series = load_array(path, shape=(None, None), finite=False, mmap=True, do=do)
        if series.dtype.kind not in "fiu":
            raise UserError(f"{path} holds values of type {series.dtype}, not numbers; {do}")
        return series.shape
    series = open_series(path)
    if tr is not None and series.tr and abs(series.tr - tr) > 1e-3:
        raise UserError(
            f"{path} has {series.tr:g} s between volumes in its header, not the registry's {tr:g} s; "
            "correct tr in the registry, or use --ignore_header_tr if the header is wrong"
        )
    return series.n_volumes, N_CORTEX


def check_orientation(path, shape, needed, last, tr):
    """What is odd about the length of a series of a shape, in words; None for nothing.

    Events need so many volumes and the last of them ends at `last`, s. A UserError for (voxels, volumes): rows that cannot be volumes,
    and columns that can; and for a last event that is far past the run's end.
    """
    most = (last + max(60, last / 2)) / tr  # a run goes on for a while after its last event
    if needed <= shape[0] <= most:
        return None
    if not is_cifti(path) and needed <= shape[1] <= most:
        raise UserError(
            f"{path} has {shape[0]} rows and {shape[1]} columns, and events until {last:g} s need volumes every {tr:g} s: it seems to be "
            "(voxels, volumes); write it as (volumes, voxels)"
        )
    lasts = f"{path} lasts {shape[0] * tr:g} s ({shape[0]} volumes), and its last event ends at {last:g} s"
    if needed > FAR * shape[0]:
        raise UserError(f"{lasts}, far past the run's end; are the onsets in seconds?")
    return f"{lasts}; check tr in the registry, the onsets and the orientation of the series" if shape[0] > most else None


def list_runs(dataset, layout, data_root, subject, events, *, lag, volumes, trend_order, check_tr):
    """Runs of a subject, and the number of voxels; every series is looked at before any is worked on."""
    of_run, runs, shapes = {}, [], {}
    for event in events:
        of_run.setdefault(event.run, []).append(event)
    for name, shown in of_run.items():
        path = dataset.series_path(data_root, subject, name)
        path = find_series(path) if is_cifti(path) else path
        n_volumes, shapes[path] = shape = read_shape(path, dataset.tr if check_tr else None)
        windows = [event_volumes(event.onset, dataset.clip_seconds, lag, dataset.tr, volumes) for event in shown]
        last = max(event.onset for event in shown) + dataset.clip_seconds
        if odd := check_orientation(path, shape, max(end for _, end in windows), last, dataset.tr):
            log.warning("warning: %s", odd)
        for event, (first, end) in zip(shown, windows, strict=True):
            if not 0 <= first < end <= n_volumes:
                raise UserError(
                    f"{path} has volumes 0 to {n_volumes - 1}, and the event of line {event.line}, {event.onset:g} s after volume 0, "
                    f"needs volumes {first} to {end - 1}; correct the event table, tr or --lag, or copy the file again"
                )
        if n_volumes <= trend_order:
            raise UserError(f"{path} has {n_volumes} volumes, too few for a trend of order {trend_order}; use a smaller --trend_order")
        runs.append(Run(name, path, tuple(windows), trend_order, layout.fmri_report(subject).parent / "events" / f"{name}.npy"))
    paths = list(shapes)
    for path in paths[1:]:
        if shapes[path] != shapes[paths[0]]:
            raise UserError(
                f"{path} has {shapes[path]} voxels and {paths[0].name} has {shapes[paths[0]]}; "
                "give all runs of a subject in one space, as (volumes, voxels)"
            )
    return runs, shapes[paths[0]]


def convert_run(job):
    """Write the rows of one run's events; the job is (Run, the script's name for the data card)."""
    run, made_by = job
    series = open_series(run.path).read() if is_cifti(run.path) else load_array(run.path, finite=False)
    clean, not_finite, constant = fmri_runs.clean_run(series, run.trend_order)
    fmri_arrays.check_signal(run.path, not_finite, constant, "voxel")
    rows = np.stack([clean[first:end].mean(axis=0) for first, end in run.windows])
    save_array(
        run.rows, rows.astype(np.float32), rows=f"events of {run.name} in the table's order", units="z over the run, mean over volumes",
        made_by=made_by, **run.how(), source_sha256=sha256(run.path), bad_voxels=np.flatnonzero(not_finite | constant), volumes=len(series),
    )  # fmt: skip


def read_card(run):
    """Data card of a run that is done, dict."""
    return read_json(card_path(run.rows), {"source": {"file": str}, "source_sha256": str, "volumes": int, "bad_voxels": [int]}, _AGAIN)


def check_rows(runs):
    """Raise a UserError for an altered array, and for two runs that have the same series."""
    seen = {}
    for run in runs:
        load_array(run.rows, finite=False, mmap=True, verify=True, do=_AGAIN)
        series = read_card(run)["source_sha256"]
        if series in seen:
            raise UserError(f"{run.path} has the same values as {seen[series].name}; copy the right file")
        seen[series] = run.path


# ---------------------------------------------------------------------------------------------- all runs of a subject


def find_presentations(runs, events, split, subject):
    """Where the responses to each clip of a split stand, in clip order: list of lists of (run number, row)."""
    numbers, rows, places = {run.name: i for i, run in enumerate(runs)}, {}, {}
    for event in events:
        if event.subject in (None, subject):
            row = rows[event.run] = rows.get(event.run, -1) + 1
            places.setdefault(event.clip, []).append((numbers[event.run], row))
    for clip in clips_of(events, split):
        if clip.clip not in places:
            raise UserError(
                f"the event table has no event with {clip.film} from {clip.start:g} s for subject {subject}; every subject needs every clip"
            )
    return [places[clip.clip] for clip in clips_of(events, split)]


def average_rows(runs, presentations, voxels):
    """Mean response to each clip, (clips, voxels wanted) float64.

    `presentations` are the (run number, row) of each clip, at least one, `voxels` those that are wanted, int.
    """
    total = np.zeros((len(presentations), len(voxels)))
    for number, run in enumerate(runs):
        here = [(clip, row) for clip, places in enumerate(presentations) for at, row in places if at == number]
        if here:
            clips, rows = map(list, zip(*here, strict=True))
            np.add.at(total, clips, load_array(run.rows, finite=False, mmap=True)[np.ix_(rows, voxels)])
    return total / np.array([[len(places)] for places in presentations])


def correlate_halves(runs, presentations, bad):
    """Pearson r over clips between the means of odd and of even presentations, (V,) float64; NaN for a bad voxel."""
    halves = [[places[first::2] for places in presentations] for first in (0, 1)]
    blocks = np.split(np.arange(len(bad)), range(BLOCK, len(bad), BLOCK))
    r = [
        fmri.correlate_repetitions(*(average_rows(runs, half, block) for half in halves))
        for block in tqdm(blocks, desc="repetitions", unit="block")
    ]
    return np.where(bad, np.nan, np.concatenate(r))
