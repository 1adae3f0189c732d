"""Arithmetic of whole runs, of responses to clips, and of their repetitions, vectorised over vertices, in double precision."""

import numpy as np

from common.fmri import blocks, check_run, norm_of, polynomial_basis, statistics

SIGNAL_FLOOR = 1e-10  # what detrending leaves, relative to the series, below which it is rounding error


def clean_run(run, order=4, out=None):
    """Detrend by a polynomial of an order and z-score a run (T, V) in one pass; vertices without a usable signal become 0.

    A column contiguous in memory is fastest; `out` (T, V) float64 saves the time of asking for memory.

    Returns
    -------
    clean : array, shape (T, V), float64
    not_finite, constant : array, shape (V,), bool
        vertices with a NaN or an infinite value, and those without variance beyond the trend
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
    """Share of the variance that repetitions have in common, (V,) float64: the noise ceiling of a model's R squared.

    For z-scored repetitions with mean `average` (T, V) the share is v = var(average), of which a part (1 - v) / (R - 1) is noise
    that averaging has not removed and that is subtracted. At most 1; around 0, also below, where nothing repeats.

    References
    ----------
    Sahani & Linden 2003; Hsu, Borst & Theunissen 2004.
    """
    if n_repetitions < 2:
        raise ValueError(f"at least 2 repetitions expected, {n_repetitions} given")
    v = np.var(average, axis=0, dtype=np.float64)
    return v - (1 - v) / (n_repetitions - 1)


def average_repetitions(responses, train_rows):
    """Mean over repetitions of responses (videos, repetitions, V); voxels without a usable signal become 0.

    `train_rows` are those by which voxels will be standardised.

    Returns
    -------
    average : array, shape (videos, V), float64
    not_finite, constant : array, shape (V,), bool
        voxels with a NaN or an infinite value, and those without variance over the training rows
    """
    average = np.mean(responses, axis=1, dtype=np.float64)
    not_finite = ~np.isfinite(average).all(axis=0)
    average[:, not_finite] = 0
    spread = np.ptp(average[train_rows], axis=0)  # the std of equal values is rounding error, not 0
    constant = ~not_finite & (spread <= SIGNAL_FLOOR * np.abs(average[train_rows]).max(axis=0))
    average[:, constant] = 0
    return average, not_finite, constant


def correlate_all(responses):
    """Mean Pearson r of all pairs of repetitions, which is also the explainable variance of their mean: the noise ceiling.

    Of responses (videos, repetitions, V), (V,) float64; NaN for a voxel that is constant or not finite in a repetition.
    """
    z = np.zeros((len(responses), responses.shape[2]))
    with np.errstate(invalid="ignore"):
        for series in np.moveaxis(responses, 1, 0):
            mean, std = statistics(series)
            z += (series - mean) / np.where(std > SIGNAL_FLOOR * np.abs(mean), std, np.nan)
    return explainable_variance(z / responses.shape[1], responses.shape[1])


def scales(train, test, test_norm="own"):
    """Mean and std, each (V,) float64, that standardise the rows (clips, V) of each split; `test_norm` as of `save_standardised`."""
    return {"train": statistics(train), "test": statistics(test if test_norm == "own" else train)}


def summarise(values):
    """Mean and quartiles of the finite values of a vertex map, dict; None without one."""
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    return {"mean": values.mean(), **dict(zip(("25%", "50%", "75%"), np.percentile(values, (25, 50, 75)), strict=True))}
