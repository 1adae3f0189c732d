"""What the decoders are given as fMRI: the real thing, or one of two yardsticks."""

import numpy as np

from common.files import load_array
from common.randomness import numpy_generator

ARMS = {
    "full": "the fMRI",
    "control": "training rows permuted over clips, so that there is nothing to learn",
    "oracle": "true features of simulated data instead of fMRI",
}


def add_arm_flag(parser):
    parser.add_argument("--arm", choices=list(ARMS), default="full", help="; ".join(f"{arm}: {what}" for arm, what in ARMS.items()))


def fmri_files(layout, dataset, subject, split, arm, data_root):
    """Files that `load_fmri` reads, for a record."""
    return [dataset.oracle_path(data_root, split) if arm == "oracle" else layout.masked_fmri(subject, split, dataset.n_vertices)]


def load_fmri(layout, dataset, subject, split, arm, data_root, seed):
    """Decoder input of one split.

    Parameters
    ----------
    layout : common.layout.Layout
    dataset : common.datasets.Dataset
    subject : int or str
    split : str
        "train" or "test"
    arm : str
        "full", "control" (training rows in random order, test rows as they are) or "oracle"
    data_root : str or Path
        folder of the raw data, for the oracle
    seed : int
        of the control's order, which is the same for all decoders of a subject

    Returns
    -------
    array, (N, V) float32
        rows in the data set's order

    Raises
    ------
    UserError
        a missing file or one of another shape, or an oracle of a real brain
    """
    (path,) = fmri_files(layout, dataset, subject, split, arm, data_root)
    do = f"run {dataset.making[-1]} again" if arm == "oracle" else "run the last step of the preprocessing, or check --out_root"
    fmri = load_array(path, shape=(dataset.n_clips(split), None), dtype=np.float32, do=do)
    if arm == "control" and split == "train":
        return fmri[numpy_generator(seed, "control", subject).permutation(len(fmri))]
    return fmri
