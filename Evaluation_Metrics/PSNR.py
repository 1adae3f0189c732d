"""Peak signal-to-noise ratio of reconstructed and true frames, dB.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt)
Writes   PSNR.npy (N,) float64 and PSNR.csv, one value per clip, below --out

    python Evaluation_Metrics/PSNR.py --dataset phantom --subj_ID 1

About 0.03 s per clip of 8 frames of 512 x 512 on one core.
"""

import numpy as np

from common import cli
from Evaluation_Metrics import metric_script, per_clip

IDENTICAL = 100.0  # dB that the released code gives to frames whose MSE is below 1e-10


def psnr(pred, gt):
    """Mean PSNR over the frames of each clip.

    Parameters
    ----------
    pred, gt : arrays, (N, F, H, W, 3) uint8

    Returns
    -------
    array, (N,) float64
        dB: 20 log10(1 / sqrt(MSE)) of intensities in 0..1, 100 for a frame whose MSE is below 1e-10

    Raises
    ------
    ValueError
        shapes or types differ
    """
    per_clip.check_pairs(pred, gt)
    mse = np.empty(pred.shape[:2])
    for clip, (p, g) in enumerate(zip(pred, gt, strict=True)):
        mse[clip] = ((p / 255.0 - g / 255.0) ** 2).mean(axis=(1, 2, 3))
    decibel = np.where(mse < 1e-10, IDENTICAL, -10 * np.log10(np.maximum(mse, 1e-10)))
    return decibel.mean(axis=1)


def metric(columns=("PSNR",)):
    """The metric as a column of a protocol."""
    return per_clip.Metric(tuple(columns), psnr)


get_parser, main = metric_script.script(__doc__, metric)

if __name__ == "__main__":
    cli.run(main, get_parser)
