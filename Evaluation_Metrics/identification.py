"""2-way identification: how often a reconstruction's features are nearer to its own truth's than to another clip's.

Pearson correlation between the features of every reconstruction and every truth; of a reconstruction, the share of the
wrong truths that correlate less than the right one. Chance is 1/2, whatever the set of clips.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt), one model or several
Writes   id-{model}.npy (N,) float64 and identification.csv, one value per clip and model, below --out

    python Evaluation_Metrics/identification.py --dataset phantom --subj_ID 1
    python Evaluation_Metrics/identification.py --recons_dir results --clip_path ViT-B-32:openai

The models take the time: about 2 s per clip on one CPU core with ViT-B/32; the correlations of 1200 clips a few seconds.
"""

import numpy as np

from common import cli
from common.files import UserError
from Evaluation_Metrics import metric_script, per_clip
from Evaluation_Metrics.towers import KINDS, Towers

CHUNK = 8192  # features that are held in float64 at a time
FEATURES = {  # column -> what it reads
    "id-CLIP": "clip", "id-CLIP-L": "clip_large", "id-AlexNet2": "alexnet.layer2", "id-AlexNet5": "alexnet.layer5",
    "id-Inception": "inception", "id-VideoMAE": "video.token",
}  # fmt: skip


def check_features(pred_features, true_features, least=1):
    """Features (N, ...) of reconstructions and truths as two arrays (N, D); a ValueError unless they fit, are finite and `least` rows or more."""
    pred, true = (np.asarray(features) for features in (pred_features, true_features))
    if pred.ndim < 2 or pred.shape != true.shape:
        raise ValueError(f"features of reconstructions and truths must have one shape (clips, ...), got {pred.shape} and {true.shape}")
    if len(pred) < least:
        raise ValueError(f"{least} clips or more are needed, got {len(pred)}")
    pred, true = pred.reshape(len(pred), -1), true.reshape(len(true), -1)
    for words, rows in (("reconstruction", pred), ("truth", true)):
        if len(bad := np.flatnonzero(~np.isfinite(rows).all(1))):
            raise ValueError(f"features of the {words} in row {bad[0]} are NaN or infinite")
    return pred, true


def is_constant(rows):
    """Whether all features of a row are equal, (N,) bool."""
    return rows.max(1) == rows.min(1)


def two_way_identification(pred_features, true_features):
    """Share of the wrong truths that correlate less with a reconstruction than the right one; a tie counts 1/2.

    Parameters
    ----------
    pred_features, true_features : arrays, (N, D)
        a row per clip, those of one clip in the same place

    Returns
    -------
    array, (N,) float64
        NaN for a clip whose reconstruction or truth has constant features; a constant truth is nobody's wrong one

    Raises
    ------
    ValueError
        fewer than two clips, shapes that differ, or features that are not finite

    References
    ----------
    Ozcelik & VanRullen 2023, Natural scene reconstruction from fMRI signals using generative latent diffusion.
    """
    pred, true = check_features(pred_features, true_features, least=2)
    # equal truths are compared once, so that they tie exactly
    seen = {}
    group = np.array([seen.setdefault((row + 0.0).tobytes(), len(seen)) for row in true])  # -0 is 0
    first = np.unique(group, return_index=True)[1]
    distinct = true if len(first) == len(true) else true[first]
    counts, flat = np.bincount(group).astype(np.float64), (is_constant(pred), is_constant(distinct))

    means = [rows.mean(1, dtype=np.float64, keepdims=True) for rows in (pred, distinct)]
    product, lengths = np.zeros((len(pred), len(first))), [np.zeros(len(pred)), np.zeros(len(first))]
    for start in range(0, pred.shape[1], CHUNK):
        part = np.s_[:, start : start + CHUNK]
        x, y = pred[part] - means[0], distinct[part] - means[1]
        product += x @ y.T
        lengths = [lengths[0] + np.einsum("nd,nd->n", x, x), lengths[1] + np.einsum("nd,nd->n", y, y)]
    counts[flat[1]] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = product / np.sqrt(np.outer(*lengths))
        right = np.take_along_axis(correlation, group[:, None], axis=1)
        below, tied = (correlation < right) @ counts, (correlation == right) @ counts - 1
        share = (below + tied / 2) / (counts.sum() - 1)
    return np.where(flat[0] | flat[1][group], np.nan, share)


# ---------------------------------------------------------------------------------------------- columns


def mean_over_frames(features):
    """Features of clips, (N, D), of those of clips or of their frames, (N, F, D)."""
    return features if features.ndim == 2 else np.asarray(features, np.float64).mean(1)


def _of_features(pred, gt):
    return two_way_identification(mean_over_frames(pred), mean_over_frames(gt))


def metric(columns=("id-CLIP",), features="clip"):
    """The metric as a column of a protocol; `features` names a model or one of its outputs, such as "video.token"."""
    needs = ((features, "pred"), (features, "gt"))
    return per_clip.Metric(tuple(columns), _of_features, needs, chance={columns[0]: 0.5}, least_clips=2)


def get_parser():
    return metric_script.metric_parser(__doc__, *dict.fromkeys(map(per_clip.model_of, FEATURES.values())))


def main(args):
    towers = Towers.of(args)
    metrics = [metric((column,), features) for column, features in FEATURES.items() if per_clip.model_of(features) in towers]
    if not metrics:
        flags = ", ".join(f"--{KINDS[kind][0]}" for kind in dict.fromkeys(map(per_clip.model_of, FEATURES.values())))
        raise UserError(f"one of {flags} is needed; name a folder or a hub id")
    metric_script.main(args, metrics, title="identification")


if __name__ == "__main__":
    cli.run(main, get_parser)
