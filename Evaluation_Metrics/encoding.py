"""Ridge regression from features of clips to vertices, with a penalty for each vertex chosen by cross-validation over runs.

And what a volume tells of its clip alone, beyond the run's slow trend and the volumes before and after.
"""

from dataclasses import dataclass

import numpy as np
from himalaya.kernel_ridge import generate_dirichlet_samples
from sklearn.model_selection import GroupKFold

from common.fmri import TREND_ORDER, polynomial_basis

PENALTIES = np.logspace(0, 6, 7)
FOLDS = 5  # of whole runs, at most
MIXTURES = 20  # of penalties between bands that banded ridge tries
NEAR = 2  # volumes on either side that are partialled out


@dataclass(frozen=True)
class Encoder:
    """Linear model from features to vertices: weights (D, V), intercept (V,), and the penalties (bands, V) that cross-validation chose."""

    weights: np.ndarray
    intercept: np.ndarray
    penalties: np.ndarray


def fit_encoder(features, fmri, groups, bands=None, penalties=PENALTIES, n_mixtures=MIXTURES, seed=0):
    """Fit ridge regression with a penalty for each vertex, or for each vertex and band, chosen by cross-validation over runs.

    Parameters
    ----------
    features : array, shape (T, D)
    fmri : array, shape (T, V)
    groups : array, shape (T,)
        run of each row; folds are of whole runs, one each up to five
    bands : sequence of int, optional
        widths of the bands that share a penalty, for banded ridge; one band by default
    penalties : array
        that are tried
    n_mixtures : int
        mixtures of the bands that are tried, the even one first
    seed : int
        of the mixtures

    Returns
    -------
    Encoder

    Raises
    ------
    ValueError
        NaN, rows that do not match, or fewer than two runs

    References
    ----------
    Dupré la Tour et al. 2022, himalaya.
    """
    features, fmri, groups = np.asarray(features, np.float64), np.asarray(fmri, np.float64), np.asarray(groups)
    if features.ndim != 2 or fmri.ndim != 2 or not len(features) == len(fmri) == len(groups):
        raise ValueError(f"features (T, D), fMRI (T, V) and T runs expected, got {features.shape}, {fmri.shape} and {groups.shape}")
    if not (np.isfinite(features).all() and np.isfinite(fmri).all()):
        raise ValueError("NaN or infinite values in features or fMRI")
    n_runs = len(np.unique(groups))
    if n_runs < 2:
        raise ValueError(f"two runs or more are needed for cross-validation, got {n_runs}")
    bands = [features.shape[1]] if bands is None else list(bands)
    if sum(bands) != features.shape[1]:
        raise ValueError(f"bands of {sum(bands)} features in all, got {features.shape[1]}")
    folds = [test for _, test in GroupKFold(min(FOLDS, n_runs)).split(features, groups=groups)]
    mixtures = np.ones((1, 1)) if len(bands) == 1 else generate_dirichlet_samples(n_mixtures, len(bands), [0.1, 1.0], random_state=seed)
    mixtures[0] = 1 / len(bands)
    x, y, penalties = features - features.mean(0), fmri - fmri.mean(0), np.asarray(penalties, float)
    best, chosen, weights = np.full(y.shape[1], np.inf), np.empty((len(bands), y.shape[1])), np.empty((x.shape[1], y.shape[1]))
    for mixture in mixtures:
        scale = np.sqrt(np.repeat(mixture, bands))
        losses, solve = ridge_losses(x * scale, y, folds, penalties)
        better = losses.min(0) < best
        penalty = penalties[losses[:, better].argmin(0)]
        best[better] = losses.min(0)[better]
        chosen[:, better], weights[:, better] = penalty / mixture[:, None], scale[:, None] * solve(better, penalty)
    intercept, constant = fmri.mean(0) - features.mean(0) @ weights, (fmri == fmri[0]).all(0)
    weights[:, constant], intercept[constant] = 0, fmri[0, constant]
    return Encoder(weights, intercept, chosen)


def ridge_losses(x, y, folds, penalties):
    """Losses of ridge regression in cross-validation, and a function that gives weights: himalaya's RidgeCV, from matrices of products.

    A fold's matrices are those of all rows less those of its own, so that rows are gone through once, not for every penalty.

    Parameters
    ----------
    x : array, shape (T, D)
        centred
    y : array, shape (T, V)
        centred
    folds : list of arrays of int
        rows that are left out
    penalties : array, shape (P,)

    Returns
    -------
    losses : array, shape (P, V)
        mean squared error, averaged over folds
    solve : function of vertices and their penalties -> weights, (D, vertices)
    """
    rotation = None
    if x.shape[1] > len(x):  # in the space of the rows
        u, s, rotation = np.linalg.svd(x, full_matrices=False)
        x = u * s
    gram, cross, losses = x.T @ x, x.T @ y, np.zeros((len(penalties), y.shape[1]))
    for fold in folds:
        held, wanted, n = x[fold], y[fold], len(x) - len(fold)
        mean_x, mean_y = -held.sum(0) / n, -wanted.sum(0) / n  # of the other rows
        values, basis = np.linalg.eigh(gram - held.T @ held - n * np.outer(mean_x, mean_x))
        answers = basis.T @ (cross - held.T @ wanted - n * np.outer(mean_x, mean_y))
        seen, wanted = (held - mean_x) @ basis, wanted - mean_y
        for loss, penalty in zip(losses, penalties, strict=True):
            loss += ((seen / (values.clip(0) + penalty) @ answers - wanted) ** 2).mean(0) / len(folds)

    def solve(vertices, penalty):
        values, basis = np.linalg.eigh(gram)
        found = basis @ ((basis.T @ cross[:, vertices]) / (values.clip(0)[:, None] + penalty))
        return found if rotation is None else rotation.T @ found

    return losses, solve


def predict(model, features):
    """Predict fMRI, (N, V), from features, (N, D); a ValueError for another width or NaN."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or features.shape[1] != len(model.weights):
        raise ValueError(f"features (N, {len(model.weights)}) expected, got {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("NaN or infinite values in the features")
    return features @ model.weights + model.intercept


def neighbours_and_trend(measured, runs, rows):
    """What tells of a clip's volume without the clip: the trends of all runs, and each vertex's volumes before and after.

    Parameters
    ----------
    measured : array, shape (T, V)
        all clips in order
    runs : array, shape (T,)
        run of each
    rows : array of int, shape (N,)
        clips that are asked for

    Returns
    -------
    trend : array, shape (N, P)
        orthonormal columns
    near : array, shape (2 NEAR, N, V)
        less the trend; beyond a run's ends 0, its mean
    """
    basis, near = np.zeros((len(measured), 0)), np.zeros((2 * NEAR, *measured.shape))
    for run in np.unique(runs):
        (of_run,) = np.nonzero(runs == run)
        polynomials = np.zeros((len(measured), min(TREND_ORDER + 1, len(of_run))))
        polynomials[of_run] = polynomial_basis(len(of_run), polynomials.shape[1] - 1).T
        basis = np.concatenate([basis, polynomials], axis=1)
        for place, lag in zip(near, (lag for lag in range(-NEAR, NEAR + 1) if lag), strict=True):
            there = of_run[(of_run + lag >= of_run[0]) & (of_run + lag <= of_run[-1])]
            place[there] = measured[there + lag]
    u, s, _ = np.linalg.svd(basis[rows], full_matrices=False)
    trend = u[:, s > 1e-9]
    return trend, near[:, rows] - trend @ (trend.T @ near[:, rows])


def partial_out(values, trend, near):
    """Rest of (N, V) values after least squares on the trend and, vertex by vertex, on `near`, as `neighbours_and_trend` gives them."""
    values = values - trend @ (trend.T @ values)
    gram = np.einsum("knv,lnv->vkl", near, near)
    weights = np.linalg.pinv(gram, hermitian=True) @ np.einsum("knv,nv->vk", near, values)[..., None]
    return values - np.einsum("knv,vk->nv", near, weights[..., 0])
