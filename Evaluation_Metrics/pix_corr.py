"""PixCorr: Pearson correlation of the pixels of reconstructed and true frames.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt)
Writes   PixCorr.npy (N,) float64 and PixCorr.csv, one value per clip, below --out

    python Evaluation_Metrics/pix_corr.py --dataset phantom --subj_ID 1

About 0.1 s per clip of 8 frames of 512 x 512 on one core.
"""

import cv2
import numpy as np

from common import cli
from Evaluation_Metrics import metric_script, per_clip

SIZE = 425  # pixels, of the NSD reconstructions that the measure comes from


def flat_frames(clip):
    """Pixels of the frames of a clip, (F, pixels) float32; larger frames are brought to SIZE, bilinear without antialiasing."""
    if min(clip.shape[1:3]) > SIZE:
        clip = np.stack([cv2.resize(frame.astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) for frame in clip])
    return clip.reshape(len(clip), -1).astype(np.float32)


def pix_corr(pred, gt):
    """Mean correlation of the flattened RGB frames of each clip.

    Parameters
    ----------
    pred, gt : arrays, (N, F, H, W, 3) uint8
        RGB

    Returns
    -------
    array, (N,) float64
        NaN where a frame on either side has one value alone

    Raises
    ------
    ValueError
        shapes or types differ

    References
    ----------
    Ozcelik & VanRullen 2023, Natural scene reconstruction from fMRI signals using generative latent diffusion.
    """
    per_clip.check_pairs(pred, gt)
    values = np.empty(len(pred))
    for clip, frames in enumerate(zip(pred, gt, strict=True)):
        x, y = (flat_frames(side) for side in frames)
        one_value = (x.max(1) == x.min(1)) | (y.max(1) == y.min(1))
        x, y = (side - side.mean(1, dtype=np.float64, keepdims=True) for side in (x, y))
        with np.errstate(divide="ignore", invalid="ignore"):
            r = np.einsum("fp,fp->f", x, y) / np.sqrt(np.einsum("fp,fp->f", x, x) * np.einsum("fp,fp->f", y, y))
        values[clip] = np.where(one_value, np.nan, r).mean()
    return values


def metric(columns=("PixCorr",)):
    """The metric as a column of a protocol."""
    return per_clip.Metric(tuple(columns), pix_corr, chance={columns[0]: 0.0})


get_parser, main = metric_script.script(__doc__, metric)

if __name__ == "__main__":
    cli.run(main, get_parser)
