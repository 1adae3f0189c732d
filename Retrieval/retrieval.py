"""Retrieval scores: ranks and top-k accuracy, what they are by chance, and how far they can be trusted."""

import numpy as np

from Evaluation_Metrics.ranking import Gallery, accuracy_of, ranks, top_k_accuracy, unit_rows

__all__ = ["KS", "Gallery", "accuracy_of", "chance_ranks", "ranks", "score", "top_k_accuracy", "unit_rows"]

KS = (1, 5, 10, 50, 100)
N_BOOTSTRAPS = 1000
N_ORDERS = 200  # random orders of the gallery of which chance is the mean


def chance_ranks(gallery, labels, ties, rng):
    """Ranks that own entries have when the gallery lies in random order, equal rows together.

    Parameters
    ----------
    gallery : Gallery
    labels : array, shape (Q,), int
    ties : str
        as in `ranks`
    rng : numpy.random.Generator

    Returns
    -------
    array, shape (orders, Q), float64
    """
    before = np.empty((N_ORDERS, len(labels)))
    for turn in range(N_ORDERS):
        order = rng.permutation(len(gallery.counts))
        ahead = np.empty(len(order))
        ahead[order] = np.cumsum(gallery.counts[order]) - gallery.counts[order]
        before[turn] = ahead[gallery.group[labels]]
    return 1 + before + (0 if ties == "released" else (gallery.counts[gallery.group[labels]] - 1) / 2)


def score(of_queries, n_gallery, ks, rng):
    """Scores of ranks, with 95 % percentile intervals over queries.

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
        {name}_interval [low, high]; accuracy_se {k: standard error over queries}
    """
    of_queries = np.asarray(of_queries, np.float64)
    draws = of_queries[rng.integers(len(of_queries), size=(N_BOOTSTRAPS, len(of_queries)))]

    def interval(values):
        return [float(bound) for bound in np.percentile(values, [2.5, 97.5])]

    accuracy = accuracy_of(of_queries, n_gallery, ks)
    return {
        "accuracy": accuracy,
        "accuracy_se": {k: float(np.std(of_queries <= k, ddof=1) / np.sqrt(len(of_queries))) if len(of_queries) > 1 else None for k in ks},
        "accuracy_interval": {k: interval((draws <= k).mean(1)) for k in ks},
        "mean_rank": float(of_queries.mean()),
        "mean_rank_interval": interval(draws.mean(1)),
        "median_rank": float(np.median(of_queries)),
        "median_rank_interval": interval(np.median(draws, axis=1)),
        "mean_reciprocal_rank": float((1 / of_queries).mean()),
        "mean_reciprocal_rank_interval": interval((1 / draws).mean(1)),
    }
