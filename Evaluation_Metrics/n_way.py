"""n-way classification accuracy of reconstructed frames (I) and clips (V).

A classifier names the three best classes of the true picture. The reconstruction passes when the best of these three
is within the top k among itself and n - 1 classes drawn from the others; the chance to pass is computed exactly.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt), two classifiers
Writes   2-way-I.npy, 50-way-I.npy, 2-way-V.npy, 50-way-V.npy (N,) float64 and n_way.csv below --out

    python Evaluation_Metrics/n_way.py --dataset phantom --subj_ID 1
    python Evaluation_Metrics/n_way.py --recons_dir results --image_classifier google/vit-base-patch16-224 --clip_classifier vm

About 1 s per clip on one CPU core with the ViT-B classifiers, 0.02 s on a GPU.
"""

import logging

import numpy as np
from scipy.special import gammaln

from common import cli
from common.files import UserError
from Evaluation_Metrics import per_clip

N_TRUE = 3  # classes of the true picture that count as right, as released


# ---------------------------------------------------------------------------------------------- accuracy


def chance_level(n_way, top_k=1, n_true=N_TRUE):
    """Accuracy of random scores: the best of n_true classes is within the top k among n_way - 1 others.

    3 / (n + 2) for three true classes and top 1: 0.75 at 2-way, 0.058 at 50-way.
    """
    others = n_way - 1
    if top_k > others:
        return 1.0
    # the chance that none of the k best of all n_true + others is a true one
    return 1 - float(np.prod([(others - j) / (others + n_true - j) for j in range(top_k)]))


def _log_choose(n, k):
    """log C(n, k), -inf where that is no choice."""
    with np.errstate(invalid="ignore"):
        value = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return np.where((k >= 0) & (k <= n), value, -np.inf)


def n_way_accuracy(pred_prob, gt_class_ids, n_way, top_k=1, exact=True, n_trials=100, rng=None):
    """Accuracy of the best true class among itself and n_way - 1 others drawn without replacement; a tie is lost.

    Parameters
    ----------
    pred_prob : (N, M) scores of the classes for the reconstruction, probabilities or logits
    gt_class_ids : (N, G) int, classes of the truth
    n_way : classes that compete
    top_k : rank that passes
    exact : the probability to pass, else the share of passes in random draws
    n_trials : draws per row when not exact
    rng : np.random.RandomState for the draws

    Returns
    -------
    (N,) float64 in 0..1

    Raises
    ------
    ValueError : NaN in the scores, ids outside the classes, or fewer than n_way - 1 other classes

    References
    ----------
    With L of T other classes strictly below the best true one, passing at top 1 has the probability
    C(L, n - 1) / C(T, n - 1); at top k the hypergeometric probabilities of 0 .. k - 1 classes above it add up.
    """
    scores, true_ids = np.asarray(pred_prob), np.asarray(gt_class_ids)
    true_ids = true_ids.reshape(len(true_ids), -1)
    if scores.ndim != 2 or len(scores) != len(true_ids):
        raise ValueError(f"scores (N, M) and class ids (N, G) expected, got {scores.shape} and {true_ids.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"NaN scores in row {np.flatnonzero(np.isnan(scores).any(1))[0]}")
    n_classes = scores.shape[1]
    if true_ids.size and not (0 <= true_ids.min() and true_ids.max() < n_classes):
        raise ValueError(f"class ids in 0..{n_classes - 1} expected, got {true_ids.min()}..{true_ids.max()}")
    is_true = np.zeros(scores.shape, bool)
    np.put_along_axis(is_true, true_ids, True, axis=1)
    n_others = n_classes - is_true.sum(1)
    if not 2 <= n_way <= n_others.min(initial=n_classes) + 1:
        raise ValueError(f"n_way from 2 to {n_others.min(initial=n_classes) + 1} expected for {n_classes} classes, got {n_way}")
    best = np.take_along_axis(scores, true_ids, axis=1).max(1)
    if not exact:
        return _sampled(scores, is_true, best, n_way, top_k, n_trials, rng or np.random.RandomState(0))
    below = ((scores < best[:, None]) & ~is_true).sum(1)
    total = _log_choose(n_others, n_way - 1)
    terms = [np.exp(_log_choose(n_others - below, j) + _log_choose(below, n_way - 1 - j) - total) for j in range(min(top_k, n_way))]
    return np.clip(np.sum(terms, axis=0), 0, 1)


def _sampled(scores, is_true, best, n_way, top_k, n_trials, rng):
    accuracy = np.empty(len(scores))
    for row, (values, true) in enumerate(zip(scores, is_true, strict=True)):
        not_below = values >= best[row]
        others = np.flatnonzero(~true)
        passes = [not_below[rng.choice(others, n_way - 1, replace=False)].sum() < top_k for _ in range(n_trials)]
        accuracy[row] = np.mean(passes)
    return accuracy


def true_classes(scores, n_true=N_TRUE):
    """The best classes of the true pictures, (..., n_true) int from scores (..., M); equal scores by class number."""
    return np.argsort(-np.asarray(scores), axis=-1, kind="stable")[..., :n_true]


def clip_accuracy(pred_scores, true_ids, **options):
    """n_way_accuracy of frames averaged over each clip.

    Parameters
    ----------
    pred_scores : (N, F, M)
    true_ids : (N, F, G)
    **options : of n_way_accuracy

    Returns
    -------
    (N,) float64
    """
    n, f = pred_scores.shape[:2]
    flat = n_way_accuracy(pred_scores.reshape(n * f, -1), true_ids.reshape(n * f, -1), **options)  # (clips frames)
    return flat.reshape(n, f).mean(1)


# ---------------------------------------------------------------------------------------------- classifiers


def _pretrained(loader, source, flag, **options):
    """from_pretrained of a folder or hub id, with a readable error."""
    try:
        return loader.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{flag} {source}",
            f"a folder or hub id that {loader.__name__} loads",
            str(error).splitlines()[0],
            "check the flag, or fetch the model first",
        ) from None


class ImageClassifier:
    """An image classifier of transformers (ViT) for frames.

    Parameters
    ----------
    source : folder or hub id
    device : torch device
    batch_size : frames per call
    """

    def __init__(self, source, device="cpu", batch_size=64):
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        self.processor = _pretrained(AutoImageProcessor, source, "--image_classifier")
        self.model = _pretrained(AutoModelForImageClassification, source, "--image_classifier").to(device).eval()
        self.torch, self.device, self.batch_size = torch, device, batch_size

    def __call__(self, clips):
        """Scores of every frame, (N, F, M) float32 from (N, F, H, W, 3) uint8."""
        frames = clips.reshape(-1, *clips.shape[2:])  # (clips frames) h w c
        scores = []
        with self.torch.inference_mode():
            for i in range(0, len(frames), self.batch_size):
                inputs = self.processor(images=list(frames[i : i + self.batch_size]), return_tensors="pt")
                scores.append(self.model(pixel_values=inputs["pixel_values"].to(self.device)).logits.float().cpu().numpy())
        return np.concatenate(scores).reshape(*clips.shape[:2], -1)


class ClipClassifier:
    """VideoMAE with a classification head for clips of n_frames frames.

    Its position codes are computed, not learned, so that weights trained on 16 frames serve for 8 or 6.

    Parameters
    ----------
    source : folder or hub id
    n_frames : frames per clip, even
    device : torch device
    batch_size : clips per call
    """

    def __init__(self, source, n_frames=8, device="cpu", batch_size=8):
        import torch
        from transformers import AutoImageProcessor, VideoMAEForVideoClassification

        self.processor = _pretrained(AutoImageProcessor, source, "--clip_classifier")
        self.model = _pretrained(VideoMAEForVideoClassification, source, "--clip_classifier", num_frames=n_frames).to(device).eval()
        self.torch, self.device, self.batch_size = torch, device, batch_size

    def __call__(self, clips):
        """Scores of every clip, (N, M) float32 from (N, F, H, W, 3) uint8."""
        scores = []
        with self.torch.inference_mode():
            for i in range(0, len(clips), self.batch_size):
                inputs = self.processor([list(clip) for clip in clips[i : i + self.batch_size]], return_tensors="pt")
                scores.append(self.model(pixel_values=inputs["pixel_values"].to(self.device)).logits.float().cpu().numpy())
        return np.concatenate(scores)
