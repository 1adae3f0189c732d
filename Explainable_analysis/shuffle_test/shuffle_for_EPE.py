"""Shuffle the frames of reconstructions: is the end-point error of the true order better than chance?

Reads    recons/sub{ID}/{name}/, {name}_ablate_motion and control as far as they are there, features/test_groundtruth.npy,
         the VAE of --sd_path for the noise ceiling (the truth through the VAE)
Writes   explain/sub{ID}/shuffle_test/EPE/metrics.json: p with its repeats; the value of the reversed order and, of other clips'
         reconstructions put in, mean and p; direction_accuracy, where the truth has one dominant direction (chance 0.25)

    python Explainable_analysis/shuffle_test/shuffle_for_EPE.py --dataset phantom --subj_ID 1
    python Explainable_analysis/shuffle_test/shuffle_for_EPE.py --dataset CC2017 --subj_ID 1 --recons_dir recons.zip --clips 22 43 47

One order is drawn and applied to all clips; the flow between each pair of a clip's frames is computed once. Any smooth clip
passes the test: that the motion is the brain's shows in the other clips put in, and in the direction. Clips: the paper's 44 for
subject 1 of CC2017, else those whose VIFI-score (evaluate.py) is above --min_vifi.

About 6 s per clip of 8 frames of 512 x 512 on one core.
"""

from functools import partial
from itertools import permutations

import numpy as np
from tqdm import tqdm

from common import cli
from common.workers import pool_map
from Evaluation_Metrics.EPE import flow_between, flows, grey_frames
from Evaluation_Metrics.per_clip import check_pairs
from Explainable_analysis.shuffle_test import shuffling

DIRECTIONS = ("right", "left", "down", "up")  # as the signs of the components of a flow have it
MIN_PIXELS, MIN_RATIO = 0.1, 2.0  # of a dominant direction: size of the mean flow, against the other component
N_SWAPS, SWAP_PIXELS = 20, 128  # neighbours in the list of clips whose reconstructions are put in; side to which their flow is thinned

# ---------------------------------------------------------------------------------------------- arithmetic


def epe_table(pred, gt):
    """End-point errors of the flow between any two frames of a reconstruction, at every place of the truth, clips (F, H, W, 3) uint8.

    Returns
    -------
    array, (F - 1, F, F) float64
        [t, a, b]: the flow from frame a to frame b against the true flow from t to t + 1; NaN for a = b
    """
    grey, true = grey_frames(pred), flows(gt).astype(np.float64)  # t h w 2
    table = np.full((len(gt) - 1, len(pred), len(pred)), np.nan)
    for a, b in permutations(range(len(pred)), 2):
        flow = flow_between(grey[a], grey[b]).astype(np.float64)
        table[:, a, b] = [np.sqrt((flow[..., 0] - at[..., 0]) ** 2 + (flow[..., 1] - at[..., 1]) ** 2).mean() for at in true]
    return table


def look_up(tables, orders):
    """Mean end-point error over clips for each order of the frames, (K,); tables (N, F - 1, F, F), orders (K, F)."""
    orders, places = np.asarray(orders), np.arange(tables.shape[1])
    return np.array([tables[:, places, order[:-1], order[1:]].mean() for order in orders])


def shuffled_epe(pred, gt, permutations):
    """Mean end-point error of clips (N, F, H, W, 3) uint8 whose frames are reordered, released channel order, (K,) float64.

    Each of `permutations` (K, F) is applied to the frames of all of pred.
    """
    check_pairs(pred, gt)
    orders = np.asarray(permutations)
    if orders.ndim != 2 or orders.shape[1] != pred.shape[1] or (np.sort(orders, axis=1) != np.arange(pred.shape[1])).any():
        raise ValueError(f"permutations must be (K, {pred.shape[1]}), every row an order of the {pred.shape[1]} frames")
    return look_up(np.stack([epe_table(p, g) for p, g in zip(pred, gt, strict=True)]), orders)


def dominant_direction(flow):
    """Direction of the mean of a flow (..., 2), a number of DIRECTIONS, and whether it is dominant."""
    x, y = np.asarray(flow, np.float64).reshape(-1, 2).mean(0)
    main, other = max(abs(x), abs(y)), min(abs(x), abs(y))
    number = (0 if x > 0 else 1) if abs(x) >= abs(y) else (2 if y > 0 else 3)
    return number, bool(main >= MIN_PIXELS and main >= MIN_RATIO * other)


# ---------------------------------------------------------------------------------------------- clips


def thinned(flow):
    """A flow (F, H, W, 2) on every so many pixels, at most 128 a side: what is kept of every clip for the swaps."""
    step = -(-max(flow.shape[1:3]) // SWAP_PIXELS)
    return flow[:, ::step, ::step]


def measure(item):
    """Table of a clip, its thinned flows, and whether the direction of its mean flow is right (NaN where the truth has none)."""
    pred, gt = item
    true, clear = dominant_direction(flows(gt, "rgb"))
    decoded, _ = dominant_direction(flows(pred, "rgb"))
    return epe_table(pred, gt), thinned(flows(pred)), thinned(flows(gt)), float(decoded == true) if clear else np.nan


def swapped(pred_flows, true_flows):
    """Mean end-point error with the reconstruction of the clip s places on put in, (S + 1,), s from 0, which is the own one."""
    n = len(pred_flows)
    return np.array([
        np.mean([np.sqrt(((pred_flows[(i + s) % n] - true_flows[i]) ** 2).sum(-1)).mean() for i in range(n)])
        for s in range(min(N_SWAPS, n - 1) + 1)
    ])  # fmt: skip


def test_pairs(pairs, args, desc):
    """The test on one kind of reconstruction, dict."""
    items = ((pairs.pred.read(number), pairs.truth().read(number)) for number in pairs.numbers)
    done = list(tqdm(pool_map(measure, items, args.workers), total=len(pairs.numbers), desc=desc, unit="clip"))
    tables, pred_flows, true_flows, right = zip(*done, strict=True)
    tables = np.stack(tables)
    test = shuffling.shuffle_frames(partial(look_up, tables), tables.shape[2], lower_is_better=True, **shuffling.repeats_of(args))
    own, *others = swapped(pred_flows, true_flows)
    known = np.isfinite(right)
    return test | {
        "other_clip": float(np.mean(others)),
        "other_clip_p": shuffling.p_value(np.array(others), own, True),
        "direction_accuracy": float(np.mean(np.array(right)[known])) if known.any() else None,
        "direction_clips": int(known.sum()),
    }


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    return shuffling.get_shuffle_parser(__doc__)


def main(args):
    tests = shuffling.run_test(args, "EPE", lambda pairs, word: test_pairs(pairs, args, word), lower_is_better=True)
    for word, test in tests.items():
        direction = "-" if test["direction_accuracy"] is None else f"{test['direction_accuracy']:.2f}"
        print(
            f"  {word}: other clips' reconstructions {test['other_clip']:.4f} (p {test['other_clip_p']:.3f}); direction right "
            f"{direction} of {test['direction_clips']} clips (chance 0.25)"
        )


if __name__ == "__main__":
    cli.run(main, get_parser)
