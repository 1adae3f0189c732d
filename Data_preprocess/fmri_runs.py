"""Arithmetic of whole runs and of their repetitions, vectorised over vertices, in double precision."""

import numpy as np

from common.fmri import blocks, check_run, norm_of, polynomial_basis, statistics

SIGNAL_FLOOR = 1e-10  # what detrending leaves, relative to the series, below which it is rounding error


def clean_run(run, order=4, out=None):
    """Detrend and z-score a run in one pass; vertices without a usable signal become 0.

    Parameters
    ----------
    run : array, shape (T, V)
        of any memory order; a column contiguous in memory is fastest
    order : int
        degree of the polynomial trend
    out : array, shape (T, V), float64, optional
        for the result; saves the time of asking for memory

    Returns
    -------
    clean : array, shape (T, V), float64
    not_finite : array, shape (V,), bool
        vertices with a NaN or an infinite value
    constant : array, shape (V,), bool
        vertices without variance beyond the trend
    """
    run = check_run(run, order)
    basis = polynomial_basis(len(run), order)
    clean = np.empty(run.shape[::-1]) if out is None else out.T
    not_finite, constant = np.zeros(run.shape[1], bool), np.zeros(run.shape[1], bool)
    for block, series in blocks(run):
        norm = norm_of(series)
        bad = ~np.isfinite(norm)
        series[bad] = 0
        series -= (series @ basis.T) @ basis  # its mean is 0 from here on: the basis holds the constant
        residual = norm_of(series)
        flat = ~bad & (residual <= SIGNAL_FLOOR * norm)
        residual[bad | flat] = np.inf
        np.multiply(series, (np.sqrt(len(run)) / residual)[:, None], out=clean[block])
        not_finite[block], constant[block] = bad, flat
    return clean.T, not_finite, constant


def explainable_variance(average, n_repetitions):
    """Share of the variance that repetitions have in common: the noise ceiling of a model's R squared.

    For z-scored repetitions the share is v = var(average), of which a part (1 - v) / (R - 1) is noise that averaging
    has not removed and that is subtracted.

    Parameters
    ----------
    average : array, shape (T, V)
        mean over repetitions that were z-scored one by one
    n_repetitions : int
        R, at least 2

    Returns
    -------
    array, shape (V,), float64
        at most 1; around 0, also below, where nothing repeats

    References
    ----------
    Sahani & Linden 2003; Hsu, Borst & Theunissen 2004.
    """
    if n_repetitions < 2:
        raise ValueError(f"at least 2 repetitions expected, {n_repetitions} given")
    v = np.var(average, axis=0, dtype=np.float64)
    return v - (1 - v) / (n_repetitions - 1)


def scales(train, test, test_norm="own"):
    """What standardises the rows of both splits.

    Parameters
    ----------
    train, test : array, shape (clips, V)
    test_norm : str
        "own" scales the test rows by their own mean and std, "train" by those of the training rows

    Returns
    -------
    dict
        split -> (mean, std), each (V,) float64
    """
    return {"train": statistics(train), "test": statistics(test if test_norm == "own" else train)}


def summarise(values):
    """Mean and quartiles of the finite values of a vertex map, dict; None without one."""
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    return {"mean": values.mean(), **dict(zip(("25%", "50%", "75%"), np.percentile(values, (25, 50, 75)), strict=True))}
