"""Retrieval scores: ranks and top-k accuracy, what they are by chance, and how far they can be trusted."""

import numpy as np
from scipy.stats import binomtest

from Evaluation_Metrics.ranking import Gallery, accuracy_of, ranks, top_k_accuracy, unit_rows

__all__ = ["KS", "Gallery", "accuracy_of", "chance_ranks", "ranks", "score", "top_k_accuracy", "unit_rows"]

KS = (1, 5, 10, 50, 100)
N_BOOTSTRAPS = 1000
N_ORDERS, N_RANKS = 200, 10**7  # random orders of the gallery that chance is made of: at most so many, and, beyond one, so many ranks


def chance_ranks(gallery, labels, ties, rng):
    """Ranks that own entries have when the gallery lies in random order, equal rows together.

    Each order is read from every start, around its end: without ties all ranks are then equally frequent, so that chance is exactly k / pool.

    Parameters
    ----------
    gallery : Gallery
    labels : array, shape (Q,), int
    ties : str
        as in `ranks`
    rng : numpy.random.Generator

    Returns
    -------
    array, shape (orders * starts, Q), float64
    """
    counts, own = gallery.counts, gallery.group[labels]
    before = []
    for _ in range(min(N_ORDERS, max(1, N_RANKS // (len(counts) * len(own))))):
        order = rng.permutation(len(counts))
        starts = np.empty(len(order), int)
        starts[order] = np.cumsum(counts[order]) - counts[order]
        before.append((starts[own] - starts[:, None]) % counts.sum())
    return 1 + np.concatenate(before) + (0 if ties == "released" else (counts[own] - 1) / 2)


def wilson(hits):
    """Wilson's 95 % interval of a share of hits (Q,), [low, high]: not empty where all or none are hits."""
    return [float(bound) for bound in binomtest(int(np.sum(hits)), len(hits)).proportion_ci(method="wilson")]


def score(of_queries, n_gallery, ks, rng):
    """Scores of ranks, with 95 % intervals over queries: Wilson's of the shares, percentiles of bootstraps of the others.

    Parameters
    ----------
    of_queries : array, shape (Q,)
        ranks from 1
    n_gallery : int
        rows of the gallery
    ks : sequence of int
    rng : numpy.random.Generator
        of the bootstrap

    Returns
    -------
    dict
        accuracy {k: share}, mean_rank, median_rank, mean_reciprocal_rank; accuracy_interval {k: [low, high]} and
        {name}_interval [low, high]
    """
    of_queries = np.asarray(of_queries, np.float64)
    draws = of_queries[rng.integers(len(of_queries), size=(N_BOOTSTRAPS, len(of_queries)))]

    def interval(values):
        return [float(bound) for bound in np.percentile(values, [2.5, 97.5])]

    accuracy = accuracy_of(of_queries, n_gallery, ks)
    return {
        "accuracy": accuracy,
        "accuracy_interval": {k: wilson(of_queries <= k) for k in ks},
        "mean_rank": float(of_queries.mean()),
        "mean_rank_interval": interval(draws.mean(1)),
        "median_rank": float(np.median(of_queries)),
        "median_rank_interval": interval(np.median(draws, axis=1)),
        "mean_reciprocal_rank": float((1 / of_queries).mean()),
        "mean_reciprocal_rank_interval": interval((1 / draws).mean(1)),
    }
