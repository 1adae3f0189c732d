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
         .../report.json, noise_ceiling_by_area.csv, figures/

    python Data_preprocess/CC2017/step4_fMRI_preparation.py --dataset phantom --subj_ID 1
    python Data_preprocess/CC2017/step4_fMRI_preparation.py --subj_ID 1 2 3 --n_voxels 1500 3000 4500 --workers 8

20 core-seconds a subject for the phantom, 50 for CC2017 (86 series of 58 MB); 0.8 GB of memory a worker.
"""

import csv
import hashlib
import io
import logging
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import cli, cortex, fmri
from common.cifti import SPACES, odd_series, open_series
from common.cortex import VISUAL_AREAS
from common.datasets import CC2017Like, get_dataset
from common.files import UserError, card_path, load_array, load_mask, missing, read_json, save_array, sha256, write_json, write_text
from common.layout import Layout
from common.records import Record
from Data_preprocess.vertex_figures import by_area, draw_figures
from common.workers import add_workers_flag, remove_partial, run_jobs

TREND_ORDER = 4  # paper, data preprocessing
MADE_BY = "Data_preprocess/CC2017/step4_fMRI_preparation.py"
HOW = {"subj_ID", "no_figures", "ignore_header_tr", "ignore_header_fields"}  # flags that do not change the arrays
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
    """One run of one subject: what goes in and where it ends up.

    Attributes
    ----------
    name, split : 'seg1', 'train'
    repetitions : tuple of (number, path)
    first, n_volumes : volumes that are used
    space : 'cortex' or 'full'
    tr : float, s that the data set has; None where the files' own is not asked
    folder : of the split
    """

    name: str
    split: str
    repetitions: tuple
    first: int
    n_volumes: int
    space: str
    tr: float | None
    folder: Path

    @property
    def average(self):
        return self.folder / "voxels_avg" / f"{self.name}.npy"

    def quality(self, what):
        """Path of a vertex map of this run: 'bad', of a training run 'correlation', of a test run 'noise_ceiling'."""
        return self.folder / "quality" / f"{self.name}_{what}.npy"

    def sources(self):
        """The files that the run is made from, as they are now."""
        return [
            {"repetition": rep, "file": path.name, "bytes": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}
            for rep, path in self.repetitions
        ]

    def is_done(self):
        """True when the run's arrays are there and made from these files in this way."""
        if not (self.average.exists() and card_path(self.average).exists()):
            return False
        made = read_json(card_path(self.average))
        before = [{key: source[key] for key in ("repetition", "file", "bytes", "mtime_ns")} for source in made["sources"]]
        return (made["space"], made["first_volume"], made["shape"][0], before) == (self.space, self.first, self.n_volumes, self.sources())


def list_runs(dataset, layout, args, subject):
    """All runs of a subject, training runs first; a series that is not there is a UserError."""
    runs = []
    for split in ("train", "test"):
        for name in dataset.runs(split):
            numbers = dataset.repetitions(subject, name)
            repetitions = tuple((rep, dataset.series_path(args.data_root, subject, name, rep)) for rep in numbers)
            for rep, path in repetitions:
                if not path.is_file():
                    what = f"repetition {rep} of {name}, subject {subject}"
                    raise missing(path, what, "copy it, or check --data_root with check_data.py")
            n_volumes, first = dataset.clips_per_run(split), dataset.volume_offset(name)
            tr = None if args.ignore_header_tr else dataset.tr
            runs.append(Run(name, split, repetitions, first, n_volumes, args.space, tr, layout.fmri(subject, split)))
    return runs


def describe_space(space):
    return f"{SPACES[space]} {'cortical vertices, left then right' if space == 'cortex' else 'grayordinates, cortex first'}"


def average_run(run):
    """Detrend, z-score and average the repetitions of one run, and write them.

    Parameters
    ----------
    run : Run
    """
    shape = (SPACES[run.space], run.n_volumes)
    total, seen, facts, bad, correlation = np.zeros(shape).T, {}, [], np.zeros(shape[0], np.int16), None
    buffers = [np.empty(shape).T for _ in range(2)]
    for number, ((rep, path), source) in enumerate(zip(run.repetitions, run.sources(), strict=True)):
        series = open_series(path)
        if run.tr is not None:
            series.check_tr(run.tr)
        series.check_values()
        volumes = series.read(run.first, run.n_volumes, run.space)
        mark = hashlib.sha256(np.ascontiguousarray(volumes.T[::16])).digest()  # every 16th vertex tells two scans apart
        if mark in seen:
            raise UserError(path, f"another scan than repetition {seen[mark]}", "the same values", "copy the right file")
        seen[mark] = rep
        clean, not_finite, constant = fmri.clean_run(volumes, TREND_ORDER, out=buffers[number % 2])
        if (not_finite | constant).all():
            what = "NaN or infinity in every vertex" if not_finite.any() else "constant values in every vertex"
            raise UserError(path, "a signal", what, "copy or download the file again")
        total += clean
        bad += not_finite | constant
        facts.append({
            **source, "sha256": sha256(path), "origin": series.origin(), "volumes": series.n_volumes, "tr": series.tr,
            "not_finite": int(not_finite.sum()), "constant": int(constant.sum()),
        })  # fmt: skip
        if run.split == "train" and number == 1:
            correlation = fmri.correlate_repetitions(*buffers)
    made = {"made_by": MADE_BY, "space": run.space}
    vertices = describe_space(run.space)
    save_array(run.quality("bad"), bad, rows=vertices, units="repetitions in which the vertex is NaN or constant", **made)
    if correlation is not None:
        save_array(run.quality("correlation"), correlation, rows=vertices, units="Pearson r of repetitions 1 and 2", **made)
    total /= len(run.repetitions)
    if run.split == "test":
        ceiling = fmri.explainable_variance(total, len(run.repetitions))
        save_array(run.quality("noise_ceiling"), ceiling, rows=vertices, units="explainable share of variance", **made)
    # last: the run counts as done when this is there
    average = np.ascontiguousarray(total, dtype=np.float32)
    save_array(
        run.average, average, rows=f"clips {run.name}_1 to {run.name}_{run.n_volumes}", units="z per repetition, averaged", **made,
        columns=vertices, first_volume=run.first, trend_order=TREND_ORDER, sources=facts,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- all runs of a subject


def measure(runs, space):
    """Agreement of repetitions over runs.

    Parameters
    ----------
    runs : list of Run, done
    space : 'cortex' or 'full'

    Returns
    -------
    dict of (V,) arrays: correlation (mean r over training runs), t, p, noise_ceiling (mean explainable variance of the
        test runs, NaN for a bad vertex), bad (number of series in which the vertex is NaN or constant)
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


def given_mask(args):
    """The mask that --mask_from or --roi asks for, (V,) bool, and in words what it is; (None, None) without these flags."""
    n_vertices = SPACES[args.space]
    if args.mask_from:
        return load_mask(args.mask_from, n_vertices), f"taken from {args.mask_from.name}"
    if args.roi:
        mask = np.zeros(n_vertices, bool)
        try:
            mask[cortex.area_vertices(args.roi)] = True
        except ValueError as error:
            raise UserError("--roi", "names of MMP areas, such as V1 MT", str(error), "choose others") from None
        return mask, f"MMP areas {' '.join(args.roi)}, both sides"
    return None, None


def select_masks(maps, numbers):
    """Masks of the vertices that repeat best, one for each number, list of (V,) bool."""
    try:
        return [fmri.select_vertices(maps["t"], maps["p"], n) for n in numbers]
    except ValueError as error:
        raise UserError("--n_voxels", "no more than there are vertices with a signal in all runs", str(error), "choose fewer") from None


def masked_arrays(runs, masks, test_norm, workers):
    """Rows of the selected vertices, standardised per vertex.

    Parameters
    ----------
    runs : list of Run, done
    masks : list of (V,) bool
    test_norm : 'own' standardises the test rows by their own mean and std, 'train' by those of the training rows
    workers : int, runs read at the same time

    Yields
    ------
    train, test : (clips, n) float32 of each mask
    """
    union = np.logical_or.reduce(masks)
    columns = run_jobs(read_columns, [(run, union) for run in runs], workers, "selected vertices", "run")
    n_train = sum(run.split == "train" for run in runs)
    train, test = np.concatenate(columns[:n_train]), np.concatenate(columns[n_train:])
    for mask in masks:
        yield fmri.standardise(train[:, mask[union]], test[:, mask[union]], test_norm)


# ---------------------------------------------------------------------------------------------- report


def check_headers(runs):
    """Raise a UserError when one of the subject's series has another header than most."""
    paths = [path for run in runs for _, path in run.repetitions]
    for error, serious in odd_series(paths, [source["origin"] for run in runs for source in read_json(card_path(run.average))["sources"]]):
        if serious:
            raise error
        log.warning("warning: %s", error)


def describe_runs(runs):
    """Per run what went in, from the data cards."""
    entries = {}
    for run in runs:
        sources = read_json(card_path(run.average))["sources"]
        entries[run.name] = {
            "repetitions": [source["repetition"] for source in sources],
            "first_volume": run.first, "volumes_used": run.n_volumes,
            **{key: [source[key] for source in sources] for key in ("volumes", "tr", "not_finite", "constant", "file", "sha256")},
        }  # fmt: skip
    return entries


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, subject="several")
    group = parser.add_argument_group("fMRI")
    group.add_argument("--n_voxels", type=int, nargs="+", help="vertices to select, one set of files each; the last is the main one")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument("--mask_from", type=Path, metavar="FILE.npy", help="use this mask instead of selecting vertices")
    choice.add_argument("--roi", nargs="+", metavar="AREA", help="take all vertices of these MMP areas instead, both sides")
    group.add_argument("--space", choices=list(SPACES), default="cortex", help="59412 cortical vertices or all 91282 grayordinates")
    group.add_argument("--test_norm", choices=["own", "train"], default="own", help="whose statistics scale the test rows; released: own")
    group.add_argument("--ignore_header_tr", action="store_true", help="trust the registry's TR against a CIFTI header that differs")
    group.add_argument("--ignore_header_fields", action="store_true", help="accept series whose header differs from the others'")
    group.add_argument("--no_figures", action="store_true", help="leave the figures out")
    add_workers_flag(parser, "runs")
    return parser


def main(args):
    dataset, layout = get_dataset(args.dataset, CC2017Like), Layout.of(args)
    for subject in args.subj_ID:
        dataset.check_subject(subject)
    if args.n_voxels and min(args.n_voxels) < 1:
        raise UserError("--n_voxels", "1 or more", min(args.n_voxels), "mend the flag")
    mask, how = given_mask(args)
    runs = {subject: list_runs(dataset, layout, args, subject) for subject in args.subj_ID}
    for subject, of_subject in runs.items():
        prepare(args, dataset, layout, subject, of_subject, mask, how)


def prepare(args, dataset, layout, subject, runs, mask, how):
    """All of step 4 for one subject; `mask` is None where vertices are to be selected."""
    folder = layout.fmri_report(subject).parent
    record = Record(folder, args, [args.mask_from] if args.mask_from else [], neutral=HOW)
    if all(run.is_done() for run in runs) and arrays_are_there(layout, subject) and record.is_done():
        return
    record.check_same()
    if args.overwrite:
        for split in ("train", "test"):
            for name in ("voxels_avg", "quality"):
                shutil.rmtree(layout.fmri(subject, split) / name, ignore_errors=True)
    remove_partial(folder)
    record.start()
    # test runs have five times the repetitions: first, so that none is left for the end
    todo = sorted((run for run in runs if not run.is_done()), key=lambda run: -len(run.repetitions))
    run_jobs(average_run, todo, args.workers, f"{dataset.name} subject {subject}", "run")
    if not args.ignore_header_fields:
        check_headers(runs)

    maps = measure(runs, args.space)
    masks = select_masks(maps, args.n_voxels or [dataset.n_vertices]) if mask is None else [mask]
    how = how or "smallest p of the t-test on the repetitions' correlation over training runs"
    shapes = write_arrays(args, dataset, layout, subject, runs, maps, masks, how)
    report = make_report(args, dataset, subject, runs, maps, masks, how, shapes)
    areas = by_area(maps["noise_ceiling"])
    table = io.StringIO()
    csv.writer(table).writerows([("area", "explainable_variance"), *areas.items()])
    write_text(folder / "noise_ceiling_by_area.csv", table.getvalue())
    write_json(layout.fmri_report(subject), report)
    if not args.no_figures:
        who = f"{'phantom, not a brain' if dataset.is_phantom else dataset.name}, subject {subject}"
        draw_figures(folder / "figures", who, maps, masks[-1], args.workers)
    print_summary(dataset, subject, runs, report)
    kept = ("shapes", "expected", "inter_repetition_correlation", "noise_ceiling")
    record.finish(**{key: report[key] for key in kept}, peak_memory_gb=peak_memory())


def arrays_are_there(layout, subject):
    """True when all that the last finished run of this script wrote is on disk."""
    path = layout.fmri_report(subject)
    names = read_json(path)["shapes"] if path.exists() else ()
    found = [(layout.fmri(subject, "train" if "trn" in name else "test") / name).exists() for name in names]
    return bool(found) and all(found) and layout.mask(subject).exists()


def write_arrays(args, dataset, layout, subject, runs, maps, masks, how):
    """Write vertex maps, masks and masked rows; returns their shapes by file name."""
    folder, shapes = layout.mask(subject).parent, {}
    vertex_rows = describe_space(args.space)
    for key, unit in MAPS.items():
        save_array(folder / f"{key}.npy", maps[key], rows=vertex_rows, units=unit, made_by=MADE_BY)
    for mask, (train, test) in zip(masks, masked_arrays(runs, masks, args.test_norm, args.workers), strict=True):
        n = int(mask.sum())
        for name in {f"mask_{n}.npy"} | ({layout.mask(subject).name} if mask is masks[-1] else set()):
            save_array(folder / name, mask.astype(np.uint8), rows=vertex_rows, units="1 where selected", made_by=MADE_BY, selection=how)
        for split, rows in (("train", train), ("test", test)):
            path = layout.masked_fmri(subject, split, n)
            names = [run.name for run in runs if run.split == split]
            save_array(
                path, rows, rows=f"clips, run by run: {names[0]}_1 to {names[-1]}_{dataset.clips_per_run(split)}", made_by=MADE_BY,
                units=f"z per vertex, by the statistics of the {'training' if args.test_norm == 'train' else 'own'} rows",
                dataset=dataset.name, subject=subject, space=args.space, selection=how, vertices=np.flatnonzero(mask),
            )  # fmt: skip
            shapes[path.name] = list(rows.shape)
    return shapes


def make_report(args, dataset, subject, runs, maps, masks, how, shapes):
    """Content of report.json."""
    mask, areas = masks[-1], by_area(maps["noise_ceiling"])
    excluded = [f"{run} repetition {rep}" for who, run, rep in sorted(dataset.excluded) if who == subject]
    return {
        "dataset": dataset.name, "phantom": dataset.is_phantom, "subject": subject, "space": args.space,
        "vertices": {"all": SPACES[args.space], "left": cortex.N_LEFT, "right": cortex.N_RIGHT, "selected": [int(m.sum()) for m in masks]},
        "shapes": shapes, "expected": {split: dataset.n_clips(split) for split in ("train", "test")},
        "selection": {"how": how, "largest_p": float(np.nanmax(maps["p"][mask])) if np.isfinite(maps["p"][mask]).any() else None},
        "test_norm": args.test_norm, "trend_order": TREND_ORDER,
        "offsets": {run.name: run.first for run in runs}, "left_out": excluded,
        "bad_vertices": {
            "in_any_series": int((maps["bad"] > 0).sum()),
            "in_all_series": int((maps["bad"] == sum(len(run.repetitions) for run in runs)).sum()),
            "selected_and_bad": int(((maps["bad"] > 0) & mask).sum()),
        },
        "inter_repetition_correlation": {"all": fmri.summarise(maps["correlation"]), "selected": fmri.summarise(maps["correlation"][mask])},
        "noise_ceiling": {
            "what": "explainable variance of the test repetitions, mean over test runs, corrected for the number of repetitions",
            "all": fmri.summarise(maps["noise_ceiling"]), "selected": fmri.summarise(maps["noise_ceiling"][mask]),
            "by_area": {area: areas[area] for area in VISUAL_AREAS},
        },
        "runs": describe_runs(runs),
    }  # fmt: skip


def print_summary(dataset, subject, runs, report):
    n_series = sum(len(run.repetitions) for run in runs)
    rest = report["vertices"]["all"] - cortex.N_CORTEX
    vertices = f"{cortex.N_LEFT} left + {cortex.N_RIGHT} right{f' + {rest} subcortical' if rest else ''}"
    print(f"{dataset.name} subject {subject}: {n_series} series in {len(runs)} runs; {report['vertices']['all']} vertices = {vertices}")
    odd = sorted({tr for run in report["runs"].values() for tr in run["tr"] if abs(tr - dataset.tr) > 1e-3})
    if odd:
        log.warning("warning: %s s between volumes expected, the files say %s", dataset.tr, odd)
    for name, shape in report["shapes"].items():
        expected = report["expected"]["train" if "trn" in name else "test"]
        print(f"  {name}: {shape[0]} clips x {shape[1]} vertices, {expected} clips expected")
    r, ceiling = report["inter_repetition_correlation"]["selected"], report["noise_ceiling"]["selected"]
    print(f"  {report['bad_vertices']['in_any_series']} vertices NaN or constant in some series, set to 0")
    if r and ceiling:
        print(f"  selected vertices: repetitions correlate with r = {r['mean']:.3f} on average, explainable variance {ceiling['mean']:.3f}")


def peak_memory():
    """Largest memory of this process or one of its workers, GB."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 2**20


if __name__ == "__main__":
    cli.run(main, get_parser)
