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
         .../masked{n}_statistics.npy                               (4, n) float64: mean and std that scaled each split's rows
         .../report.json, figures/                                  figures only where cortical vertices are known

    python Data_preprocess/Own/step4_convert_event_fMRI.py --dataset mine --data_root DATA --subj_ID 1 2
    python Data_preprocess/Own/step4_convert_event_fMRI.py --dataset mine --data_root DATA --lag 5 --volumes nearest
    python Data_preprocess/Own/step4_convert_event_fMRI.py --dataset mine --fmri_train train.npy --fmri_test test.npy

1.5 core-seconds per run of 245 volumes of the cortex, and 1 GB a worker; the selected rows are held besides.
"""

from pathlib import Path

import numpy as np

from common import cli, fmri
from common.cortex import N_CORTEX
from common.datasets import OwnDataset, get_dataset
from common.files import UserError, load_array, write_json
from common.fmri import TREND_ORDER
from common.layout import Layout
from common.records import working
from common.workers import run_jobs
from Data_preprocess import event_runs, fmri_arrays
from Data_preprocess.events import events_of, read_events
from Data_preprocess.vertex_figures import draw_figures

LEAST_REPEATED = 16  # clips shown more than once, below which their correlation says nothing
MADE_BY = "Data_preprocess/Own/step4_convert_event_fMRI.py"
VOXELS = "voxels of the series"
MAPS = {  # voxel maps that are kept, with their units
    "correlation": "Pearson r over training clips, odd against even presentations",
    "test_correlation": "Pearson r over test clips, odd against even presentations",
}


# ---------------------------------------------------------------------------------------------- voxels


def measure(runs, shown, bad):
    """Agreement of presentations, of the splits in which enough clips were shown more than once.

    Parameters
    ----------
    shown : dict
        split -> presentations
    bad : array, shape (V,), bool
        voxels without a signal in some run

    Returns
    -------
    dict of arrays, shape (V,)
        some or all of MAPS; NaN for a bad voxel
    """
    maps = {}
    for key, split in (("correlation", "train"), ("test_correlation", "test")):
        repeated = [places for places in shown[split] if len(places) > 1]
        if len(repeated) >= LEAST_REPEATED:
            maps[key] = event_runs.correlate_halves(runs, repeated, bad)
    return maps


def select_voxels(dataset, n_voxels, maps, mask_from):
    """Mask of the voxels to keep, (V,) bool, and in words how they were chosen."""
    n, entry = dataset.n_vertices, f"n_vertices of {dataset.name}"
    if n > n_voxels:
        raise UserError(f"{entry} is {n}, and the series have {n_voxels} voxels; use a smaller number in the registry")
    if mask_from:
        mask, how = fmri_arrays.mask_of_file(mask_from, n_voxels)
        if n and mask.sum() != n:
            raise UserError(f"{mask_from} has {mask.sum()} ones, and {entry} is {n}; give another mask, or correct the registry")
        return mask, how
    if n in (0, n_voxels):
        return np.ones(n_voxels, bool), "all voxels"
    if "correlation" not in maps:
        raise UserError(
            f"{entry} is {n} of {n_voxels}, and fewer than {LEAST_REPEATED} training clips were shown twice, by which voxels could be chosen; "
            "give --mask_from, or keep all with n_vertices = 0"
        )
    try:
        # over one number of clips, the largest r has the smallest one-sided p
        mask = fmri.select_vertices(maps["correlation"], -maps["correlation"], n)
        return mask, "largest correlation of odd with even presentations over training clips"
    except ValueError as error:
        raise UserError(f"{entry} is more than there are voxels with a signal in all runs ({error}); use a smaller number") from None


def load_vertices(path, n_voxels):
    """Cortical vertex of every voxel, (V,) int; None where it is not known."""
    if not path:
        return None
    do = f"give ascending vertex numbers from 0 to {N_CORTEX - 1}, one per voxel, and the voxels in the same order"
    vertices = load_array(path, shape=(n_voxels,), do=do)
    if vertices.dtype.kind not in "iu" or not ((np.diff(vertices) > 0).all() and 0 <= vertices[0] and vertices[-1] < N_CORTEX):
        raise UserError(f"{path} does not hold ascending vertex numbers; {do}")
    return vertices


def load_ready(dataset, paths):
    """Rows that somebody has made, dict split -> (clips, V) array."""
    rows = {split: load_array(path, shape=(dataset.n_clips(split), None)) for split, path in paths.items()}
    train, test = (rows[split].shape[1] for split in ("train", "test"))
    if train != test:
        raise UserError(f"{paths['test']} has {test} voxels and {paths['train']} has {train}; give the same voxels")
    return rows


# ---------------------------------------------------------------------------------------------- arrays and report


def onto_cortex(values, vertices, fill):
    """Values of voxels on the whole cortex, (59412,); unchanged where their vertices are not known."""
    if vertices is None:
        return values
    cortical = np.full(N_CORTEX, fill)
    cortical[vertices] = values
    return cortical


def write_arrays(dataset, layout, subject, rows, mask, vertices, maps, how, test_norm):
    """Write voxel maps, masks and standardised rows; returns the rows' shapes by file name."""
    folder, about = layout.mask(subject).parent, {"how": how, "made_by": MADE_BY}
    fmri_arrays.save_maps(layout, subject, maps, MAPS, rows=VOXELS, made_by=MADE_BY)
    fmri_arrays.save_mask(folder / f"mask_{mask.sum()}.npy", mask, rows=VOXELS, **about)
    on_cortex = onto_cortex(mask, vertices, False)
    fmri_arrays.save_mask(layout.mask(subject), on_cortex, rows=VOXELS if vertices is None else fmri_arrays.CORTEX_ROWS, **about)
    columns = {"voxels" if vertices is None else "vertices": np.flatnonzero(on_cortex)}
    return fmri_arrays.save_standardised(
        layout, dataset, subject, rows["train"], rows["test"], test_norm,
        n_vertices=int(mask.sum()), made_by=MADE_BY, selection=how, **columns,
    )  # fmt: skip


def make_report(report, runs, shown, bad, maps, mask):
    """Content of report.json, beyond what all data sets' reports say."""
    cards = [event_runs.read_card(run) for run in runs]
    repetitions = {"inter_repetition_correlation": "correlation", "test_repetition_correlation": "test_correlation"}
    return report | {
        "presentations": {split: {"least": min(map(len, clips)), "most": max(map(len, clips))} for split, clips in shown.items()},
        "bad_vertices": {"in_any_series": int(bad.sum()), "selected_and_bad": int((bad & mask).sum())},
        **{name: fmri_arrays.summarise_map(maps[key], mask) for name, key in repetitions.items() if key in maps},
        "runs": {
            run.name: {
                "file": card["source"]["file"],
                "sha256": card["source_sha256"],
                "volumes": card["volumes"],
                "events": len(run.windows),
                "bad_voxels": len(card["bad_voxels"]),
            }
            for run, card in zip(runs, cards, strict=True)
        },
    }


def print_summary(dataset, subject, report):
    n_events = sum(run["events"] for run in report["runs"].values())
    print(f"{dataset.name} subject {subject}: {n_events} events in {len(report['runs'])} runs, {report['vertices']['all']} voxels")
    fmri_arrays.print_arrays(report)
    print(f"  {report['bad_vertices']['in_any_series']} voxels NaN or constant in some run, set to 0")
    for key, what in (("inter_repetition_correlation", "training"), ("test_repetition_correlation", "test")):
        if key in report and report[key]["selected"]:
            print(f"  selected voxels: {what} repetitions correlate with r = {report[key]['selected']['mean']:.3f} on average")


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, subject="several")
    group = parser.add_argument_group("events")
    group.add_argument(
        "--lag", type=cli.real(-60, 60), metavar="SECONDS", help="time from a clip's onset to its first volume (default: the registry's)"
    )
    group.add_argument(
        "--volumes", choices=["mean", "nearest"], default="mean",
        help="volumes that a response is: the mean of a clip's length from onset + lag on, or the one nearest to onset + lag",
    )  # fmt: skip
    group.add_argument(
        "--trend_order", type=cli.whole(0, 20), default=TREND_ORDER, help="degree of the polynomial trend that is removed per run"
    )
    group = parser.add_argument_group("ready rows, of one subject")
    group.add_argument("--fmri_train", type=Path, metavar="FILE.npy", help="(clips, voxels) array, rows in clip order, instead of runs")
    group.add_argument("--fmri_test", type=Path, metavar="FILE.npy", help="the same for the test clips")
    group = parser.add_argument_group("voxels")
    group.add_argument("--mask_from", type=Path, metavar="FILE.npy", help="mask of the voxels to keep instead of selecting some")
    group.add_argument("--vertices", type=Path, metavar="FILE.npy", help="cortical vertex (0 to 59411) of every voxel of .npy series")
    fmri_arrays.add_norm_flag(group)
    fmri_arrays.add_run_flags(group, parser)
    return parser


def main(args):
    dataset, layout = get_dataset(args.dataset, OwnDataset), Layout.of(args)
    ready = {split: path for split, path in (("train", args.fmri_train), ("test", args.fmri_test)) if path}
    if ready and (len(ready) == 1 or len(args.subj_ID) > 1):
        raise UserError("--fmri_train and --fmri_test belong together, and to one --subj_ID; give both arrays of one subject")
    lag = dataset.lag_seconds if args.lag is None else args.lag
    settings = {"test_norm": args.test_norm, "trend_order": args.trend_order, "volumes": args.volumes, "tr": dataset.tr, "lag_seconds": lag}
    for subject in args.subj_ID:
        runs, shown, rows = [], {}, None
        if ready:
            rows = load_ready(dataset, ready)
            n_voxels = rows["train"].shape[1]
        else:
            events = read_events(dataset, args.data_root)  # of all subjects, whose clips are in one order
            runs, n_voxels = event_runs.list_runs(
                dataset, layout, args.data_root, subject, events_of(dataset, args.data_root, events, subject),
                lag=lag, volumes=args.volumes, trend_order=args.trend_order, check_tr=not args.ignore_header_tr,
            )  # fmt: skip
            shown = {split: event_runs.find_presentations(runs, events, split, subject) for split in ("train", "test")}
        vertices = np.arange(N_CORTEX) if runs and event_runs.is_cifti(runs[0].path) else load_vertices(args.vertices, n_voxels)
        folder, outputs = layout.fmri_report(subject).parent, fmri_arrays.output_paths(layout, subject, [dataset.n_vertices])
        inputs = [*(ready.values() or [dataset.events_path(args.data_root)]), *filter(None, (args.mask_from, args.vertices))]
        complete = all(run.is_done() for run in runs)
        with working(folder, args, inputs=inputs, outputs=outputs, clear=[folder / "events"], complete=complete) as record:
            if record is None:
                continue
            report = prepare(
                dataset, layout, subject, runs, shown, rows, n_voxels, vertices, settings,
                mask_from=args.mask_from, figures=not args.no_figures, workers=args.workers,
            )  # fmt: skip
            record.finish(shapes=report["shapes"], expected=report["expected"])


def prepare(dataset, layout, subject, runs, shown, rows, n_voxels, vertices, settings, *, mask_from, figures, workers):
    """All of this step for one subject; returns the content of report.json.

    Parameters
    ----------
    runs : list of Run
        empty where rows are given
    shown : dict
        split -> presentations, of the runs
    rows : dict or None
        split -> ready rows
    vertices : array, shape (V,), int, or None
        cortical vertex of every voxel
    settings : dict
        flags that the report tells, test_norm among them
    """
    run_jobs(
        event_runs.convert_run, [(run, MADE_BY) for run in runs if not run.is_done()], workers, f"{dataset.name} subject {subject}", "run"
    )
    event_runs.check_rows(runs)
    bad = np.zeros(n_voxels, bool)
    for run in runs:
        bad[event_runs.read_card(run)["bad_voxels"]] = True
    maps = measure(runs, shown, bad) if runs else {}
    mask, how = select_voxels(dataset, n_voxels, maps, mask_from)
    if rows is None:
        rows = {split: event_runs.average_rows(runs, shown[split], np.flatnonzero(mask)) for split in ("train", "test")}
    else:
        rows = {split: values[:, mask] for split, values in rows.items()}
    shapes = write_arrays(dataset, layout, subject, rows, mask, vertices, maps, how, settings["test_norm"])
    what = "voxels" if vertices is None else "vertices"
    report = fmri_arrays.describe_arrays(dataset, subject, shapes, n_vertices=n_voxels, selected=[int(mask.sum())], how=how, what=what)
    report = make_report(report | settings, runs, shown, bad, maps, mask)
    write_json(layout.fmri_report(subject), report)
    if vertices is not None and figures:
        cortical = {key: onto_cortex(values, vertices, np.nan) for key, values in maps.items() if key == "correlation"}
        who, on_cortex = f"{dataset.name}, subject {subject}", onto_cortex(mask, vertices, False)
        draw_figures(
            layout.fmri_report(subject).with_name("figures"), who, cortical, on_cortex, repeats=MAPS["correlation"], note=dataset.note
        )
    print_summary(dataset, subject, report)
    return report


if __name__ == "__main__":
    cli.run(main, get_parser)
