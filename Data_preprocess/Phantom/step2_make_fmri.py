"""Make the phantom's fMRI: CIFTI series of a simulated cortex that watched the phantom's movies.

V1-V4 answer to structure, V3A, V3B, MT and MST to motion, LO1, LO2, TPOJ1 and TPOJ2 to semantics, the rest to nothing.

Reads    {data_root}/phantom/phantom_truth.json
Writes   {data_root}/phantom/CC2017_Purdue/Subject0{s}/video_fmri_dataset/subject{s}/fmri/{run}/cifti/{run}_{rep}_Atlas.dtseries.nii
         {data_root}/phantom/phantom_vertices_sub{s}.json      vertices that answer to something
         {data_root}/phantom/true_features_{train,test}.npy    (N, 169) float32, what they answer to: the oracle arm's input

    python Data_preprocess/Phantom/step2_make_fmri.py --data_root data --subj_ID 1

Half a minute and 0.6 GB per subject. The default haemodynamic response is faster than a real one (peak at 3 s), because
the phantom's scenes change every 2 s; --hrf canonical peaks at 5 s and shows what blur does.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import gamma

from common import cli, cortex
from common.datasets import DATASETS, Phantom, get_dataset
from common.files import card_path, read_json, save_array, sha256, write_json
from common.model_sources import model_path
from common.records import working
from common.workers import add_workers_flag, remove_partial, run_jobs
from Data_preprocess.cifti_writing import write_series
from models.loading import model_files
from phantom.features import AREAS, feature_groups, load_scenes, true_features

EXTRA_VOLUMES = 5  # a run has its scenes + 5 volumes
AR = 0.4  # correlation of successive noise samples
BASELINE, DRIFT = 1000.0, 4.0  # arbitrary units; the noise has standard deviation 1
DENSITY = 0.25  # share of its area's features that a vertex answers to
N_CONSTANT, N_NAN = 12, 12  # vertices with a broken series, outside the planted areas
HRF = {"phantom": ((10, 1 / 3), (20, 1 / 3)), "canonical": ((6, 1.0), (16, 1.0))}  # gamma shape and scale of peak and undershoot


# ---------------------------------------------------------------------------------------------- the simulated cortex


def response_weights(name, tr, n=16):
    """Response to one scene of length TR, sampled 0, 1, 2, ... TRs after its onset; sums to 1 for long n."""
    (peak, scale), (under, under_scale) = HRF[name]
    integral = gamma.cdf(np.arange(n) * tr, peak, scale=scale) - gamma.cdf(np.arange(n) * tr, under, scale=under_scale) / 6
    return np.diff(integral, prepend=0) / (1 - 1 / 6)


def draw_vertices(groups, subject, seed):
    """A subject's planted vertices: list of (vertices, weights (D, V)) per feature group, and the broken vertices."""
    rng = np.random.default_rng([seed, subject, 1])
    planted = []
    for name, areas in AREAS.items():
        vertices = cortex.area_vertices(areas)
        n_features = groups[name]["train"].shape[1]
        weights = rng.standard_normal((n_features, len(vertices))) * (rng.random((n_features, len(vertices))) < DENSITY)
        planted.append((name, vertices, weights / np.maximum(np.linalg.norm(weights, axis=0), 1e-9)))
    quiet = np.setdiff1d(np.arange(cortex.N_CORTEX), np.concatenate([vertices for _, vertices, _ in planted]))
    broken = rng.choice(quiet, N_CONSTANT + N_NAN, replace=False)
    return planted, broken[:N_CONSTANT], broken[N_CONSTANT:]


def signal(features, weights, response, start_tr):
    """Noise-free series of unit variance, (T, V).

    Parameters
    ----------
    features : array, (N, D)
        of a run's scenes
    weights : array, (D, V)
    response : array, (n,)
        response weights
    start_tr : float
        time of volume 0 in TRs after the movie's start
    """
    drive = features @ weights
    drive /= np.maximum(drive.std(0), 1e-9)
    n_volumes = len(features) + EXTRA_VOLUMES
    lag = start_tr + np.arange(n_volumes)[:, None] - np.arange(len(features))
    kernel = np.where((lag >= 0) & (lag < len(response)), response[lag.clip(0, len(response) - 1)], 0)
    return kernel @ drive


def noise(n_volumes, rng):
    """AR(1) noise of unit variance plus a 4th-order drift, (T, 59412)."""
    series = rng.standard_normal((n_volumes, cortex.N_CORTEX), dtype=np.float32)
    series[1:] *= np.sqrt(1 - AR**2)
    for t in range(1, n_volumes):
        series[t] += AR * series[t - 1]
    powers = np.vander(np.linspace(-1, 1, n_volumes), 5, increasing=True).astype(np.float32)
    return series + DRIFT * powers @ rng.standard_normal((5, cortex.N_CORTEX), dtype=np.float32)


def make_run(paths, planted, constant, nan, amplitude, tr, seeds):
    """Write all repetitions of one run; `planted` holds (vertices, noise-free series)."""
    for path, seed in zip(paths, seeds, strict=True):
        series = noise(len(planted[0][1]), np.random.default_rng(seed))
        for vertices, clean in planted:
            series[:, vertices] += amplitude * clean
        series += BASELINE
        series[:, constant] = BASELINE
        series[:, nan] = np.nan
        write_series(path, series, tr)


def _make_run(job, **shared):
    paths, seeds, clean = job
    make_run(paths, clean, seeds=seeds, **shared)


# ---------------------------------------------------------------------------------------------- files


def series_paths(dataset, data_root, subject):
    """Paths of a subject's series, list of (split, number of the run, run, {repetition: path})."""
    return [
        (split, number, run, {rep: dataset.series_path(data_root, subject, run, rep) for rep in dataset.repetitions(subject, run)})
        for split in ("train", "test")
        for number, run in enumerate(dataset.runs(split))
    ]


def write_true_features(dataset, data_root, groups, sources):
    """Write what the oracle arm has in place of fMRI.

    Parameters
    ----------
    dataset : Phantom
    data_root : Path
    groups : dict of dict
        of `feature_groups`
    sources : dict
        file that the features come from -> SHA-256, for the data card
    """
    for split in ("train", "test"):
        save_array(
            dataset.oracle_path(data_root, split), true_features(groups, split), rows=f"{split} clips in order",
            units="standard deviations over the training scenes", made_by="Data_preprocess/Phantom/step2_make_fmri.py", sources=sources,
        )  # fmt: skip


def has_true_features(dataset, data_root, sources):
    """Whether the arrays of `write_true_features` are there and of these sources."""
    paths = [dataset.oracle_path(data_root, split) for split in ("train", "test")]
    return all(path.exists() and card_path(path).exists() and read_json(card_path(path)).get("sources") == sources for path in paths)


def make_subject(args, dataset, subject, groups):
    """Write all series of a subject that are not there yet."""
    planted, constant, nan = draw_vertices(groups, subject, args.seed)
    response = response_weights(args.hrf, dataset.tr)
    amplitude = np.sqrt(args.reliability / (1 - args.reliability)) / np.linalg.norm(response)  # the noise has unit variance
    write_json(
        dataset.vertices_path(args.data_root, subject),
        {**{name: vertices for name, vertices, _ in planted}, "constant": np.sort(constant), "nan": np.sort(nan), "response": response},
    )
    jobs = []
    for split, number, run, paths in series_paths(dataset, args.data_root, subject):
        rows = np.s_[number * dataset.clips_per_run(split) : (number + 1) * dataset.clips_per_run(split)]
        start = 2 - dataset.volume_offset(run)  # the volume of the first clip lies 2 TR after the movie's start
        todo = {rep: path for rep, path in paths.items() if not path.exists()}
        if todo:
            clean = [
                (vertices, signal(groups[name][split][rows], weights, response, start).astype(np.float32))
                for name, vertices, weights in planted
            ]
            seeds = [[args.seed, subject, 2, split == "test", number, rep] for rep in todo]
            jobs.append((list(todo.values()), seeds, clean))
    work = partial(_make_run, constant=constant, nan=nan, amplitude=amplitude, tr=dataset.tr)
    run_jobs(work, jobs, args.workers, f"{dataset.name} fMRI subject {subject}", "run")


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("data")
    phantoms = [name for name, entry in DATASETS.items() if isinstance(entry, Phantom)]
    group.add_argument("--dataset", choices=phantoms, default="phantom", help="phantom to make, an entry of common/datasets")
    group.add_argument(
        "--data_root", type=Path, default=Path(os.environ.get("MINDANIMATOR_DATA", "data")), changes_result=False,
        help="folder with the phantom's movies; $MINDANIMATOR_DATA sets the default",
    )  # fmt: skip
    group.add_argument("--subj_ID", nargs="+", default=["1"], changes_result=False, help="simulated participants, 1 to 3; they differ")
    add_workers_flag(group, "runs")
    group = parser.add_argument_group("model")
    reliability = cli.real(above=0, below=1)
    group.add_argument("--reliability", type=reliability, default=0.3, help="inter-repetition correlation of responsive vertices")
    group.add_argument("--hrf", choices=list(HRF), default="phantom", help="haemodynamic response")
    group.add_argument("--clip_path", metavar="SOURCE", changes_result=False, help="CLIP that embeds the captions (default: the phantom's)")
    return parser


def main(args):
    dataset, clip_path = get_dataset(args.dataset, Phantom), model_path(args, "clip")
    truth = dataset.truth_path(args.data_root)
    scenes = {split: load_scenes(truth, split) for split in ("train", "test")}
    inputs = [truth, *model_files(clip_path)]
    sources, groups = {path.name: sha256(path) for path in inputs}, None
    if args.overwrite or not has_true_features(dataset, args.data_root, sources):
        groups = feature_groups(scenes, clip_path)
        write_true_features(dataset, args.data_root, groups, sources)
    for subject in args.subj_ID:
        paths = [path for *_, of_run in series_paths(dataset, args.data_root, subject) for path in of_run.values()]
        folder = truth.parent / "records" / f"step2_make_fmri_sub{subject}"
        with working(folder, args, inputs=inputs, outputs=paths, clear=paths) as record:
            if record is None:
                continue
            groups = groups or feature_groups(scenes, clip_path)
            remove_partial(paths[0].parents[2])
            make_subject(args, dataset, subject, groups)
            print(f"{dataset.name} subject {subject}: {len(paths)} series of {cortex.N_CORTEX} vertices")
            record.finish(series=len(paths))


if __name__ == "__main__":
    cli.run(main, get_parser)
