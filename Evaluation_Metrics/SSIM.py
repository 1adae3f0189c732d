"""SSIM of reconstructed and true frames.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt)
Writes   SSIM.npy (N,) float64 and SSIM.csv, one value per clip, below --out

    python Evaluation_Metrics/SSIM.py --dataset phantom --subj_ID 1
    python Evaluation_Metrics/SSIM.py --recons_dir results.zip --layout side_by_side --out scores

About 0.4 s per clip of 8 frames of 512 x 512 on one core.
"""

from functools import partial

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from common import cli
from Evaluation_Metrics import metric_script, per_clip

WINDOW = 7  # pixels; skimage's default
SIGMA, TRUNCATE, GAUSSIAN_WINDOW = 1.5, 3.5, 11  # pixels; skimage's for Gaussian weights
GREY = (0.2125, 0.7154, 0.0721)  # weights of skimage's rgb2gray
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def _local_mean(image):
    """Mean over the window around every pixel that has a whole window."""
    mean = cv2.boxFilter(image, cv2.CV_64F, (WINDOW, WINDOW))
    edge = WINDOW // 2
    return mean[edge:-edge, edge:-edge]


def _ssim_plane(x, y):
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    sample = WINDOW**2 / (WINDOW**2 - 1)
    var_x = sample * (_local_mean(x * x) - mean_x**2)
    var_y = sample * (_local_mean(y * y) - mean_y**2)
    cov = sample * (_local_mean(x * y) - mean_x * mean_y)
    values = (2 * mean_x * mean_y + C1) * (2 * cov + C2) / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))
    return values.mean()


def ssim_frame(x, y):
    """SSIM of two frames (H, W, 3) uint8: skimage's structural_similarity with data_range 255 and channel_axis -1, three times as fast.

    References
    ----------
    Wang et al. 2004, Image quality assessment, eq. 13, uniform window, sample covariance.
    """
    # a channel at a time stays in the processor's cache
    return float(np.mean([_ssim_plane(x[..., c].astype(np.float64), y[..., c].astype(np.float64)) for c in range(x.shape[-1])]))


def ssim_of_columns(x, y):
    """SSIM of two frames (H, W, 3) uint8 as MindEye and NEURONS compute it: of grey pictures, whose columns are taken for channels.

    skimage's structural_similarity with channel_axis -1, gaussian_weights, sigma 1.5, use_sample_covariance False and
    data_range 1: a window of one dimension, along each column.
    """
    c1, c2, edge = 0.01**2, 0.03**2, GAUSSIAN_WINDOW // 2
    x, y = ((frame / 255.0) @ GREY for frame in (x, y))
    mean_x, mean_y, xx, yy, xy = gaussian_filter1d(np.stack([x, y, x * x, y * y, x * y]), SIGMA, axis=1, truncate=TRUNCATE)
    var_x, var_y, cov = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    values = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(values[edge:-edge].mean())


MODES = {"rgb": (ssim_frame, WINDOW), "columns": (ssim_of_columns, GAUSSIAN_WINDOW)}  # of two frames, and pixels that it needs


def ssim(pred, gt, mode="rgb"):
    """Mean SSIM over the frames of each clip.

    Parameters
    ----------
    pred, gt : arrays, (N, F, H, W, 3) uint8
    mode : str
        "rgb", of the three channels; "columns", of grey pictures with their columns for channels

    Returns
    -------
    array, (N,) float64

    Raises
    ------
    ValueError
        shapes or types differ, frames are smaller than the window, or the mode is unknown
    """
    per_clip.check_pairs(pred, gt)
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    of_frames, window = MODES[mode]
    if min(pred.shape[2:4]) < window:
        raise ValueError(f"SSIM needs frames of at least {window} x {window} pixels, got {pred.shape[2:4]}")
    return np.array([np.mean([of_frames(x, y) for x, y in zip(p, g, strict=True)]) for p, g in zip(pred, gt, strict=True)])


def metric(columns=("SSIM",), mode=None):
    """The metric as a column of a protocol."""
    return per_clip.Metric(tuple(columns), partial(ssim, mode=mode) if mode else ssim)


get_parser, main = metric_script.script(__doc__, metric)

if __name__ == "__main__":
    cli.run(main, get_parser)
