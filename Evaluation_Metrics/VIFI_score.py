"""VIFI-score: likeness of reconstructed and true clips to a video model, ViFi-CLIP.

Only the image tower of the published checkpoint (k400_seed1_vifi_clip_base2novel.pth) is needed; it is loaded into
open_clip's, so there is no second environment and no AVI file.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt), ViFi-CLIP
Writes   VIFI-score.npy (N,) float64 and VIFI-score.csv, one value per clip, below --out

    python Evaluation_Metrics/VIFI_score.py --dataset phantom --subj_ID 1
    python Evaluation_Metrics/VIFI_score.py --recons_dir results --vifi_path k400_seed1_vifi_clip_base2novel.pth

About 2 s per clip on one CPU core with ViT-B/16.
"""

import numpy as np

from common import cli
from Evaluation_Metrics import metric_script, per_clip


def clip_features(frame_features):
    """Features of whole clips, (N, D) float64: the mean of the frames' (N, F, D), of length 1."""
    mean = np.asarray(frame_features, np.float64).mean(1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def vifi_score(pred_features, gt_features):
    """Cosine of the clip features of reconstruction and truth, (N,) float64, from frame features (N, F, D) of ViFi-CLIP."""
    return (clip_features(pred_features) * clip_features(gt_features)).sum(-1)


def metric(columns=("VIFI-score",)):
    """The metric as a column of a protocol."""
    return per_clip.Metric(tuple(columns), vifi_score, (("vifi", "pred"), ("vifi", "gt")))


get_parser, main = metric_script.script(__doc__, metric, "vifi")

if __name__ == "__main__":
    cli.run(main, get_parser)
