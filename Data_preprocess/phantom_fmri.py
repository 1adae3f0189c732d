"""What the scripts share that make a phantom's fMRI."""

import os
from functools import cache

import numpy as np

from common import cli, cortex
from common.files import write_json
from common.model_sources import model_path
from common.records import working
from common.workers import add_workers_flag, remove_partial, run_jobs
from Data_preprocess.cifti_writing import write_series
from Data_preprocess.phantom_movies import add_phantom_flags
from models.loading import model_files
from phantom.brain import HRF, amplitude_of, describe_vertices, draw_vertices, make_series, response_weights, signal
from phantom.features import feature_groups, load_scenes


def get_fmri_parser(doc, kind, reliability, hrf=None):
    """Parser of a script that makes the fMRI of phantoms of a class; without a default for --hrf the responses are no series."""
    parser = cli.make_parser(doc)
    group = add_phantom_flags(parser, kind)
    group.add_argument("--subj_ID", nargs="+", default=["1"], changes_result=False, help="simulated participants, 1 to 3; they differ")
    if hrf:
        add_workers_flag(group, "runs")
    group = parser.add_argument_group("model")
    group.add_argument(
        "--reliability",
        type=cli.real(above=0, below=1),
        default=reliability,
        help="correlation of two repetitions of a vertex that answers",
    )
    if hrf:
        group.add_argument("--hrf", choices=list(HRF), default=hrf, help="haemodynamic response")
    group.add_argument("--clip_path", metavar="SOURCE", changes_result=False, help="CLIP that embeds the captions (default: the phantom's)")
    return parser


def open_features(args, dataset):
    """Files of what the simulated brains answer to, and a function that gives its `feature_groups`, computed once."""
    path, clip_path = dataset.truth_path(args.data_root), model_path(args, "clip")
    scenes = {split: load_scenes(path, split) for split in ("train", "test")}
    return [path, *model_files(clip_path)], cache(lambda: feature_groups(scenes, clip_path))


def make_responses(args, dataset, features, paths_of, make):
    """Make the fMRI of every participant of --subj_ID.

    Parameters
    ----------
    features : tuple
        of `open_features`
    paths_of : function of a participant
        files of the fMRI, list of Path
    make : function of a participant and the feature groups
        writes those that are not there yet; returns what there is in the end, str
    """
    inputs, groups = features
    for subject in args.subj_ID:
        root, paths = dataset.truth_path(args.data_root).parent, paths_of(subject)
        with working(root / "records" / f"step2_make_fmri_sub{subject}", args, inputs=inputs, outputs=paths, clear=paths) as record:
            if record is None:
                continue
            remove_partial(os.path.commonpath([path.parent for path in paths]))
            print(f"{dataset.name} subject {subject}: {make(subject, groups())}")
            record.finish(files=len(paths))


def make_runs(args, dataset, subject, groups, runs, drift):
    """Write a participant's series that are not there yet, and which vertices answer to what; returns what there is, str.

    Parameters
    ----------
    runs : list of tuple
        features of a run's scenes (group -> array, shape (N, D)); TRs from the onset of every scene to every volume, array, shape (T, N);
        path -> seed of each of its scans
    drift : float
        size of the slow drift
    """
    planted, constant, nan = draw_vertices(groups, subject, args.seed)
    response = response_weights(args.hrf, dataset.tr)
    write_json(dataset.vertices_path(args.data_root, subject), describe_vertices(planted, constant, nan, response))
    options = {"constant": constant, "nan": nan, "amplitude": amplitude_of(args.reliability, response), "drift": drift}
    jobs = []
    for features, lags, scans in runs:
        if todo := {path: seed for path, seed in scans.items() if not path.exists()}:
            clean = [(vertices, signal(features[name], weights, response, lags).astype(np.float32)) for name, vertices, weights in planted]
            jobs.append((todo, dataset.tr, clean, options))
    run_jobs(_write_scans, jobs, args.workers, f"{dataset.name} fMRI subject {subject}", "run")
    return f"{sum(len(scans) for *_, scans in runs)} series of {cortex.N_CORTEX} vertices"


def _write_scans(job):
    """Write scans of one run; the job is (path -> seed, TR, noise-free series, arguments of make_series)."""
    scans, tr, clean, options = job
    for path, seed in scans.items():
        write_series(path, make_series(clean, rng=np.random.default_rng(seed), **options), tr)
