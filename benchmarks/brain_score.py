"""Time the encoding model of the brain-side score against a ridge regression per vertex with the same penalties.

    python benchmarks/brain_score.py
    python benchmarks/brain_score.py --vertices 500 --clips 1000 --features 256

The plain form solves every vertex, fold and penalty by itself; it is timed on a few vertices (--plain_vertices) and its
time for all of them extrapolated. Both must choose the same penalties and weights.
"""

import argparse
import resource
import time

import numpy as np
from sklearn.model_selection import GroupKFold

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
    for name, default in (("vertices", 4500), ("clips", 4320), ("features", 1024), ("runs", 18), ("plain_vertices", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    features = rng.standard_normal((args.clips, args.features))
    fmri = features @ rng.standard_normal((args.features, args.vertices)) / args.features**0.5
    fmri += 3 * rng.standard_normal(fmri.shape)
    groups = np.arange(args.clips) * args.runs // args.clips

    began, used = time.perf_counter(), time.process_time()
    model = fit_encoder(features, fmri, groups)
    seconds, core_seconds = time.perf_counter() - began, time.process_time() - used
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"fit_encoder: {args.vertices} vertices, {args.clips} clips, {args.features} features: {seconds:.1f} s, {core_seconds:.1f} core-s, {memory:.2f} GiB"
    )

    began, used, worst = time.perf_counter(), time.process_time(), 0
    for vertex in range(args.plain_vertices):
        weights, penalty = plain_ridge(features, fmri[:, vertex], groups)
        assert np.isclose(penalty, model.penalties[0, vertex])
        worst = max(worst, np.abs(weights - model.weights[:, vertex]).max() / np.abs(weights).max())
    plain, plain_core = (
        (now - then) / args.plain_vertices * args.vertices for now, then in ((time.perf_counter(), began), (time.process_time(), used))
    )
    print(
        f"a ridge per vertex, extrapolated from {args.plain_vertices} vertices: {plain:.0f} s, {plain_core:.0f} core-s; weights differ by {worst:.1e}"
    )
    print(f"{plain / seconds:.0f} times as long, {plain_core / core_seconds:.0f} times in core-s")


if __name__ == "__main__":
    main()
