"""What the decoders are given as fMRI: the real thing, or one of the phantom's two yardsticks."""

import numpy as np

from common.files import UserError, load_array
from phantom.features import TRUTH, true_features
from common.randomness import numpy_generator

ARMS = {
    "full": "the fMRI",
    "control": "training rows permuted over clips, so that there is nothing to learn",
    "oracle": "the phantom's true features instead of fMRI",
}


def add_arm_flag(parser):
    parser.add_argument("--arm", choices=list(ARMS), default="full", help="; ".join(f"{arm}: {what}" for arm, what in ARMS.items()))


def fmri_files(layout, dataset, subject, split, arm, data_root):
    """Files that `load_fmri` reads, for a run's record."""
    return [data_root / TRUTH] if arm == "oracle" else [layout.masked_fmri(subject, split, dataset.n_vertices)]


def load_fmri(layout, dataset, subject, split, arm, data_root, clip_path, seed):
    """Decoder input of one split.

    Parameters
    ----------
    layout : common.layout.Layout
    dataset : registry entry
    subject : int
    split : "train" or "test"
    arm : "full", "control" (training rows in random order, test rows as they are) or "oracle" (phantom only)
    data_root : folder of the raw data, for the oracle
    clip_path : the phantom's CLIP, for the oracle
    seed : int, of the control's order, which is the same for all decoders of a subject

    Returns
    -------
    (N, V) float32 array, rows in the data set's order

    Raises
    ------
    UserError : no such subject, a missing or misshapen file, or an oracle of a real brain
    """
    dataset.check_subject(subject)
    if arm == "oracle":
        if not dataset.is_phantom:
            raise UserError("--arm", "full or control: only the phantom's true features are known", "oracle", "choose another arm")
        return true_features(data_root, split, clip_path)
    path = layout.masked_fmri(subject, split, dataset.n_vertices)
    fmri = load_array(path, shape=(dataset.n_clips(split), None), dtype=np.float32, do="run step 4 of the preprocessing")
    if arm == "control" and split == "train":
        return fmri[numpy_generator(seed, "control", subject).permutation(len(fmri))]
    return fmri
