"""Temporal consistency: how alike neighbouring reconstructed frames are to DINOv2.

It is of the reconstruction alone, and a still reaches 1: read it beside what the true clips reach, which is printed.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt), DINOv2
Writes   DINO-consistency.npy (N,) float64 and DINO-consistency.csv, one value per clip, below --out

    python Evaluation_Metrics/temporal_consistency.py --dataset phantom --subj_ID 1
    python Evaluation_Metrics/temporal_consistency.py --recons_dir results --dino_path facebook/dinov2-base

About 2 s per clip on one CPU core with ViT-B/14.
"""

from common import cli
from Evaluation_Metrics import metric_script, per_clip
from Evaluation_Metrics.CLIP_consist import clip_pcc


def temporal_consistency(features):
    """Mean cosine of the DINOv2 features (N, F, D) of neighbouring frames, (N,) float64.

    References
    ----------
    Huang et al. 2024, VBench, subject consistency; CineBrain's DTC.
    """
    return clip_pcc(features, threshold=None)


def _columns(pred, gt):
    return temporal_consistency(pred), temporal_consistency(gt)


def metric(columns=("DINO-consistency",)):
    """The metric as a column of a protocol."""
    (name,) = columns
    return per_clip.Metric((name, name + per_clip.OF_TRUTH), _columns, (("dino", "pred"), ("dino", "gt")), still={name: 1.0})


get_parser, main = metric_script.script(__doc__, metric, "dino")

if __name__ == "__main__":
    cli.run(main, get_parser)
