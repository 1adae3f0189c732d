"""CLIP-pcc: how alike successive reconstructed frames are to CLIP, counted as 0 where the clip's meaning is lost.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt), CLIP, ViFi-CLIP
Writes   CLIP-pcc.npy (N,) float64 and CLIP-pcc.csv, one value per clip, below --out

    python Evaluation_Metrics/CLIP_consist.py --dataset phantom --subj_ID 1
    python Evaluation_Metrics/CLIP_consist.py --dataset phantom --subj_ID 1 --no_threshold

About 1 s per clip on one CPU core with ViT-B/32.
"""

import numpy as np

THRESHOLD = 0.6  # VIFI-score up to which a clip counts as lost; the released code's


def clip_pcc(features, vifi=None, threshold=THRESHOLD):
    """Mean cosine of adjacent frames' features, 0 for clips whose VIFI-score is not above the threshold.

    Parameters
    ----------
    features : (N, F, D) CLIP image features of the reconstructed frames
    vifi : (N,) VIFI-scores; needed when there is a threshold
    threshold : None to leave every clip as it is

    Returns
    -------
    (N,) float64

    Raises
    ------
    ValueError : wrong shapes, or a threshold without VIFI-scores
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 3 or features.shape[1] < 2:
        raise ValueError(f"features (clips, 2 frames or more, dimensions) expected, got {features.shape}")
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    cosine = (unit[:, 1:] * unit[:, :-1]).sum(-1).mean(1)
    if threshold is None:
        return cosine
    if vifi is None or np.shape(vifi) != cosine.shape:
        raise ValueError(f"one VIFI-score per clip ({len(cosine)}) expected, got {np.shape(vifi)}")
    return np.where(np.asarray(vifi) > threshold, cosine, 0.0)
