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

from functools import partial

import numpy as np

from common import cli
from common.datasets import get_dataset
from common.datasets.phantom_hcp import PhantomHCP
from Data_preprocess.phantom_fmri import get_fmri_parser, make_responses, make_runs, open_features


def series_paths(dataset, data_root, subject):
    folder = dataset.tree(data_root) / str(subject) / "MNINonLinear" / "Results"
    return [folder / run / f"{run}{dataset.series[0]}.dtseries.nii" for run in dataset.runs]


def make_subject(args, dataset, subject, groups):
    """Write the series of a subject that are not there yet; returns what there is, str."""
    features = {name: np.concatenate([of_group["train"], of_group["test"]]) for name, of_group in groups.items()}
    runs, first = [], 0
    for number, path in enumerate(series_paths(dataset, args.data_root, subject), 1):
        seconds = dataset.clip_start_seconds(number)
        rows = slice(first, first := first + len(seconds))
        lags = np.arange(dataset.run_volumes[number - 1])[:, None] - seconds
        runs.append(({name: values[rows] for name, values in features.items()}, lags, {path: [args.seed, subject, 21, number]}))
    return make_runs(args, dataset, subject, groups, runs, drift=0.0)


def get_parser():
    return get_fmri_parser(__doc__, PhantomHCP, reliability=0.7, hrf="narrow")


def main(args):
    dataset = get_dataset(args.dataset, PhantomHCP)
    paths_of = partial(series_paths, dataset, args.data_root)
    make_responses(args, dataset, open_features(args, dataset), paths_of, partial(make_subject, args, dataset))


if __name__ == "__main__":
    cli.run(main, get_parser)
