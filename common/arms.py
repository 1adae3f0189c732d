"""What the decoders are given as fMRI: the real thing, or one of two yardsticks."""

import numpy as np

from common.cortex import N_CORTEX, area_labels
from common.files import UserError, load_array, load_mask, read_json
from common.randomness import numpy_generator

ARMS = {
    "full": "the fMRI",
    "control": "training rows permuted over clips, so that there is nothing to learn",
    "oracle": "true features of simulated data instead of fMRI",
}


def add_arm_flag(parser):
    parser.add_argument("--arm", choices=list(ARMS), default="full", help="; ".join(f"{arm}: {what}" for arm, what in ARMS.items()))
    add_area_flags(parser)


def add_area_flags(parser):
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--roi", nargs="+", metavar="AREA", help="areas, such as V1 MT, whose voxels alone decoders are given (both sides)")
    group.add_argument("--without_roi", nargs="+", metavar="AREA", help="areas whose voxels decoders are not given")


def named_arm(args, arm=None):
    """An arm with the areas that its decoders are given, as folders spell it: 'full', 'full_roi_V1_MT', 'full_without_V1_MT'."""
    areas = ["roi", *args.roi] if args.roi else ["without", *args.without_roi] if args.without_roi else []
    return "_".join([arm or args.arm, *areas])


def area_columns(layout, subject):
    """Columns of the fMRI in every area, {MMP area of both sides, or ROI: (columns,) int}, and their number in all."""
    path = layout.roi_columns(subject)
    if path.exists():
        areas = {name: np.arange(*ends) for name, ends in read_json(path, {...: [int]}, "run the last preprocessing step again").items()}
        return areas, sum(map(len, areas.values()))
    names = np.array([label[2:] for label in area_labels()[load_mask(layout.mask(subject), N_CORTEX)]])
    return {str(name): np.flatnonzero(names == name) for name in np.unique(names) if name}, len(names)


def given_columns(args, layout):
    """Columns that --roi or --without_roi leaves to the decoders, (V,) bool; None without these flags."""
    flag, names = ("--roi", args.roi) if args.roi else ("--without_roi", args.without_roi)
    if not names:
        return None
    if args.arm == "oracle":
        raise UserError(f"--arm oracle has features in place of voxels, and no areas; leave out {flag}")
    areas, n = area_columns(layout, args.subj_ID)
    if unknown := [name for name in names if name not in areas]:
        there = ", ".join(f"{name} ({len(columns)})" for name, columns in areas.items())
        raise UserError(f"{flag} {' '.join(unknown)}: no selected voxel lies in such an area; use some of these (voxels): {there}")
    given = np.isin(np.arange(n), np.concatenate([areas[name] for name in names])) == bool(args.roi)
    if not given.any():
        raise UserError(f"{flag} {' '.join(names)} leaves no voxel; name fewer areas")
    return given


def fmri_files(layout, dataset, subject, split, arm, data_root):
    """Files that `load_fmri` reads, for a record."""
    return [dataset.oracle_path(data_root, split) if arm == "oracle" else layout.masked_fmri(subject, split, dataset.n_vertices)]


def load_fmri(layout, dataset, subject, split, arm, data_root, seed):
    """Decoder input of one split, (N, V) float32, rows in the data set's order.

    A UserError for a file that is missing or of another shape, and for an oracle of a real brain.

    Parameters
    ----------
    arm : str
        "full", "control" (training rows in random order, test rows as they are) or "oracle"
    data_root : str or Path
        folder of the raw data, for the oracle
    seed : int
        of the control's order, which is the same for all decoders of a subject
    """
    (path,) = fmri_files(layout, dataset, subject, split, arm, data_root)
    do = f"run {dataset.making[-1]} again" if arm == "oracle" else "run the last step of the preprocessing, or check --out_root"
    fmri = load_array(path, shape=(dataset.n_clips(split), None), dtype=np.float32, do=do)
    if arm == "control" and split == "train":
        return fmri[numpy_generator(seed, "control", subject).permutation(len(fmri))]
    return fmri
