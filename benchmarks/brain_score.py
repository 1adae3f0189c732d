"""Time the encoding model of the brain-side score against a ridge regression per vertex with the same penalties.

    python benchmarks/brain_score.py
    python benchmarks/brain_score.py --vertices 500 --clips 1000 --features 256

The plain form solves every vertex, fold and penalty by itself; it is timed on a few vertices (--plain_vertices) and its
time for all of them extrapolated. Both must choose the same penalties and weights.
"""

import argparse
import resource

import numpy as np
from sklearn.model_selection import GroupKFold
from timing import compare

from Evaluation_Metrics.encoding import FOLDS, PENALTIES, fit_encoder


def plain_ridge(features, response, groups):
    """Weights of one vertex and its penalty, by normal equations."""

    def solve(x, y, penalty):
        return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)

    loss = np.zeros(len(PENALTIES))
    for train, test in GroupKFold(FOLDS).split(features, groups=groups):
        mean_x, mean_y = features[train].mean(0), response[train].mean()
        for i, penalty in enumerate(PENALTIES):
            weights = solve(features[train] - mean_x, response[train] - mean_y, penalty)
            loss[i] += np.mean((response[test] - mean_y - (features[test] - mean_x) @ weights) ** 2)
    penalty = PENALTIES[loss.argmin()]
    return solve(features - features.mean(0), response - response.mean(), penalty), penalty


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("vertices", 4500), ("clips", 4320), ("features", 1024), ("runs", 18)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"number of {name} (default: {default})")
    parser.add_argument("--plain_vertices", type=int, default=3, help="vertices that the plain form is timed on (default: 3)")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    features = rng.standard_normal((args.clips, args.features))
    fmri = features @ rng.standard_normal((args.features, args.vertices)) / args.features**0.5
    fmri += 3 * rng.standard_normal(fmri.shape)
    groups = np.arange(args.clips) * args.runs // args.clips

    weights, model = compare(
        f"encoding of {args.vertices} vertices by {args.features} features of {args.clips} clips",
        lambda: [plain_ridge(features, fmri[:, vertex], groups) for vertex in range(args.plain_vertices)],
        lambda: fit_encoder(features, fmri, groups),
        repeats=3,
        scale=args.vertices / args.plain_vertices,
    )
    worst = max(np.abs(found - model.weights[:, v]).max() / np.abs(found).max() for v, (found, _) in enumerate(weights))
    same = [penalty for _, penalty in weights] == [float(found) for found in model.penalties[0, : len(weights)]]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"  weights differ by {worst:.1e} of the largest, penalties {'equal' if same else 'differ'}; peak memory {memory:.2f} GiB")


if __name__ == "__main__":
    main()
