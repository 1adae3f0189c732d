"""Make the responses of the phantom in Algonauts 2021's tree: pickles of simulated ROIs that saw the phantom's videos.

V1-V4 answer to structure, STS to motion, LOC, EBA, FFA and PPA to semantics. The whole brain holds the same voxels, in
another order, among others that answer to nothing.

Reads    {data_root}/phantom-algonauts/phantom_truth.json
Writes   {data_root}/phantom-algonauts/participants_data_v2021/mini_track/sub{nn}/{ROI}.pkl     'train': (videos, 3, voxels) float64
         {data_root}/phantom-algonauts/participants_data_v2021/full_track/sub{nn}/WB.pkl        and 'voxel_mask', a box of zeros and ones

    python Data_preprocess/Phantom/step2_make_algonauts_fmri.py --data_root data --subj_ID 1 2

A few seconds. The phantom is a made-up data set of known content, never a result about brains.
"""

import pickle
from functools import partial

import numpy as np

from common import cli
from common.datasets import get_dataset
from common.datasets.phantom_algonauts import PhantomAlgonauts
from common.files import write_bytes
from Data_preprocess.phantom_fmri import get_fmri_parser, make_responses, open_features
from phantom.brain import DENSITY

ANSWERS = {  # what an ROI answers to, and its voxels, which differ a little between participants
    "V1": ("structure", 110), "V2": ("structure", 110), "V3": ("structure", 90), "V4": ("structure", 70), "LOC": ("semantics", 90),
    "EBA": ("semantics", 60), "FFA": ("semantics", 40), "STS": ("motion", 200), "PPA": ("semantics", 50),
}  # fmt: skip
OTHERS = 400  # voxels of the whole brain that answer to nothing
PROTOCOL = 2  # of the real data set's pickles


def draw_responses(features, width, reliability, repetitions, rng):
    """Responses of one ROI of `width` voxels, (N, repetitions, width): features (N, D) by random weights, and noise.

    `reliability` is the correlation of two repetitions. The first voxel is constant.
    """
    weights = rng.standard_normal((features.shape[1], width)) * (rng.random((features.shape[1], width)) < DENSITY)
    clean = features @ weights
    clean *= np.sqrt(reliability) / np.maximum(clean.std(0), 1e-9)
    noise = rng.standard_normal((len(features), repetitions, width)) * np.sqrt(1 - reliability)
    responses = clean[:, None] + noise
    responses[:, :, 0] = 1.0
    return responses


def make_subject(args, dataset, subject, groups):
    """Write all pickles of a subject; returns what there is, str."""
    *paths, whole_path = pickle_paths(dataset, args.data_root, subject)
    rng, n = np.random.default_rng([args.seed, subject, 11]), dataset.n_train + dataset.n_test
    rois = {}
    for roi in dataset.rois:
        group, width = ANSWERS[roi]
        features = np.concatenate([groups[group][split] for split in ("train", "test")])
        rois[roi] = draw_responses(features, width + int(rng.integers(-8, 9)), args.reliability, dataset.repetitions, rng)
    quiet = rng.standard_normal((n, dataset.repetitions, OTHERS))
    whole = np.concatenate([*rois.values(), quiet], axis=2)
    whole = whole[:, :, rng.permutation(whole.shape[2])]
    box = np.zeros(20 * 20 * 10)
    box[rng.choice(box.size, whole.shape[2], replace=False)] = 1
    for path, responses in zip(paths, rois.values(), strict=True):
        write_bytes(path, pickle.dumps({"train": responses}, PROTOCOL))
    write_bytes(whole_path, pickle.dumps({"train": whole, "voxel_mask": box.reshape(20, 20, 10)}, PROTOCOL))
    return f"{sum(responses.shape[2] for responses in rois.values())} voxels in {len(rois)} ROIs"


def pickle_paths(dataset, data_root, subject):
    """Pickles of the nine ROIs and of the whole brain, list of Path."""
    folder = dataset.tree(data_root) / "participants_data_v2021"
    return [folder / track / f"sub{subject:02d}" / f"{roi}.pkl" for track, rois in dataset.tracks.items() for roi in rois]


def get_parser():
    return get_fmri_parser(__doc__, PhantomAlgonauts, reliability=0.8)


def main(args):
    dataset = get_dataset(args.dataset, PhantomAlgonauts)
    paths_of = partial(pickle_paths, dataset, args.data_root)
    make_responses(args, dataset, open_features(args, dataset), paths_of, partial(make_subject, args, dataset))


if __name__ == "__main__":
    cli.run(main, get_parser)
