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

from common import cli
from common.datasets import Phantom, get_dataset
from common.files import save_array, sha256
from Data_preprocess.fmri_arrays import is_made
from Data_preprocess.phantom_fmri import get_fmri_parser, make_responses, make_runs, open_features
from phantom.brain import DRIFT
from phantom.features import true_features

EXTRA_VOLUMES = 5  # a run has its scenes + 5 volumes


def series_of(dataset, data_root, subject):
    """A subject's series, list of (split, number of the run, run, {repetition: path})."""
    return [
        (split, number, run, {rep: dataset.series_path(data_root, subject, run, rep) for rep in dataset.repetitions(subject, run)})
        for split in ("train", "test")
        for number, run in enumerate(dataset.runs(split))
    ]


def series_paths(dataset, data_root, subject):
    return [path for *_, of_run in series_of(dataset, data_root, subject) for path in of_run.values()]


def write_true_features(dataset, data_root, groups, sources):
    """Write what the oracle arm has in place of fMRI; `sources`, {file: SHA-256}, are for the data card."""
    for split in ("train", "test"):
        save_array(
            dataset.oracle_path(data_root, split), true_features(groups, split), rows=f"{split} clips in order",
            units="standard deviations over the training scenes", made_by="Data_preprocess/Phantom/step2_make_fmri.py", sources=sources,
        )  # fmt: skip


def make_subject(args, dataset, subject, groups):
    """Write all series of a subject that are not there yet; returns what there is, str."""
    runs = []
    for split, number, run, paths in series_of(dataset, args.data_root, subject):
        n = dataset.clips_per_run(split)
        features = {name: of_group[split][number * n : (number + 1) * n] for name, of_group in groups.items()}
        start = 2 - dataset.volume_offset(run)  # the volume of the first clip lies 2 TR after the movie's start
        lags = start + np.arange(n + EXTRA_VOLUMES)[:, None] - np.arange(n)
        runs.append((features, lags, {path: [args.seed, subject, 2, split == "test", number, rep] for rep, path in paths.items()}))
    return make_runs(args, dataset, subject, groups, runs, drift=DRIFT)


def get_parser():
    # detrending takes noise away: the selected vertices' repetitions then correlate by 0.3
    return get_fmri_parser(__doc__, Phantom, reliability=0.27, hrf="phantom")


def main(args):
    dataset = get_dataset(args.dataset, Phantom)
    inputs, groups = features = open_features(args, dataset)
    sources = {path.name: sha256(path) for path in inputs}
    oracle = [dataset.oracle_path(args.data_root, split) for split in ("train", "test")]
    if args.overwrite or not all(is_made(path, {"sources": sources}) for path in oracle):
        write_true_features(dataset, args.data_root, groups(), sources)
    paths_of = partial(series_paths, dataset, args.data_root)
    make_responses(args, dataset, features, paths_of, partial(make_subject, args, dataset))


if __name__ == "__main__":
    cli.run(main, get_parser)
