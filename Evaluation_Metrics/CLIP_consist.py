"""CLIP-pcc: how alike successive reconstructed frames are to CLIP, counted as 0 where the clip's meaning is lost.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt), CLIP, ViFi-CLIP
Writes   CLIP-pcc.npy (N,) float64 and CLIP-pcc.csv, one value per clip, below --out

    python Evaluation_Metrics/CLIP_consist.py --dataset phantom --subj_ID 1
    python Evaluation_Metrics/CLIP_consist.py --dataset phantom --subj_ID 1 --no_threshold --out scores_without_threshold

About 2 s per clip on one CPU core with ViT-B/32 and ViT-B/16.
"""

from functools import partial

import numpy as np

from common import cli
from Evaluation_Metrics import metric_script, per_clip
from Evaluation_Metrics.VIFI_score import vifi_score

THRESHOLD = 0.6  # VIFI-score up to which a clip counts as lost; the released code's


def clip_pcc(features, vifi=None, threshold=THRESHOLD, every_pair=False):
    """Mean cosine of adjacent frames' features, 0 for clips whose VIFI-score is not above the threshold.

    Parameters
    ----------
    features : array, (N, F, D)
        CLIP image features of the reconstructed frames
    vifi : array, (N,)
        VIFI-scores; needed when there is a threshold
    threshold : float, optional
        None leaves every clip as it is
    every_pair : bool
        all pairs of frames instead of adjacent ones

    Returns
    -------
    array, (N,) float64

    Raises
    ------
    ValueError
        wrong shapes, or a threshold without VIFI-scores
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 3:
        raise ValueError(f"features (clips, frames, dimensions) expected, got {features.shape}")
    if features.shape[1] < 2:
        raise ValueError(f"adjacent frames need two frames or more, got clips of {features.shape[1]}")
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    first, second = np.triu_indices(features.shape[1], 1)
    if not every_pair:
        adjacent = second - first == 1
        first, second = first[adjacent], second[adjacent]
    cosine = (unit[:, first] * unit[:, second]).sum(-1).mean(1)
    if threshold is None:
        return cosine
    if vifi is None or np.shape(vifi) != cosine.shape:
        raise ValueError(f"one VIFI-score per clip ({len(cosine)}) expected, got {np.shape(vifi)}")
    return np.where(np.asarray(vifi) > threshold, cosine, 0.0)


def _of_features(clip, vifi, true_vifi, threshold):
    return clip_pcc(clip, vifi_score(vifi, true_vifi), threshold)


def _without_threshold(pred, gt, every_pair):
    return tuple(clip_pcc(features, threshold=None, every_pair=every_pair) for features in (pred, gt))


def metric(columns=("CLIP-pcc",), threshold=THRESHOLD, features="clip", every_pair=False):
    """The metric as a column of a protocol: with a threshold as released, or of every clip, with what the truth reaches."""
    if threshold is not None:
        needs = (("clip", "pred"), ("vifi", "pred"), ("vifi", "gt"))
        return per_clip.Metric(tuple(columns), partial(_of_features, threshold=threshold), needs)
    (name,), function = columns, partial(_without_threshold, every_pair=every_pair)
    return per_clip.Metric((name, name + per_clip.OF_TRUTH), function, ((features, "pred"), (features, "gt")), still={name: 1.0})


def get_parser():
    parser = metric_script.metric_parser(__doc__, "clip", "vifi")
    parser.add_argument("--no_threshold", action="store_true", help="values of all clips, whatever their VIFI-score")
    return parser


def main(args):
    metric_script.main(args, [metric(threshold=None if args.no_threshold else THRESHOLD)])


if __name__ == "__main__":
    cli.run(main, get_parser)
