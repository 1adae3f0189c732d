"""Do two methods differ? The released bootstrap-Wilcoxon test and the paired bootstrap interval over clips.

Reads    two .npy files of per-clip values of one metric, rows in the same order
Writes   nothing; prints the two results

    python Evaluation_Metrics/bootstrap_with_wilcoxon.py A/SSIM.npy B/SSIM.npy

Under a second for 1200 clips.
"""

import numpy as np
from scipy.stats import wilcoxon

from common import cli
from common.files import UserError, card_path, load_array, read_json
from Evaluation_Metrics.results import LEVEL, differing


def bootstrap_wilcoxon(x, y, n_bootstraps=100, rng=None):
    """Wilcoxon signed-rank test on bootstrap means of two samples, as released.

    Its p-value falls with the number of bootstraps; `paired_interval` doesn't have that fault.

    Parameters
    ----------
    x : array, (N,)
        values of one method
    y : array, (M,)
        values of the other
    n_bootstraps : int
        bootstrap means per sample
    rng : np.random.RandomState
        draws from x and from y in turn

    Returns
    -------
    statistic : float
    p : float
        two-sided
    """
    rng = rng or np.random.RandomState(0)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    means = np.empty((2, n_bootstraps))
    for turn in range(n_bootstraps):
        means[0, turn] = rng.choice(x, len(x)).mean()
        means[1, turn] = rng.choice(y, len(y)).mean()
    result = wilcoxon(*means)
    return float(result.statistic), float(result.pvalue)


def paired_interval(x, y, n_bootstraps=10_000, rng=None):
    """Mean difference of paired values and its 95 % percentile bootstrap interval over clips.

    Parameters
    ----------
    x, y : arrays, (N,)
        values of two methods for the same clips; a pair with a NaN is left out
    n_bootstraps : int
        resamples
    rng : np.random.Generator

    Returns
    -------
    mean, low, high : float
        of x - y
    """
    rng = rng or np.random.default_rng(0)
    difference = np.asarray(x, np.float64) - np.asarray(y, np.float64)
    difference = difference[~np.isnan(difference)]
    n = len(difference)
    if n == 0:
        return np.nan, np.nan, np.nan
    # how often each clip is drawn in each resample
    means = np.concatenate(
        [rng.multinomial(n, np.full(n, 1 / n), size=min(500, n_bootstraps - i)) @ difference / n for i in range(0, n_bootstraps, 500)]
    )
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(difference.mean()), float(low), float(high)


def stars(p):
    """'***' for p < 0.001, '**' for 0.01, '*' for 0.05, else nothing."""
    return "*" * sum(p < level for level in (0.05, 0.01, 0.001))


def get_parser():
    parser = cli.make_parser(__doc__)
    parser.add_argument("values", nargs=2, metavar="X.npy", help="per-clip values of the two methods")
    parser.add_argument("--n_bootstraps", type=cli.whole(2), default=100, help="number of bootstrap means in the released test")
    return parser


def main(args):
    x, y = (load_array(path, shape=(None,), finite=False) for path in args.values)
    if len(x) != len(y):
        raise UserError(f"{args.values[0]} has {len(x)} values, {args.values[1]} {len(y)}; score the same clips with both")
    cards = [read_json(card_path(path)) if card_path(path).exists() else {} for path in args.values]
    found = ["clips"] if all(cards) and cards[0].get("rows") != cards[1].get("rows") else []
    if found or all("scored" in card for card in cards) and (found := differing(*(card["scored"] for card in cards), ignore=("clips",))):
        raise UserError(f"{args.values[0]} and {args.values[1]} were not scored alike (other {', '.join(found)}); score both alike")
    both = ~(np.isnan(x) | np.isnan(y))
    if not both.any():
        raise UserError(f"{args.values[0]} and {args.values[1]} have no clip with a value in both; score the same clips with both")
    mean, low, high = paired_interval(x, y, rng=np.random.default_rng(args.seed))
    print(f"{both.sum()} of {len(x)} clips have a value on both sides")
    if np.any(x[both] != y[both]):
        statistic, p = bootstrap_wilcoxon(x[both], y[both], args.n_bootstraps, np.random.RandomState(args.seed))
        print(
            f"released test: statistic {statistic:g}, p {p:.3g} {stars(p)} ({args.n_bootstraps} bootstrap means; p falls with their number)"
        )
    else:
        print("released test: none, as no value differs")
    print(f"paired difference over clips: {mean:.4f}, 95 % interval {low:.4f} to {high:.4f}")


if __name__ == "__main__":
    cli.run(main, get_parser)
