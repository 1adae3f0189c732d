"""From CIFTI series to the arrays that the decoders read: averaged repetitions, selected vertices, standardised rows.

Per run and repetition: the cortex columns, the volumes that answer to the clips, minus a 4th-order polynomial trend,
z-scored per vertex; then the mean over repetitions. Vertices are selected by how well the two repetitions of the
training runs agree: Pearson r per run, Fisher z, one-sample t-test over runs, smallest p first.

Reads    {data_root}/{data set}/Subject0{s}/video_fmri_dataset/subject{s}/fmri/{run}/cifti/{run}_{rep}_Atlas.dtseries.nii
Writes   fMRI_in_fslr/sub{s}/{Train,Test}/voxels_avg/{run}.npy      (clips of the run, 59412) float32
         .../{Train,Test}/quality/                                  of each run: bad vertices, correlation or noise ceiling
         .../activated_mask/mask_correct.npy, mask_{n}.npy          (59412,) 0/1
         .../activated_mask/{correlation,t,p,noise_ceiling}.npy     (59412,) float64
         .../Train/masked{n}_trn_data.npy, Test/masked{n}_test_data.npy     (clips, n) float32
         .../masked{n}_statistics.npy                               (4, n) float64: mean and std that scaled each split's rows
         .../report.json, noise_ceiling_by_area.csv, figures/

    python Data_preprocess/CC2017/step4_fMRI_preparation.py --dataset phantom --subj_ID 1
    python Data_preprocess/CC2017/step4_fMRI_preparation.py --subj_ID 1 2 3 --n_voxels 1500 3000 4500 --workers 8

20 core-seconds a subject for the phantom, 50 for CC2017 (86 series of 58 MB); 0.8 GB of memory a worker.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import cli, cortex, fmri
from common.cortex import VISUAL_AREAS
from common.datasets import CC2017Like, get_dataset
from common.files import UserError, card_path, load_array, read_json, save_array, sha256, write_json
from common.fmri import TREND_ORDER
from common.layout import Layout
from common.records import working
from common.workers import run_jobs
from Data_preprocess import fmri_arrays, fmri_runs
from Data_preprocess.cifti import SPACES, find_series, open_series
from Data_preprocess.vertex_figures import by_area, draw_figures, write_areas

MADE_BY = "Data_preprocess/CC2017/step4_fMRI_preparation.py"
BEST = "smallest p of the t-test on the repetitions' correlation over training runs"
MAPS = {  # vertex maps that are kept, with their units
    "correlation": "mean Pearson r over training runs",
    "t": "t over training runs",
    "p": "two-sided p",
    "noise_ceiling": "share of variance",
}

log = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------- one run


@dataclass(frozen=True)
class Run:
    """One run of one subject: what goes in and where it ends up."""

    name: str  # such as "seg1"
    split: str
    repetitions: tuple  # of (number, path)
    first: int
    n_volumes: int  # that are used, from the first on
    space: str  # "cortex" or "full"
    tr: float | None  # s that the data set has; None where the files' own is not asked
    folder: Path  # of the split

    @property
    def average(self):
        return self.folder / "voxels_avg" / f"{self.name}.npy"

    def quality(self, what):
        """Path of a vertex map of this run: 'bad', of a training run 'correlation', of a test run 'noise_ceiling'."""
        return self.folder / "quality" / f"{self.name}_{what}.npy"

    def how(self):
        """What the average depends on, as its data card keeps it."""
        series = [{"repetition": rep, **fmri_arrays.file_facts(path)} for rep, path in self.repetitions]
        return {"space": self.space, "first_volume": self.first, "n_volumes": self.n_volumes, "trend_order": TREND_ORDER, "series": series}

    def is_done(self):
        return fmri_arrays.is_made(self.average, self.how())


def list_runs(dataset, layout, data_root, subject, *, space, check_tr):
    """All runs of a subject, training runs first; a series that is not there is a UserError."""
    runs = []
    for split in ("train", "test"):
        for name in dataset.runs(split):
            numbers = dataset.repetitions(subject, name)
            repetitions = tuple((rep, find_series(dataset.series_path(data_root, subject, name, rep))) for rep in numbers)
            n_volumes, first = dataset.clips_per_run(split), dataset.volume_offset(name)
            tr, folder = dataset.tr if check_tr else None, layout.fmri(subject, split)
            runs.append(Run(name, split, repetitions, first, n_volumes, space, tr, folder))
    return runs


def describe_space(space):
    return fmri_arrays.CORTEX_ROWS if space == "cortex" else f"{SPACES[space]} grayordinates, cortex first"


def average_run(run):
    """Detrend, z-score and average the repetitions of one run, and write them."""
    shape = (SPACES[run.space], run.n_volumes)
    total, seen, facts, bad, correlation = np.zeros(shape).T, {}, [], np.zeros(shape[0], np.int16), None
    buffers, how = [np.empty(shape).T for _ in range(2)], run.how()
    for number, (rep, path) in enumerate(run.repetitions):
        series = open_series(path)
        if run.tr is not None:
            series.check_tr(run.tr)
        volumes = series.read(run.first, run.n_volumes, run.space)
        values = hashlib.sha256(np.ascontiguousarray(volumes.T[::16])).digest()  # every 16th vertex tells two scans apart
        if values in seen:
            raise UserError(f"{path} has the values of repetition {seen[values]}; copy the right file")
        seen[values] = rep
        clean, not_finite, constant = fmri_runs.clean_run(volumes, TREND_ORDER, out=buffers[number % 2])
        fmri_arrays.check_signal(path, not_finite, constant, "vertex")
        total += clean
        bad += not_finite | constant
        counts = {"not_finite": int(not_finite.sum()), "constant": int(constant.sum())}
        facts.append({"sha256": sha256(path), "volumes": series.n_volumes, "tr": series.tr, **counts})
        if run.split == "train" and number == 1:
            correlation = fmri.correlate_repetitions(*buffers)
    made = {"rows": describe_space(run.space), "made_by": MADE_BY, "space": run.space}
    save_array(run.quality("bad"), bad, units="repetitions in which the vertex is NaN or constant", **made)
    if correlation is not None:
        save_array(run.quality("correlation"), correlation, units="Pearson r of repetitions 1 and 2", **made)
    total /= len(run.repetitions)
    if run.split == "test":
        ceiling = fmri_runs.explainable_variance(total, len(run.repetitions))
        save_array(run.quality("noise_ceiling"), ceiling, units="explainable share of variance", **made)
    # last: the run counts as done when this is there
    save_array(
        run.average, np.ascontiguousarray(total, dtype=np.float32), rows=f"clips {run.name}_1 to {run.name}_{run.n_volumes}",
        units="z per repetition, averaged", made_by=MADE_BY, columns=describe_space(run.space), **how, facts=facts,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- all runs of a subject


def measure(runs, space):
    """Agreement of repetitions over runs that are done, dict of (V,) arrays.

    correlation (mean r over training runs), t, p, noise_ceiling (mean explainable variance of the test runs, NaN for a bad
    vertex), bad (number of series in which the vertex is NaN or constant).
    """

    def load(what, split):
        paths = [run.quality(what) for run in runs if split in (run.split, "both")]
        return np.stack([load_array(path, shape=(SPACES[space],), finite=False, verify=True) for path in paths])

    r, bad = load("correlation", "train"), load("bad", "both").sum(axis=0, dtype=int)
    t, p = fmri.t_test(r)
    ceiling = np.where(bad > 0, np.nan, load("noise_ceiling", "test").mean(axis=0))
    counted = np.isfinite(r).sum(axis=0)
    correlation = np.where(counted, np.nansum(r, axis=0) / np.maximum(counted, 1), np.nan)
    return {"correlation": correlation, "t": t, "p": p, "noise_ceiling": ceiling, "bad": bad}


def read_columns(job):
    """Some vertices of a run's average, (volumes, those) float32; the job is (Run, (V,) bool)."""
    run, columns = job
    shape = (run.n_volumes, SPACES[run.space])
    # the check of its SHA-256 stands for a search for NaN
    average = load_array(run.average, shape=shape, dtype="float32", finite=False, verify=True, do="delete it and run step 4 again")
    return average[:, columns]


def select_masks(maps, numbers):
    """Masks of the vertices that repeat best, one for each number, list of (V,) bool."""
    try:
        return [fmri.select_vertices(maps["t"], maps["p"], n) for n in numbers]
    except ValueError as error:
        raise UserError(f"--n_voxels is more than there are vertices with a signal in all runs ({error}); use a smaller number") from None


def selected_rows(runs, masks, workers):
    """Rows of the vertices of each mask, (train, test), each (clips, n) float32; `workers` runs are read at the same time."""
    union = np.logical_or.reduce(masks)
    columns = run_jobs(read_columns, [(run, union) for run in runs], workers, "selected vertices", "run")
    n_train = sum(run.split == "train" for run in runs)
    train, test = np.concatenate(columns[:n_train]), np.concatenate(columns[n_train:])
    for mask in masks:
        yield train[:, mask[union]], test[:, mask[union]]


def write_arrays(dataset, layout, subject, runs, maps, masks, how, *, space, test_norm, workers):
    """Write vertex maps, masks and standardised rows; returns the rows' shapes by file name."""
    folder, shapes, about = layout.mask(subject).parent, {}, {"rows": describe_space(space), "made_by": MADE_BY}
    fmri_arrays.save_maps(layout, subject, maps, MAPS, **about)
    for mask, (train, test) in zip(masks, selected_rows(runs, masks, workers), strict=True):
        n = int(mask.sum())
        fmri_arrays.save_mask(folder / f"mask_{n}.npy", mask, how=how, **about)
        shapes |= fmri_arrays.save_standardised(
            layout, dataset, subject, train, test, test_norm,
            n_vertices=n, made_by=MADE_BY, space=space, selection=how, vertices=np.flatnonzero(mask),
        )  # fmt: skip
    fmri_arrays.save_mask(layout.mask(subject), masks[-1], how=how, **about)
    return shapes


# ---------------------------------------------------------------------------------------------- report


def describe_runs(runs):
    """Per run what went in, from the data cards."""
    entries = {}
    for run in runs:
        card = read_json(card_path(run.average))
        entries[run.name] = {
            "repetitions": [series["repetition"] for series in card["series"]],
            "first_volume": run.first,
            "volumes_used": run.n_volumes,
            "file": [series["file"] for series in card["series"]],
            **{key: [fact[key] for fact in card["facts"]] for key in ("volumes", "tr", "not_finite", "constant", "sha256")},
        }
    return entries


def make_report(dataset, subject, runs, maps, masks, how, shapes, *, space, test_norm):
    """Content of report.json."""
    mask, areas = masks[-1], by_area(maps["noise_ceiling"])
    p = maps["p"][mask]
    n_selected = [int(m.sum()) for m in masks]
    report = fmri_arrays.describe_arrays(dataset, subject, shapes, n_vertices=SPACES[space], selected=n_selected, how=how)
    report["vertices"] |= {"left": cortex.N_LEFT, "right": cortex.N_RIGHT}
    report["selection"]["largest_p"] = float(np.nanmax(p)) if np.isfinite(p).any() else None
    return report | {
        "space": space,
        "test_norm": test_norm,
        "trend_order": TREND_ORDER,
        "offsets": {run.name: run.first for run in runs},
        "left_out": [f"{run} repetition {rep}" for who, run, rep in sorted(dataset.excluded) if who == subject],
        "bad_vertices": {
            "in_any_series": int((maps["bad"] > 0).sum()),
            "in_all_series": int((maps["bad"] == sum(len(run.repetitions) for run in runs)).sum()),
            "selected_and_bad": int(((maps["bad"] > 0) & mask).sum()),
        },
        "inter_repetition_correlation": fmri_arrays.summarise_map(maps["correlation"], mask),
        "noise_ceiling": {
            "what": "explainable variance of the test repetitions, mean over test runs, corrected for the number of repetitions",
            **fmri_arrays.summarise_map(maps["noise_ceiling"], mask),
            "by_area": {area: areas[area] for area in VISUAL_AREAS},
        },
        "runs": describe_runs(runs),
    }


def print_summary(dataset, subject, runs, report):
    n_series = sum(len(run.repetitions) for run in runs)
    rest = report["vertices"]["all"] - cortex.N_CORTEX
    vertices = f"{cortex.N_LEFT} left + {cortex.N_RIGHT} right{f' + {rest} subcortical' if rest else ''}"
    print(f"{dataset.name} subject {subject}: {n_series} series in {len(runs)} runs; {report['vertices']['all']} vertices = {vertices}")
    odd = sorted({tr for run in report["runs"].values() for tr in run["tr"] if abs(tr - dataset.tr) > 1e-3})
    if odd:
        log.warning("warning: headers say %s s between volumes; %s s is used", ", ".join(map(str, odd)), dataset.tr)
    fmri_arrays.print_arrays(report)
    r, ceiling = report["inter_repetition_correlation"]["selected"], report["noise_ceiling"]["selected"]
    print(f"  {report['bad_vertices']['in_any_series']} vertices NaN or constant in some series, set to 0")
    if r and ceiling:
        print(f"  selected vertices: repetitions correlate with r = {r['mean']:.3f} on average, explainable variance {ceiling['mean']:.3f}")


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, subject="several")
    group = parser.add_argument_group("fMRI")
    group.add_argument(
        "--n_voxels", type=cli.one_or_more, nargs="+", help="numbers of vertices to select, one set of files each; the last is the main one"
    )
    choice = group.add_mutually_exclusive_group()
    choice.add_argument("--mask_from", type=Path, metavar="FILE.npy", help="mask to use instead of selecting vertices")
    choice.add_argument("--roi", nargs="+", metavar="AREA", help="MMP areas of which all vertices are taken instead, both sides")
    group.add_argument("--space", choices=list(SPACES), default="cortex", help="59412 cortical vertices or all 91282 grayordinates")
    fmri_arrays.add_norm_flag(group)
    fmri_arrays.add_run_flags(group, parser)
    return parser


def main(args):
    dataset, layout, n_vertices = get_dataset(args.dataset, CC2017Like), Layout.of(args), SPACES[args.space]
    given, how = None, BEST
    if args.mask_from:
        given, how = fmri_arrays.mask_of_file(args.mask_from, n_vertices)
    elif args.roi:
        given, how = fmri_arrays.mask_of_areas(args.roi, n_vertices)
    numbers = (args.n_voxels or [dataset.n_vertices]) if given is None else [int(given.sum())]
    check_tr = not args.ignore_header_tr
    runs = {subject: list_runs(dataset, layout, args.data_root, subject, space=args.space, check_tr=check_tr) for subject in args.subj_ID}
    for subject, of_subject in runs.items():
        todo = [run for run in of_subject if not run.is_done()]
        old = [layout.fmri(subject, split) / name for split in ("train", "test") for name in ("voxels_avg", "quality")]
        inputs, outputs = [args.mask_from] if args.mask_from else [], fmri_arrays.output_paths(layout, subject, numbers)
        folder = layout.fmri_report(subject).parent
        with working(folder, args, inputs=inputs, outputs=outputs, clear=old, complete=not todo) as record:
            if record is None:
                continue
            report = prepare(
                dataset, layout, subject, of_subject, given, numbers, how,
                space=args.space, test_norm=args.test_norm, figures=not args.no_figures, workers=args.workers,
            )  # fmt: skip
            kept = ("shapes", "expected", "inter_repetition_correlation", "noise_ceiling")
            record.finish(**{key: report[key] for key in kept}, peak_memory_gb=fmri_arrays.peak_memory())


def prepare(dataset, layout, subject, runs, given, numbers, how, *, space, test_norm, figures, workers):
    """All of step 4 for one subject; returns the content of report.json.

    Parameters
    ----------
    given : array, shape (V,), bool, or None
        mask to use instead of selecting vertices
    numbers : list of int
        vertices to select, one mask each
    how : str
        how vertices are chosen, in words
    """
    # test runs have five times the repetitions: first, so that none is left for the end
    todo = sorted((run for run in runs if not run.is_done()), key=lambda run: -len(run.repetitions))
    run_jobs(average_run, todo, workers, f"{dataset.name} subject {subject}", "run")
    maps = measure(runs, space)
    masks = select_masks(maps, numbers) if given is None else [given]
    shapes = write_arrays(dataset, layout, subject, runs, maps, masks, how, space=space, test_norm=test_norm, workers=workers)
    report = make_report(dataset, subject, runs, maps, masks, how, shapes, space=space, test_norm=test_norm)
    write_areas(layout.fmri_report(subject).with_name("noise_ceiling_by_area.csv"), "explainable_variance", maps["noise_ceiling"])
    write_json(layout.fmri_report(subject), report)
    if figures:
        folder = layout.fmri_report(subject).with_name("figures")
        draw_figures(folder, f"{dataset.name}, subject {subject}", maps, masks[-1], note=dataset.note, workers=workers)
    print_summary(dataset, subject, runs, report)
    return report


if __name__ == "__main__":
    cli.run(main, get_parser)
