"""From one series per run and an event table to the arrays that the decoders read; for a data set of your own.

Per run: minus a polynomial trend, z-scored per voxel over the whole run; then for every event the mean of the volumes
that were acquired from its onset + lag until a clip's length later. Presentations of the same clip are averaged. All
voxels are kept, those of a mask, or those whose responses to the training clips repeat best: Pearson r over clips
between the means of odd and of even presentations, largest first.

Who has a row per clip already (GLM estimates, say) gives these arrays instead of runs: --fmri_train, --fmri_test.

Reads    {data_root}/{data set}/events.csv and the run's series, .dtseries.nii (cortex) or .npy (volumes, voxels)
Writes   fMRI_in_fslr/sub{s}/events/{run}.npy                       (events of the run, voxels) float32
         .../activated_mask/mask_{n}.npy                            (voxels of the series,) 0/1
         .../activated_mask/mask_correct.npy                        the same; over the 59412 cortical vertices where these are known
         .../activated_mask/{correlation,test_correlation}.npy      (voxels,) float64, where clips were shown more than once
         .../Train/masked{n}_trn_data.npy, Test/masked{n}_test_data.npy     (clips, n) float32
         .../report.json, figures/                                  figures only where cortical vertices are known

    python Data_preprocess/Own/step4_convert_event_fMRI.py --dataset mine --data_root DATA --subj_ID 1 2
    python Data_preprocess/Own/step4_convert_event_fMRI.py --dataset mine --data_root DATA --lag 5 --volumes nearest
    python Data_preprocess/Own/step4_convert_event_fMRI.py --dataset mine --fmri_train train.npy --fmri_test test.npy

1.5 core-seconds per run of 245 volumes of the cortex, and 1 GB a worker; the selected rows are held besides.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common import cli, fmri
from common.cifti import open_series
from common.cortex import N_CORTEX
from common.cortex_maps import draw_cortex
from common.datasets import OwnDataset, get_dataset
from Data_preprocess.events import clips_of, event_volumes, read_events
from common.files import UserError, card_path, load_array, load_mask, read_json, save_array, sha256, write_json
from common.layout import Layout
from common.records import Record
from common.workers import add_workers_flag, remove_partial, run_jobs

TREND_ORDER = 4  # as CC2017
LEAST_REPEATED = 16  # clips shown more than once, below which their correlation says nothing
BLOCK = 2048  # voxels correlated at a time
MADE_BY = "Data_preprocess/Own/step4_convert_event_fMRI.py"
MAPS = {  # voxel maps that are kept, with their units
    "correlation": "Pearson r over training clips, odd against even presentations",
    "test_correlation": "Pearson r over test clips, odd against even presentations",
}


# ---------------------------------------------------------------------------------------------- one run


@dataclass(frozen=True)
class Run:
    """One run of one subject: what goes in and where it ends up.

    Attributes
    ----------
    name : str
    path : Path of its series
    windows : tuple of (first, end), the volumes of each event, in the table's order
    trend_order : int
    rows : Path of the array that it becomes
    """

    name: str
    path: Path
    windows: tuple
    trend_order: int
    rows: Path

    def how(self):
        """What the array depends on, as its data card keeps it."""
        stat = self.path.stat()
        return {
            "source": {"file": self.path.name, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns},
            "windows": [list(window) for window in self.windows],
            "trend_order": self.trend_order,
        }

    def is_done(self):
        """True when the run's array is there and made from this file in this way."""
        if not (self.rows.exists() and card_path(self.rows).exists()):
            return False
        made, how = read_json(card_path(self.rows)), self.how()
        return {key: made[key] for key in how} == how


def is_cifti(path):
    return not path.name.endswith(".npy")


def read_shape(path, tr, ignore_header_tr):
    """(volumes, voxels) of a series, from its header."""
    if not is_cifti(path):
        series = load_array(path, shape=(None, None), finite=False, mmap=True, do="give the run's series as (volumes, voxels)")
        if series.dtype.kind not in "fiu":
            raise UserError(path, "numbers", f"type {series.dtype}", "give the run's series as (volumes, voxels)")
        return series.shape
    series = open_series(path)
    if abs(series.tr - tr) > 1e-3 and not ignore_header_tr:
        do = "mend tr in common/datasets.py, or --ignore_header_tr when the header is wrong"
        raise UserError(path, f"{tr:g} s between volumes", f"{series.tr:g} s in its header", do)
    return series.n_volumes, N_CORTEX


def list_runs(args, dataset, layout, subject, events):
    """Runs of a subject, and the number of voxels; every series is looked at before any is worked on."""
    of_run, runs, shapes = {}, [], {}
    for event in events:
        of_run.setdefault(event.run, []).append(event)
    lag = dataset.lag_seconds if args.lag is None else args.lag
    for name, shown in of_run.items():
        path = dataset.series_path(args.data_root, subject, name)
        n_volumes, shapes[path] = read_shape(path, dataset.tr, args.ignore_header_tr)
        windows = []
        for event in shown:
            first, end = event_volumes(event.onset, dataset.clip_seconds, lag, dataset.tr, args.volumes)
            if not 0 <= first < end <= n_volumes:
                expected = f"volumes {first} to {end - 1} for the event of line {event.line}, {event.onset:g} s after volume 0"
                do = "mend the event table, tr or --lag, or copy the file again"
                raise UserError(path, expected, f"volumes 0 to {n_volumes - 1}", do)
            windows.append((first, end))
        if n_volumes <= args.trend_order:
            raise UserError(path, f"more than {args.trend_order} volumes", n_volumes, "copy the file again, or lower --trend_order")
        rows = layout.fmri_report(subject).parent / "events" / f"{name}.npy"
        runs.append(Run(name, path, tuple(windows), args.trend_order, rows))
    paths = list(shapes)
    for path in paths[1:]:
        if shapes[path] != shapes[paths[0]]:
            expected = f"{shapes[paths[0]]} voxels, as {paths[0].name} has"
            raise UserError(path, expected, shapes[path], "give all runs of a subject in one space, as (volumes, voxels)")
    return runs, shapes[paths[0]]


def convert_run(run):
    """Write the rows of one run's events."""
    series = open_series(run.path).read() if is_cifti(run.path) else load_array(run.path, finite=False)
    clean, not_finite, constant = fmri.clean_run(series, run.trend_order)
    bad = not_finite | constant
    if bad.all():
        what = "NaN or infinity in every voxel" if not_finite.any() else "constant values in every voxel"
        raise UserError(run.path, "a signal", what, "copy the file again, or leave such volumes out")
    rows = np.stack([clean[first:end].mean(axis=0) for first, end in run.windows])
    save_array(
        run.rows, rows.astype(np.float32), rows=f"events of {run.name} in the table's order", units="z over the run, mean over volumes",
        made_by=MADE_BY, **run.how(), source_sha256=sha256(run.path), bad_voxels=np.flatnonzero(bad), volumes=len(series),
    )  # fmt: skip


def check_rows(runs):
    """Name an altered array, and two runs that have the same series."""
    seen = {}
    for run in runs:
        load_array(run.rows, finite=False, mmap=True, verify=True, do="delete it and run this step again")
        checksum = read_json(card_path(run.rows))["source_sha256"]
        if checksum in seen:
            raise UserError(run.path, f"another scan than {seen[checksum].name}", "the same values", "copy the right file")
        seen[checksum] = run.path


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
            what = f"an event with {clip.film} from {clip.start:g} s for subject {subject}"
            raise UserError("the event table", what, "none", "every subject needs every clip: mend the table")
    return [places[clip.clip] for clip in clips_of(events, split)]


def average_rows(runs, presentations, voxels):
    """Mean response to each clip.

    Parameters
    ----------
    runs : list of Run, done
    presentations : list of lists of (run number, row), at least one a clip
    voxels : (n,) int, which are wanted

    Returns
    -------
    (clips, n) float64
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


def measure(runs, shown, bad):
    """Agreement of presentations, of the splits in which enough clips were shown more than once.

    Parameters
    ----------
    runs : list of Run, done
    shown : dict split -> presentations
    bad : (V,) bool, voxels without a signal in some run

    Returns
    -------
    dict of (V,) arrays, some or all of MAPS; NaN for a bad voxel
    """
    maps = {}
    for key, split in (("correlation", "train"), ("test_correlation", "test")):
        repeated = [places for places in shown[split] if len(places) > 1]
        if len(repeated) >= LEAST_REPEATED:
            maps[key] = correlate_halves(runs, repeated, bad)
    return maps


def select_voxels(args, dataset, n_voxels, maps):
    """Mask of the voxels to keep, (V,) bool, and in words how they were chosen."""
    n, entry = dataset.n_vertices, f"n_vertices of {dataset.name} in common/datasets.py"
    if n > n_voxels:
        raise UserError(entry, f"at most {n_voxels}, the voxels of the series", n, "choose fewer")
    if args.mask_from:
        mask, how = load_mask(args.mask_from, n_voxels), f"taken from {args.mask_from.name}"
        if n and mask.sum() != n:
            raise UserError(args.mask_from, f"{n} ones ({entry})", mask.sum(), "give another mask, or mend the entry")
        return mask, how
    if n in (0, n_voxels):
        return np.ones(n_voxels, bool), "all voxels"
    if "correlation" not in maps:
        found = f"{n_voxels} in the series, and fewer than {LEAST_REPEATED} training clips that were shown twice"
        raise UserError(entry, f"a way to choose {n} voxels", found, "give --mask_from, or let n_vertices = 0 keep all")
    try:
        # over one number of clips, the largest r has the smallest one-sided p
        mask = fmri.select_vertices(maps["correlation"], -maps["correlation"], n)
        return mask, "largest correlation of odd with even presentations over training clips"
    except ValueError as error:
        raise UserError(entry, "no more than there are voxels with a signal in all runs", str(error), "choose fewer") from None


def load_vertices(args, n_voxels):
    """Cortical vertex of every voxel, (V,) int; None where it is not known."""
    if not args.vertices:
        return None
    do = "give ascending vertex numbers from 0 to 59411, one per voxel, and the voxels in the same order"
    vertices = load_array(args.vertices, shape=(n_voxels,), do=do)
    if vertices.dtype.kind not in "iu" or not ((np.diff(vertices) > 0).all() and 0 <= vertices[0] and vertices[-1] < N_CORTEX):
        raise UserError(args.vertices, "ascending vertex numbers", f"{vertices[:3]}...", do)
    return vertices


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, subject="several")
    group = parser.add_argument_group("events")
    group.add_argument("--lag", type=float, metavar="SECONDS", help="from a clip's onset to its first volume (default: the registry's)")
    group.add_argument(
        "--volumes", choices=["mean", "nearest"], default="mean",
        help="mean over the volumes of the clip's length from onset + lag on, or the one volume nearest to onset + lag",
    )  # fmt: skip
    group.add_argument("--trend_order", type=int, default=TREND_ORDER, help="degree of the polynomial trend that is removed per run")
    group.add_argument("--ignore_header_tr", action="store_true", help="trust the registry's TR against a CIFTI header that differs")
    group = parser.add_argument_group("ready rows, of one subject")
    group.add_argument("--fmri_train", type=Path, metavar="FILE.npy", help="(clips, voxels), rows in clip order, instead of runs")
    group.add_argument("--fmri_test", type=Path, metavar="FILE.npy", help="the same for the test clips")
    group = parser.add_argument_group("voxels")
    group.add_argument("--mask_from", type=Path, metavar="FILE.npy", help="keep the voxels of this mask instead of selecting some")
    group.add_argument("--vertices", type=Path, metavar="FILE.npy", help="cortical vertex (0 to 59411) of every voxel of .npy series")
    group.add_argument("--test_norm", choices=["own", "train"], default="own", help="whose statistics scale the test rows")
    group.add_argument("--no_figures", action="store_true", help="leave the figures out")
    add_workers_flag(parser, "runs")
    return parser


def main(args):
    dataset, layout = get_dataset(args.dataset, OwnDataset), Layout.of(args)
    ready = [path for path in (args.fmri_train, args.fmri_test) if path]
    if ready and (len(ready) == 1 or len(args.subj_ID) > 1):
        raise UserError("--fmri_train, --fmri_test", "both, and one --subj_ID", "something else", "give both arrays of one subject")
    for subject in args.subj_ID:
        dataset.check_subject(subject)
        prepare(args, dataset, layout, subject, ready)


def prepare(args, dataset, layout, subject, ready):
    """All of this step for one subject; `ready` holds two paths where rows are given instead of runs."""
    folder = layout.fmri_report(subject).parent
    inputs = (ready or [dataset.events_path(args.data_root)]) + [path for path in (args.mask_from, args.vertices) if path]
    runs, shown, n_voxels = [], {}, None
    if ready:
        rows = [load_array(path, shape=(dataset.n_clips(split), None)) for split, path in zip(("train", "test"), ready, strict=True)]
        n_voxels = rows[0].shape[1]
        if rows[1].shape[1] != n_voxels:
            raise UserError(args.fmri_test, f"{n_voxels} voxels, as {args.fmri_train.name} has", rows[1].shape[1], "give the same voxels")
    else:
        events = read_events(dataset, args.data_root)
        runs, n_voxels = list_runs(args, dataset, layout, subject, [e for e in events if e.subject in (None, subject)])
        shown = {split: find_presentations(runs, events, split, subject) for split in ("train", "test")}
    vertices = np.arange(N_CORTEX) if runs and is_cifti(runs[0].path) else load_vertices(args, n_voxels)
    record = Record(folder, args, inputs, neutral={"subj_ID", "no_figures"})
    if all(run.is_done() for run in runs) and arrays_are_there(dataset, layout, subject) and record.is_done():
        return
    record.check_same()
    if args.overwrite:
        shutil.rmtree(folder / "events", ignore_errors=True)
    remove_partial(folder)
    record.start()
    run_jobs(convert_run, [run for run in runs if not run.is_done()], args.workers, f"{dataset.name} subject {subject}", "run")
    check_rows(runs)

    bad = np.zeros(n_voxels, bool)
    for run in runs:
        bad[read_json(card_path(run.rows))["bad_voxels"]] = True
    maps = measure(runs, shown, bad) if runs else {}
    mask, how = select_voxels(args, dataset, n_voxels, maps)
    rows = (
        [values[:, mask] for values in rows]
        if ready
        else [average_rows(runs, shown[split], np.flatnonzero(mask)) for split in ("train", "test")]
    )
    shapes = write_arrays(args, dataset, layout, subject, rows, mask, vertices, maps, how)
    report = make_report(args, dataset, subject, runs, shown, bad, maps, mask, how, shapes)
    write_json(layout.fmri_report(subject), report)
    if vertices is not None and not args.no_figures:
        draw_figures(folder / "figures", f"{dataset.name}, subject {subject}", maps, mask, vertices)
    print_summary(dataset, subject, report)
    record.finish(shapes=shapes, expected=report["expected"])


def arrays_are_there(dataset, layout, subject):
    """True when the last finished run of this script wrote what the registry entry asks for, and it is on disk."""
    report = layout.fmri_report(subject)
    paths = [layout.masked_fmri(subject, split, dataset.n_vertices) for split in ("train", "test")]
    return (
        report.exists()
        and set(read_json(report)["shapes"]) == {p.name for p in paths}
        and all(p.exists() for p in [*paths, layout.mask(subject)])
    )


def write_arrays(args, dataset, layout, subject, rows, mask, vertices, maps, how):
    """Write voxel maps, masks and standardised rows; returns the rows' shapes by file name."""
    folder, shapes = layout.mask(subject).parent, {}
    for key, values in maps.items():
        save_array(folder / f"{key}.npy", values, rows="voxels of the series", units=MAPS[key], made_by=MADE_BY)
    on_cortex = mask
    if vertices is not None:
        on_cortex = np.zeros(N_CORTEX, bool)
        on_cortex[vertices[mask]] = True
    where = "voxels of the series" if vertices is None else f"{N_CORTEX} cortical vertices, left then right"
    for path, values, what in (
        (folder / f"mask_{mask.sum()}.npy", mask, "voxels of the series"), (layout.mask(subject), on_cortex, where),
    ):  # fmt: skip
        save_array(path, values.astype(np.uint8), rows=what, units="1 where selected", made_by=MADE_BY, selection=how)
    columns = {"voxels" if vertices is None else "vertices": np.flatnonzero(on_cortex)}
    for split, values in zip(("train", "test"), fmri.standardise(*rows, args.test_norm), strict=True):
        path = layout.masked_fmri(subject, split, dataset.n_vertices)
        save_array(
            path, values, rows=f"clips in the data set's order, {split}_1 to {split}_{len(values)}", made_by=MADE_BY,
            units=f"z per voxel, by the statistics of the {'training' if args.test_norm == 'train' else 'own'} rows",
            dataset=dataset.name, subject=subject, selection=how, **columns,
        )  # fmt: skip
        shapes[path.name] = list(values.shape)
    return shapes


def make_report(args, dataset, subject, runs, shown, bad, maps, mask, how, shapes):
    """Content of report.json."""
    cards = [read_json(card_path(run.rows)) for run in runs]
    repetitions = {"inter_repetition_correlation": "correlation", "test_repetition_correlation": "test_correlation"}
    return {
        "dataset": dataset.name, "phantom": dataset.is_phantom, "subject": subject,
        "vertices": {"all": len(mask), "selected": [int(mask.sum())]},
        "shapes": shapes, "expected": {split: dataset.n_clips(split) for split in ("train", "test")}, "selection": {"how": how},
        "test_norm": args.test_norm, "trend_order": args.trend_order, "volumes": args.volumes, "tr": dataset.tr,
        "lag_seconds": dataset.lag_seconds if args.lag is None else args.lag,
        "presentations": {split: {"least": min(map(len, clips)), "most": max(map(len, clips))} for split, clips in shown.items()},
        "bad_vertices": {"in_any_series": int(bad.sum()), "selected_and_bad": int((bad & mask).sum())},
        **{
            name: {"all": fmri.summarise(maps[key]), "selected": fmri.summarise(maps[key][mask])}
            for name, key in repetitions.items() if key in maps
        },
        "runs": {
            run.name: {
                "file": card["source"]["file"], "sha256": card["source_sha256"], "volumes": card["volumes"],
                "events": len(run.windows), "bad_voxels": len(card["bad_voxels"]),
            }
            for run, card in zip(runs, cards, strict=True)
        },
    }  # fmt: skip


def draw_figures(folder, who, maps, mask, vertices):
    """Maps on the cortex: the mask, and how well training clips repeat."""
    values = np.full(N_CORTEX, np.nan)
    values[vertices[mask]] = 1
    draw_cortex(folder / "mask.png", values, f"{who}: the {mask.sum()} selected vertices", "selected", cmap="autumn", vmin=0, vmax=1)
    if "correlation" in maps:
        values = np.full(N_CORTEX, np.nan)
        values[vertices] = maps["correlation"]
        limit, title = np.nanmax(np.abs(values)), f"{who}: {MAPS['correlation']}"
        draw_cortex(folder / "repetition_correlation.png", values, title, "Pearson r", cmap="RdBu_r", vmin=-limit, vmax=limit)


def print_summary(dataset, subject, report):
    n_events = sum(run["events"] for run in report["runs"].values())
    print(f"{dataset.name} subject {subject}: {n_events} events in {len(report['runs'])} runs, {report['vertices']['all']} voxels")
    for name, shape in report["shapes"].items():
        expected = report["expected"]["train" if "trn" in name else "test"]
        print(f"  {name}: {shape[0]} clips x {shape[1]} voxels, {expected} clips expected")
    print(f"  {report['bad_vertices']['in_any_series']} voxels NaN or constant in some run, set to 0")
    for key, what in (("inter_repetition_correlation", "training"), ("test_repetition_correlation", "test")):
        if key in report and report[key]["selected"]:
            print(f"  selected voxels: {what} repetitions correlate with r = {report[key]['selected']['mean']:.3f} on average")


if __name__ == "__main__":
    cli.run(main, get_parser)
