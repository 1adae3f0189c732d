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

from functools import partial

import numpy as np

from common import cli, cortex
from common.datasets import Phantom, get_dataset
from common.files import card_path, read_json, save_array, sha256, write_json
from common.model_sources import model_path
from common.records import working
from common.workers import add_workers_flag, remove_partial, run_jobs
from Data_preprocess.cifti_writing import write_series
from Data_preprocess.phantom_flags import add_phantom_flags
from models.loading import model_files
from phantom.brain import HRF, amplitude_of, describe_vertices, draw_vertices, make_series, response_weights, signal
from phantom.features import feature_groups, load_scenes, true_features

EXTRA_VOLUMES = 5  # a run has its scenes + 5 volumes


def _make_run(job, constant, nan, amplitude, tr):
    """Write all repetitions of one run; the job is (paths, seeds, list of (vertices, noise-free series))."""
    paths, seeds, clean = job
    for path, seed in zip(paths, seeds, strict=True):
        write_series(path, make_series(clean, constant, nan, amplitude, np.random.default_rng(seed)), tr)


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
    amplitude = amplitude_of(args.reliability, response)
    write_json(dataset.vertices_path(args.data_root, subject), describe_vertices(planted, constant, nan, response))
    jobs = []
    for split, number, run, paths in series_paths(dataset, args.data_root, subject):
        rows = np.s_[number * dataset.clips_per_run(split) : (number + 1) * dataset.clips_per_run(split)]
        start = 2 - dataset.volume_offset(run)  # the volume of the first clip lies 2 TR after the movie's start
        todo = {rep: path for rep, path in paths.items() if not path.exists()}
        if todo:
            features = {name: groups[name][split][rows] for name in groups}
            lags = start + np.arange(dataset.clips_per_run(split) + EXTRA_VOLUMES)[:, None] - np.arange(dataset.clips_per_run(split))
            clean = [(vertices, signal(features[name], weights, response, lags).astype(np.float32)) for name, vertices, weights in planted]
            seeds = [[args.seed, subject, 2, split == "test", number, rep] for rep in todo]
            jobs.append((list(todo.values()), seeds, clean))
    work = partial(_make_run, constant=constant, nan=nan, amplitude=amplitude, tr=dataset.tr)
    run_jobs(work, jobs, args.workers, f"{dataset.name} fMRI subject {subject}", "run")


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    group = add_phantom_flags(parser, Phantom)
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
