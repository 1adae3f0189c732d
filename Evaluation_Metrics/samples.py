"""Several reconstructions of a clip from different noises: their mean, and how far they spread. Never the best of them."""

import numpy as np

from common.files import UserError, missing
from common.readers import open_clips
from Evaluation_Metrics.pairs import Pairs


def open_samples(pairs, n_samples, dataset, form, allow_missing=False):
    """Pairs of the second to the last sample, which Reconstruction/video_recons.py --n_samples writes beside the first, that of `pairs`."""
    if n_samples == 1:
        return []
    if pairs.gt is None:
        raise UserError("--n_samples needs samples in our layout, which a folder of side-by-side movies has not; leave the flag out")
    folders = [pairs.pred.path.parent / "samples" / str(k) for k in range(2, n_samples + 1)]
    for folder in folders:
        if not folder.is_dir():
            raise missing(folder, f"run Reconstruction/video_recons.py with --n_samples {n_samples}, or use a smaller --n_samples")
    form = {key: form[key] for key in ("n_frames", "size", "times", "resize")} | {"names": dataset.clip_names("test")}
    return [Pairs(open_clips(folder, "ours", **form), pairs.gt, pairs.wanted, allow_missing) for folder in folders]


def mean_over_samples(columns):
    """Mean of every metric over samples, {column: (N,)} each, and the spread between samples beside the one between clips.

    Returns
    -------
    means : dict
        column -> (N,), NaN for a clip without a value in one of them
    spread : dict
        column -> between_samples (root of the mean variance over samples), between_clips (std of the means), n_samples
    """
    if len(columns) == 1:
        return columns[0], {}
    stacks = {name: np.stack([of[name] for of in columns]) for name in columns[0]}
    means, spread = {name: values.mean(0) for name, values in stacks.items()}, {}
    for name, values in stacks.items():
        known = values[:, np.isfinite(means[name])]
        if known.size:
            facts = {
                "between_samples": np.sqrt(known.var(0, ddof=1).mean()),
                "between_clips": known.mean(0).std(),
                "n_samples": len(values),
            }
            spread[name] = facts
    return means, spread


def print_spread(spread):
    """One line a metric that says how far the samples spread."""
    for name, of in spread.items():
        print(
            f"{name}: std {of['between_samples']:.4f} between the {of['n_samples']} samples of a clip, {of['between_clips']:.4f} between clips"
        )


def spread_of(facts, column):
    """Standard deviation between the samples of a clip, of an evaluation's metrics.json; None for one sample."""
    return (facts.get("samples") or {}).get(column, {}).get("between_samples")
