"""Dynamic-degree gap: share of the reconstructions that move, minus the share of the true clips that do.

Whether a clip moves is decided by VBench's rule, with Farneback's flow in place of RAFT's: values compare with each other,
not with VBench's.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt)
Writes   dynamic-degree.npy, dynamic-degree-gap.npy (N,) float64, the gap 1, 0 or -1 a clip, and dynamic-degree.csv below --out

    python Evaluation_Metrics/dynamic_degree.py --dataset phantom --subj_ID 1

About 0.9 s per clip of 8 frames of 512 x 512 on one core.
"""

from functools import partial

import numpy as np

from common import cli
from Evaluation_Metrics import metric_script, per_clip
from Evaluation_Metrics.EPE import flows

LONGEST = 0.05  # share of the flow vectors of a pair of frames that count
PIXELS, PER_SIDE, RATE = 6.0, 256, 8  # length from which a pair moves, at frames of that side and rate
PAIRS, PER_FRAMES = 4, 16  # pairs that must move, of a clip of so many frames


def moves(frames, fps=3.75):
    """Whether clips move, by VBench's rule.

    Parameters
    ----------
    frames : array, (N, F, H, W, 3) uint8
        RGB
    fps : float
        frames a second

    Returns
    -------
    array, (N,) bool

    Raises
    ------
    ValueError
        another shape or type, or fewer than two frames

    References
    ----------
    Huang et al. 2024, VBench, dynamic degree.
    """
    per_clip.check_pairs(frames, frames)
    n_frames, height, width = frames.shape[1:4]
    if n_frames < 2:
        raise ValueError(f"optical flow needs two frames or more, got clips of {n_frames}")
    least = max(1, RATE / fps) * PIXELS * min(height, width) / PER_SIDE
    n_longest, n_pairs = max(1, int(LONGEST * height * width)), max(1, round(PAIRS * n_frames / PER_FRAMES))
    found = np.empty(len(frames), bool)
    for clip, of_frames in enumerate(frames):
        lengths = np.linalg.norm(flows(of_frames, "rgb"), axis=-1).reshape(n_frames - 1, -1).astype(np.float64)
        longest = np.partition(lengths, -n_longest, axis=1)[:, -n_longest:]
        found[clip] = (longest.mean(1) > least).sum() >= n_pairs
    return found


def _columns(pred, gt, fps):
    of_pred, of_truth = (moves(clips, fps).astype(np.float64) for clips in (pred, gt))
    return of_pred, of_pred - of_truth, of_truth


def metric(columns=("dynamic-degree", "dynamic-degree-gap"), fps=3.75):
    """The metric as columns of a protocol: the share itself, and the gap."""
    degree, gap = columns
    return per_clip.Metric((degree, gap, degree + per_clip.OF_TRUTH), partial(_columns, fps=fps), still={degree: 0.0})


get_parser, main = metric_script.script(__doc__, metric)

if __name__ == "__main__":
    cli.run(main, get_parser)
