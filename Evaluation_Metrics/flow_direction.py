"""Flow-direction cosine: does the reconstruction move where the truth moves, and the same way?

The cosine of reconstructed and true flow at every pixel, weighted by the length of the true flow: pixels that stand still
in truth don't count, which the angular error of EPE.py takes for 90 degrees.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt)
Writes   flow-cosine.npy (N,) float64 and flow-cosine.csv, one value per clip, below --out

    python Evaluation_Metrics/flow_direction.py --dataset phantom --subj_ID 1

About 0.9 s per clip of 8 frames of 512 x 512 on one core.
"""

import numpy as np

from common import cli
from Evaluation_Metrics import metric_script, per_clip
from Evaluation_Metrics.EPE import flows

LEAST_FLOW = 0.1  # pixels a pair of frames that the truth must move by on average


def moving_flow(clip):
    """Flow between successive frames, (F - 1, H, W, 2) float64, 0 between equal ones, where Farneback's may be some tenths of a pixel."""
    equal = (clip[1:] == clip[:-1]).all(axis=(1, 2, 3))
    return np.where(equal[:, None, None, None], 0.0, flows(clip, "rgb"))


def flow_direction_cosine(pred, gt):
    """Cosine of reconstructed and true flow, averaged over pixels and pairs of frames with the length of the true flow as weight.

    Parameters
    ----------
    pred, gt : arrays, (N, F, H, W, 3) uint8
        RGB

    Returns
    -------
    array, (N,) float64
        -1..1, 0 for a still; NaN for clips whose mean true flow is below 0.1 pixels a pair of frames

    Raises
    ------
    ValueError
        shapes or types differ, or fewer than two frames
    """
    per_clip.check_pairs(pred, gt)
    if pred.shape[1] < 2:
        raise ValueError(f"optical flow needs two frames or more, got clips of {pred.shape[1]}")
    values = np.full(len(pred), np.nan)
    for clip, (p, g) in enumerate(zip(pred, gt, strict=True)):
        # component by component: numpy is slow at sums over an axis of two
        (ux, uy), (vx, vy) = (np.moveaxis(moving_flow(side), -1, 0) for side in (p, g))
        lengths = np.hypot(vx, vy)
        if lengths.mean() >= LEAST_FLOW:
            along = (ux * vx + uy * vy) / (np.hypot(ux, uy) + 1e-8)  # the cosine times the length of the true flow
            values[clip] = along.sum() / lengths.sum()
    return values


def metric(columns=("flow-cosine",)):
    """The metric as a column of a protocol."""
    return per_clip.Metric(tuple(columns), flow_direction_cosine, chance={columns[0]: 0.0}, still={columns[0]: 0.0})


get_parser, main = metric_script.script(__doc__, metric)

if __name__ == "__main__":
    cli.run(main, get_parser)
