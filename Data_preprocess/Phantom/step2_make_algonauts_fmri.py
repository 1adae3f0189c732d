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

import numpy as np

from common import cli
from common.datasets import get_dataset
from common.datasets.phantom_algonauts import PhantomAlgonauts
from common.files import write_bytes
from common.model_sources import model_path
from common.records import working
from Data_preprocess.phantom_flags import add_phantom_flags
from models.loading import model_files
from phantom.brain import DENSITY
from phantom.features import feature_groups, load_scenes

ANSWERS = {  # what an ROI answers to, and its voxels, which differ a little between participants
    "V1": ("structure", 110), "V2": ("structure", 110), "V3": ("structure", 90), "V4": ("structure", 70), "LOC": ("semantics", 90),
    "EBA": ("semantics", 60), "FFA": ("semantics", 40), "STS": ("motion", 200), "PPA": ("semantics", 50),
}  # fmt: skip
OTHERS = 400  # voxels of the whole brain that answer to nothing
PROTOCOL = 2  # of the real data set's pickles


def draw_responses(features, width, reliability, repetitions, rng):
    """Responses of one ROI, (N, repetitions, width): features by random weights, and noise; the first voxel is constant.

    Parameters
    ----------
    features : array, shape (N, D)
    width : int
        voxels
    reliability : float
        correlation of two repetitions
    repetitions : int
    rng : np.random.Generator
    """
    weights = rng.standard_normal((features.shape[1], width)) * (rng.random((features.shape[1], width)) < DENSITY)
    clean = features @ weights
    clean *= np.sqrt(reliability) / np.maximum(clean.std(0), 1e-9)
    noise = rng.standard_normal((len(features), repetitions, width)) * np.sqrt(1 - reliability)
    responses = clean[:, None] + noise
    responses[:, :, 0] = 1.0
    return responses


def make_subject(dataset, data_root, subject, groups, reliability, seed):
    """Write all pickles of a subject; returns the number of voxels of the nine ROIs."""
    rng, n = np.random.default_rng([seed, subject, 11]), dataset.n_train + dataset.n_test
    rois = {}
    for roi in dataset.rois:
        group, width = ANSWERS[roi]
        features = np.concatenate([groups[group][split] for split in ("train", "test")])
        rois[roi] = draw_responses(features, width + int(rng.integers(-8, 9)), reliability, dataset.repetitions, rng)
    quiet = rng.standard_normal((n, dataset.repetitions, OTHERS))
    whole = np.concatenate([*rois.values(), quiet], axis=2)
    whole = whole[:, :, rng.permutation(whole.shape[2])]
    box = np.zeros(20 * 20 * 10)
    box[rng.choice(box.size, whole.shape[2], replace=False)] = 1
    for roi, responses in rois.items():
        write_bytes(pickle_path(dataset, data_root, "mini_track", subject, roi), pickle.dumps({"train": responses}, PROTOCOL))
    content = {"train": whole, "voxel_mask": box.reshape(20, 20, 10)}
    write_bytes(pickle_path(dataset, data_root, "full_track", subject, "WB"), pickle.dumps(content, PROTOCOL))
    return sum(responses.shape[2] for responses in rois.values())


def pickle_path(dataset, data_root, track, subject, roi):
    return dataset.tree(data_root) / "participants_data_v2021" / track / f"sub{subject:02d}" / f"{roi}.pkl"


def get_parser():
    parser = cli.make_parser(__doc__)
    group = add_phantom_flags(parser, PhantomAlgonauts)
    group.add_argument("--subj_ID", nargs="+", default=["1"], changes_result=False, help="simulated participants, 1 to 3; they differ")
    group = parser.add_argument_group("model")
    group.add_argument("--reliability", type=cli.real(above=0, below=1), default=0.5, help="correlation of two repetitions of a voxel")
    group.add_argument("--clip_path", metavar="SOURCE", changes_result=False, help="CLIP that embeds the captions (default: the phantom's)")
    return parser


def main(args):
    dataset, clip_path = get_dataset(args.dataset, PhantomAlgonauts), model_path(args, "clip")
    truth, groups = dataset.truth_path(args.data_root), None
    for subject in args.subj_ID:
        paths = [pickle_path(dataset, args.data_root, track, subject, roi) for track, rois in dataset.tracks.items() for roi in rois]
        folder, inputs = truth.parent / "records" / f"step2_make_fmri_sub{subject}", [truth, *model_files(clip_path)]
        with working(folder, args, inputs=inputs, outputs=paths, clear=paths) as record:
            if record is None:
                continue
            groups = groups or feature_groups({split: load_scenes(truth, split) for split in ("train", "test")}, clip_path)
            n = make_subject(dataset, args.data_root, subject, groups, args.reliability, args.seed)
            print(f"{dataset.name} subject {subject}: {n} voxels in {len(dataset.rois)} ROIs")
            record.finish(voxels=n)


if __name__ == "__main__":
    cli.run(main, get_parser)
