"""Make the fMRI of the phantom in HCP's tree: four CIFTI series of a simulated cortex that watched the phantom's movies once.

V1-V4 answer to structure, V3A, V3B, MT and MST to motion, LO1, LO2, TPOJ1 and TPOJ2 to semantics, the rest to nothing.
The series are as cleaned ones: noise, and no drift.

Reads    {data_root}/phantom-hcp/phantom_truth.json
Writes   {data_root}/phantom-hcp/{ID}/MNINonLinear/Results/{run}/{run}_Atlas_hp2000_clean.dtseries.nii     TR 1 s
         {data_root}/phantom-hcp/phantom_vertices_sub{ID}.json      vertices that answer to something

    python Data_preprocess/Phantom/step2_make_hcp_fmri.py --data_root data --subj_ID 1 2

A few seconds. The haemodynamic response is faster and narrower than a real one (peak at 3.5 s), because the phantom's
scenes change every second; --hrf canonical shows what blur does. Nothing here is a result about brains.
"""

import numpy as np

from common import cli, cortex
from common.datasets import get_dataset
from common.datasets.phantom_hcp import PhantomHCP
from common.files import write_json
from common.model_sources import model_path
from common.records import working
from common.workers import add_workers_flag, remove_partial, run_jobs
from Data_preprocess.cifti_writing import write_series
from Data_preprocess.phantom_flags import add_phantom_flags
from models.loading import model_files
from phantom.brain import HRF, amplitude_of, describe_vertices, draw_vertices, make_series, response_weights, signal
from phantom.features import feature_groups, load_scenes


def series_path(dataset, data_root, subject, run):
    folder = dataset.tree(data_root) / str(subject) / "MNINonLinear" / "Results" / run
    return folder / f"{run}{dataset.series[0]}.dtseries.nii"


def make_run(job):
    """Write one run; the job is (path, TR, seed, noise-free series, arguments of make_series)."""
    path, tr, seed, clean, options = job
    write_series(path, make_series(clean, rng=np.random.default_rng(seed), drift=0.0, **options), tr)


def make_subject(dataset, data_root, subject, groups, *, reliability, hrf, seed, workers):
    """Write the series of a subject that are not there yet."""
    planted, constant, nan = draw_vertices(groups, subject, seed)
    response = response_weights(hrf, dataset.tr)
    write_json(dataset.vertices_path(data_root, subject), describe_vertices(planted, constant, nan, response))
    options = {"constant": constant, "nan": nan, "amplitude": amplitude_of(reliability, response)}
    features = {name: np.concatenate([of_group["train"], of_group["test"]]) for name, of_group in groups.items()}
    jobs, first = [], 0
    for number, run in enumerate(dataset.runs, 1):
        seconds, path = dataset.clip_start_seconds(number), series_path(dataset, data_root, subject, run)
        rows = slice(first, first := first + len(seconds))
        lags = np.arange(dataset.run_volumes[number - 1])[:, None] - seconds
        clean = [
            (vertices, signal(features[name][rows], weights, response, lags).astype(np.float32)) for name, vertices, weights in planted
        ]
        jobs.append((path, dataset.tr, [seed, subject, 21, number], clean, options))
    run_jobs(make_run, [job for job in jobs if not job[0].exists()], workers, f"{dataset.name} fMRI subject {subject}", "run")


def get_parser():
    parser = cli.make_parser(__doc__)
    group = add_phantom_flags(parser, PhantomHCP)
    group.add_argument("--subj_ID", nargs="+", default=["1"], changes_result=False, help="simulated participants, 1 to 3; they differ")
    add_workers_flag(group, "runs")
    group = parser.add_argument_group("model")
    reliability = cli.real(above=0, below=1)
    group.add_argument("--reliability", type=reliability, default=0.5, help="correlation that two scans of a responsive vertex would have")
    group.add_argument("--hrf", choices=list(HRF), default="narrow", help="haemodynamic response")
    group.add_argument("--clip_path", metavar="SOURCE", changes_result=False, help="CLIP that embeds the captions (default: the phantom's)")
    return parser


def main(args):
    dataset, clip_path = get_dataset(args.dataset, PhantomHCP), model_path(args, "clip")
    truth, groups = dataset.truth_path(args.data_root), None
    for subject in args.subj_ID:
        paths = [series_path(dataset, args.data_root, subject, run) for run in dataset.runs]
        folder, inputs = truth.parent / "records" / f"step2_make_fmri_sub{subject}", [truth, *model_files(clip_path)]
        with working(folder, args, inputs=inputs, outputs=paths, clear=paths) as record:
            if record is None:
                continue
            groups = groups or feature_groups({split: load_scenes(truth, split) for split in ("train", "test")}, clip_path)
            remove_partial(paths[0].parents[1])
            make_subject(
                dataset, args.data_root, subject, groups,
                reliability=args.reliability, hrf=args.hrf, seed=args.seed, workers=args.workers,
            )  # fmt: skip
            print(f"{dataset.name} subject {subject}: {len(paths)} series of {cortex.N_CORTEX} vertices")
            record.finish(series=len(paths))


if __name__ == "__main__":
    cli.run(main, get_parser)
