"""n-way classification accuracy of reconstructed frames (I) and clips (V).

A classifier names the three best classes of the true picture. The reconstruction passes when the best of these three
is within the top k among itself and n - 1 classes drawn from the others; the chance to pass is computed exactly.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt), two classifiers
Writes   2-way-I.npy, 50-way-I.npy, 2-way-V.npy, 50-way-V.npy (N,) float64 and n_way.csv below --out

    python Evaluation_Metrics/n_way.py --dataset phantom --subj_ID 1
    python Evaluation_Metrics/n_way.py --recons_dir results --image_classifier google/vit-base-patch16-224 --clip_classifier vm

About 1 s per clip on one CPU core with the ViT-B classifiers, 0.02 s on a GPU.
"""

from functools import partial

import numpy as np
from einops import rearrange
from scipy.stats import hypergeom

from common import cli
from common.files import UserError
from Evaluation_Metrics import metric_script, per_clip
from Evaluation_Metrics.towers import Towers

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


def n_way_accuracy(pred_prob, gt_class_ids, n_way, top_k=1, exact=True, n_trials=100, rng=None):
    """Accuracy of the best true class among itself and n_way - 1 others drawn without replacement; a tie is lost.

    Parameters
    ----------
    pred_prob : array, (N, M)
        scores of the classes for the reconstruction, probabilities or logits
    gt_class_ids : array, (N, G) int
        classes of the truth
    n_way : int
        classes that compete
    top_k : int
        rank that passes
    exact : bool
        the probability to pass, else the share of passes in random draws
    n_trials : int
        draws per row when not exact
    rng : np.random.RandomState
        for the draws

    Returns
    -------
    array, (N,) float64
        in 0..1

    Raises
    ------
    ValueError
        NaN in the scores, ids outside the classes, or fewer than n_way - 1 other classes

    References
    ----------
    With L of T other classes strictly below the best true one, passing at top 1 has the probability
    C(L, n - 1) / C(T, n - 1); at top k the number of classes above it among n - 1 drawn ones is hypergeometric.
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
    return hypergeom.cdf(top_k - 1, n_others, n_others - below, n_way - 1)


def _sampled(scores, is_true, best, n_way, top_k, n_trials, rng):
    accuracy = np.empty(len(scores))
    for row, (values, true) in enumerate(zip(scores, is_true, strict=True)):
        not_below = values >= best[row]
        others = np.flatnonzero(~true)
        passes = [not_below[rng.choice(others, n_way - 1, replace=False)].sum() < top_k for _ in range(n_trials)]
        accuracy[row] = np.mean(passes)
    return accuracy


def true_classes(scores, n_true=N_TRUE):
    """The n_true best classes of the true pictures' scores (..., M), (..., n_true) int: best first, equal scores by class number."""
    left, classes = np.array(scores, np.float64), []
    for _ in range(n_true):
        classes.append(left.argmax(-1))
        np.put_along_axis(left, classes[-1][..., None], -np.inf, axis=-1)
    return np.stack(classes, axis=-1)


def clip_accuracy(pred_scores, true_ids, **options):
    """n_way_accuracy of frames, scores (N, F, M) and class ids (N, F, G), averaged over each clip, (N,); `options` are its own."""
    flat = n_way_accuracy(rearrange(pred_scores, "n f m -> (n f) m"), rearrange(true_ids, "n f g -> (n f) g"), **options)
    return rearrange(flat, "(n f) -> n f", n=len(pred_scores)).mean(1)


# ---------------------------------------------------------------------------------------------- columns


def _of_frames(pred, gt, seed, accuracy=clip_accuracy, **options):
    largest = pred.shape[-1] - N_TRUE + 1
    if options["n_way"] > largest:
        n_way = f"--n_way {options['n_way']}"
        raise UserError(f"{n_way} is too many for a classifier of {pred.shape[-1]} classes; use a number from 2 to {largest}")
    return accuracy(pred, true_classes(gt), rng=np.random.RandomState(seed), **options)


def _of_clips(pred, gt, seed, **options):
    return _of_frames(pred, gt, seed, n_way_accuracy, **options)


def _metric(columns, function, kind, options):
    level = chance_level(options["n_way"], options["top_k"])
    return per_clip.Metric(tuple(columns), partial(function, **options), ((kind, "pred"), (kind, "gt")), {columns[0]: level})


def metric_of_frames(columns=("2-way-I",), n_way=2, top_k=1, exact=True, n_trials=20, seed=0):
    """The metric of frames as a column of a protocol."""
    return _metric(columns, _of_frames, "image", {"n_way": n_way, "top_k": top_k, "exact": exact, "n_trials": n_trials, "seed": seed})


def metric_of_clips(columns=("2-way-V",), n_way=2, top_k=1, exact=True, n_trials=100, seed=0):
    """The metric of whole clips as a column of a protocol."""
    return _metric(columns, _of_clips, "video", {"n_way": n_way, "top_k": top_k, "exact": exact, "n_trials": n_trials, "seed": seed})


def get_parser():
    parser = metric_script.metric_parser(__doc__, "image", "video")
    group = parser.add_argument_group("accuracy")
    group.add_argument("--n_way", type=cli.whole(2), nargs="+", default=[2, 50], help="numbers of classes that compete")
    group.add_argument("--top_k", type=cli.one_or_more, default=1, help="rank that passes")
    group.add_argument("--sampled", action="store_true", help="share of random draws, in place of the exact probability")
    group.add_argument(
        "--n_trials",
        type=cli.one_or_more,
        nargs=2,
        default=[20, 100],
        metavar=("FRAME", "CLIP"),
        help="numbers of random draws for --sampled",
    )
    return parser


def main(args):
    towers, metrics = Towers.of(args), []
    for kind, make, letter, n_trials in zip(("image", "video"), (metric_of_frames, metric_of_clips), "IV", args.n_trials, strict=True):
        if kind in towers:
            form = {"top_k": args.top_k, "exact": not args.sampled, "n_trials": n_trials, "seed": args.seed}
            metrics += [make((f"{n}-way-{letter}",), n, **form) for n in args.n_way]
    if not metrics:
        raise UserError("--image_classifier or --clip_classifier is needed; name a folder or a hub id")
    metric_script.main(args, metrics, title="n_way")


if __name__ == "__main__":
    cli.run(main, get_parser)
