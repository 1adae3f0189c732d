"""Responses of ROIs to videos: repetitions averaged, voxels without a signal, agreement of repetitions."""

import numpy as np

from common.fmri import statistics
from Data_preprocess.fmri_runs import SIGNAL_FLOOR, explainable_variance


def average_repetitions(responses, train_rows):
    """Mean over repetitions; voxels without a usable signal become 0.

    Parameters
    ----------
    responses : array, shape (videos, repetitions, V)
    train_rows : array of int
        rows by which voxels will be standardised

    Returns
    -------
    average : array, shape (videos, V), float64
    not_finite : array, shape (V,), bool
        voxels with a NaN or an infinite value
    constant : array, shape (V,), bool
        voxels without variance over the training rows
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

    Parameters
    ----------
    responses : array, shape (videos, repetitions, V)

    Returns
    -------
    array, shape (V,), float64
        NaN for a voxel that is constant or not finite in a repetition
    """
    z = np.zeros((len(responses), responses.shape[2]))
    with np.errstate(invalid="ignore"):
        for series in np.moveaxis(responses, 1, 0):
            mean, std = statistics(series)
            z += (series - mean) / np.where(std > SIGNAL_FLOOR * np.abs(mean), std, np.nan)
    return explainable_variance(z / responses.shape[1], responses.shape[1])
