"""Likeness of the hues of reconstructed and true frames.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt)
Writes   Hue-pcc.npy (N,) float64 and Hue-pcc.csv, one value per clip, below --out; Hue-pearson with --hue pearson

    python Evaluation_Metrics/hue_pcc.py --dataset phantom --subj_ID 1
    python Evaluation_Metrics/hue_pcc.py --dataset phantom --subj_ID 1 --hue pearson

About 0.05 s per clip of 8 frames of 512 x 512 on one core.
"""

from functools import partial

import cv2
import numpy as np

from common import cli
from Evaluation_Metrics import metric_script, per_clip

RELEASED_FRAMES = 6  # of eight, in the released script
MODES = ("released", "pearson")


def hue_planes(clip, mode):
    """Hue of every pixel of a clip (F, H, W, 3) uint8 RGB, flat per frame: (F, H W) float64, 0..179 / 360.

    "released" reads red as blue, as the released script does; "pearson" reads RGB.
    """
    code = cv2.COLOR_BGR2HSV if mode == "released" else cv2.COLOR_RGB2HSV
    return np.stack([cv2.cvtColor(frame, code)[..., 0].ravel() for frame in clip]) / 360.0


def hue_pcc(pred, gt, mode="released", n_frames=None):
    """Mean likeness of hue planes over the frames of each clip.

    Parameters
    ----------
    pred, gt : arrays, (N, F, H, W, 3) uint8
        RGB
    mode : str
        "released", the cosine of the two hue planes of the frames read as BGR; or "pearson", the correlation of
        the RGB hues
    n_frames : int, optional
        frames that count, from the first; default 6 if released, all if pearson

    Returns
    -------
    array, (N,) float64
        NaN where a frame on either side has no hue (grey), or, for "pearson", one hue alone

    Raises
    ------
    ValueError
        shapes or types differ, or the mode is unknown
    """
    per_clip.check_pairs(pred, gt)
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    n_frames = n_frames or (RELEASED_FRAMES if mode == "released" else pred.shape[1])
    values = np.empty(len(pred))
    for clip, (p, g) in enumerate(zip(pred, gt, strict=True)):
        x, y = hue_planes(p[:n_frames], mode), hue_planes(g[:n_frames], mode)
        if mode == "pearson":
            x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
            one_hue = (np.abs(x).max(1) < 1e-12) | (np.abs(y).max(1) < 1e-12)  # the mean's rounding is below that
        else:
            one_hue = ~(x.any(1) & y.any(1))
        with np.errstate(invalid="ignore"):
            cosine = (x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
        values[clip] = np.where(one_hue, np.nan, cosine).mean()
    return values


def metric(columns=("Hue-pcc",), mode="released", n_frames=None):
    """The metric as a column of a protocol."""
    return per_clip.Metric(tuple(columns), partial(hue_pcc, mode=mode, n_frames=n_frames))


def get_parser():
    parser = metric_script.metric_parser(__doc__)
    parser.add_argument("--hue", choices=MODES, default="released", help="likeness of hues: cosine as released, or Pearson correlation")
    return parser


def main(args):
    metric_script.main(args, [metric(("Hue-pcc" if args.hue == "released" else "Hue-pearson",), args.hue)])


if __name__ == "__main__":
    cli.run(main, get_parser)
