"""Correlation distance between the features of reconstructed and true clips, of an image network; lower is better.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt), EfficientNet-B1, SwAV's ResNet-50, or both
Writes   EffNet-distance.npy, SwAV-distance.npy (N,) float64 and feature_distance.csv, one value per clip, below --out

    python Evaluation_Metrics/feature_distance.py --recons_dir results --effnet_path efficientnet_b1_rwightman-bac287d4.pth
    python Evaluation_Metrics/feature_distance.py --recons_dir results --swav_path swav_800ep_pretrain.pth.tar

About 2 s per clip on one CPU core.
"""

import numpy as np

from common import cli
from common.files import UserError
from Evaluation_Metrics import metric_script, per_clip
from Evaluation_Metrics.identification import check_features, is_constant, mean_over_frames
from Evaluation_Metrics.towers import Towers

FEATURES = {"EffNet-distance": "effnet", "SwAV-distance": "swav"}  # column -> what it reads


def correlation_distance(pred_features, true_features):
    """1 - Pearson correlation of the features of reconstruction and truth.

    Parameters
    ----------
    pred_features, true_features : arrays, (N, D)
        a row per clip, those of one clip in the same place

    Returns
    -------
    array, (N,) float64
        0 for equal features, 1 for unrelated ones; NaN for a clip that has constant features on either side

    Raises
    ------
    ValueError
        shapes that differ, or features that are not finite
    """
    pred, true = check_features(pred_features, true_features)
    x, y = (rows - rows.mean(1, dtype=np.float64, keepdims=True) for rows in (pred, true))
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = 1 - (x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
    return np.where(is_constant(pred) | is_constant(true), np.nan, distance)


def _of_features(pred, gt):
    return correlation_distance(mean_over_frames(pred), mean_over_frames(gt))


def metric(columns=("EffNet-distance",), features="effnet"):
    """The metric as a column of a protocol; `features` names a model."""
    needs = ((features, "pred"), (features, "gt"))
    return per_clip.Metric(tuple(columns), _of_features, needs, chance={columns[0]: 1.0})


def get_parser():
    return metric_script.metric_parser(__doc__, *FEATURES.values())


def main(args):
    towers = Towers.of(args)
    metrics = [metric((column,), features) for column, features in FEATURES.items() if features in towers]
    if not metrics:
        raise UserError("--effnet_path or --swav_path is needed; name a file of weights")
    metric_script.main(args, metrics, title="feature_distance")


if __name__ == "__main__":
    cli.run(main, get_parser)
