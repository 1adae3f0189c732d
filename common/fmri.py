"""fMRI arithmetic: detrending, z-scoring, repetition reliability, vertex selection, noise ceiling, sparsification.

Everything is vectorised over vertices and computed in double precision.
"""

import warnings

import numpy as np

from common.files import load_array

TREND_ORDER = 4  # paper, data preprocessing
BLOCK = 256  # vertices whose series are worked on together, so that they stay in a core's cache


# ---------------------------------------------------------------------------------------------- one run


def polynomial_basis(n_volumes, order):
    """Orthonormal polynomials up to `order` on linspace(0, 1, n_volumes), (order + 1, n_volumes) float64."""
    time = np.linspace(-1, 1, n_volumes)  # spans the same polynomials as linspace(0, 1), better conditioned
    return np.ascontiguousarray(np.linalg.qr(np.polynomial.legendre.legvander(time, order))[0].T)


def blocks(run):
    """Slices of vertices and copies of their series, (vertices, T) float64."""
    for start in range(0, run.shape[1], BLOCK):
        block = slice(start, start + BLOCK)
        yield block, np.array(run[:, block].T, dtype=np.float64, order="C")


def _is_constant(series):
    return (series == series[:, :1]).all(axis=1)


def norm_of(series):
    return np.sqrt(np.vecdot(series, series))


def _centre(series):
    """Subtract the mean of every series in place; (V,) bool: those that differ from it by rounding errors alone."""
    mean = series.mean(axis=1)
    series -= mean[:, None]
    return norm_of(series) <= 1e-13 * np.sqrt(series.shape[1]) * np.abs(mean)


def check_run(run, order):
    run = np.asarray(run)
    if run.ndim != 2 or len(run) <= order:
        raise ValueError(f"(more than {order} volumes, vertices) expected, {run.shape} given")
    return run


def detrend(run, order=TREND_ORDER):
    """Remove a polynomial trend over time from every vertex, (T, V) float64.

    A constant column gives exactly 0, one with a NaN gives NaN.

    Parameters
    ----------
    run : array, shape (T, V)
        T > order
    order : int
        degree of the polynomial over t = linspace(0, 1, T)

    References
    ----------
    Paper, section on data preprocessing; least squares, as `np.polyfit` per vertex.
    """
    run = check_run(run, order)
    basis = polynomial_basis(len(run), order)
    clean = np.empty(run.shape[::-1])
    for block, series in blocks(run):
        constant = _is_constant(series)
        with np.errstate(invalid="ignore"):  # infinite values
            clean[block] = series - (series @ basis.T) @ basis
        clean[block][constant] = 0
    return clean.T


def zscore(run):
    """Subtract the mean over time of a run (T, V) and divide by the population standard deviation, (T, V) float64.

    A constant column gives 0, one with a NaN gives NaN.
    """
    run = check_run(run, 0)
    scaled = np.empty(run.shape[::-1])
    for block, series in blocks(run):
        constant = _is_constant(series)
        with np.errstate(invalid="ignore"):
            series -= series.mean(axis=1, keepdims=True)
            std = norm_of(series) / np.sqrt(len(run))
        std[std == 0] = 1
        series[constant] = 0
        np.divide(series, std[:, None], out=scaled[block])
    return scaled.T


# ---------------------------------------------------------------------------------------------- repetitions


def correlate_repetitions(rep1, rep2):
    """Pearson correlation over time of every vertex's two repetitions (T, V), (V,) float64.

    NaN where it is undefined (constant, NaN) or +-1 (identical or scaled repetitions).
    """
    if np.shape(rep1) != np.shape(rep2):
        raise ValueError(f"two repetitions of one shape expected, {np.shape(rep1)} and {np.shape(rep2)} given")
    r = np.empty(np.shape(rep1)[1])
    for (block, x), (_, y) in zip(blocks(np.asarray(rep1)), blocks(np.asarray(rep2)), strict=True):
        with np.errstate(invalid="ignore", divide="ignore"):
            constant = _centre(x) | _centre(y)
            part = np.vecdot(x, y) / (norm_of(x) * norm_of(y))
        part[constant | ~(np.abs(part) < 1 - 1e-12)] = np.nan
        r[block] = part
    return r


def t_test(correlations):
    """One-sample t-test of the Fisher z of correlations (segments, V) against 0, two-sided: t and p, each (V,).

    NaN where a segment's correlation is NaN, and everywhere for fewer than two segments.
    """
    from scipy import stats  # takes a second to import

    with np.errstate(divide="ignore"):
        z = np.arctanh(np.asarray(correlations, dtype=np.float64))
    t, p = np.full(z.shape[1], np.nan), np.full(z.shape[1], np.nan)
    defined = np.isfinite(z).all(axis=0)  # scipy would take up the vertices one by one for the sake of a NaN
    if len(z) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # segments that agree exactly
            t[defined], p[defined] = stats.ttest_1samp(z[:, defined], 0)
    return t, p


def repetition_reliability(pairs):
    """Test whether a vertex answers to the movie: Fisher z of the inter-repetition correlations against 0.

    Parameters
    ----------
    pairs : iterable of (rep1, rep2), each of shape (T, V)
        one per training segment; read one at a time; none, or repetitions of different shapes, is a ValueError

    Returns
    -------
    t, p : array, shape (V,), float64
        one-sample t-test over segments, two-sided; both NaN for a vertex whose correlation is undefined or +-1 in a segment

    References
    ----------
    Paper, section on voxel selection.
    """
    correlations = [correlate_repetitions(rep1, rep2) for rep1, rep2 in pairs]
    if not correlations:
        raise ValueError("at least one pair of repetitions expected, none given")
    return t_test(correlations)


def select_vertices(t, p, n):
    """The n vertices of smallest p, (V,) bool; ties go to the larger |t|, then to the lower index.

    One whose p is NaN is never selected; fewer than n finite p is a ValueError.
    """
    t, p = np.asarray(t, dtype=np.float64), np.asarray(p, dtype=np.float64)
    usable = int(np.isfinite(p).sum())
    if usable < n:
        raise ValueError(f"{n} vertices wanted, {usable} have a finite p")
    mask = np.zeros(len(p), bool)
    mask[np.lexsort((-np.abs(t), p))[:n]] = True  # stable, and NaN sorts last
    return mask


# ---------------------------------------------------------------------------------------------- rows of the decoders


def statistics(rows):
    """Mean and population standard deviation of every column, two (V,) float64."""
    rows = np.asarray(rows, np.float64)
    return rows.mean(axis=0), rows.std(axis=0)


def scale(rows, mean, std):
    """Standardise rows (clips, V) per voxel by mean and std (V,), float32; a voxel whose standard deviation is 0 becomes 0.

    Rows are mean responses in the units of `mean`, such as the z of voxels_avg/{run}.npy.
    """
    scaled = np.asarray(rows, np.float64) - mean
    scaled /= np.where(std > 0, std, 1)
    scaled[:, ~(std > 0)] = 0
    return scaled.astype(np.float32)


def load_statistics(path, split="train", n_vertices=None):
    """Mean and standard deviation that standardised a split's masked fMRI, each (V,) float64.

    `scale(rows, *load_statistics(path))` brings the rows of another recording of the same vertices, in the units of
    voxels_avg/{run}.npy, onto the training rows' scale.

    Parameters
    ----------
    path : str or Path
        common.layout's `statistics(subject, n_vertices)`
    split : str
        "train", or "test" for what scaled the test rows: their own statistics, or with --test_norm train those of training
    n_vertices : int, optional
        that there must be

    Raises
    ------
    UserError
        missing, damaged, or of another number of vertices
    """
    rows = load_array(
        path, shape=(4, n_vertices), dtype="float64", verify=True, do="run the last preprocessing step again with --overwrite"
    )
    return tuple(rows[:2] if split == "train" else rows[2:])


# ---------------------------------------------------------------------------------------------- training


def sparsify(fmri, select_rate, zero_rate, rng):
    """Set a random part of the entries of an array of any shape to zero, in a copy.

    Parameters
    ----------
    select_rate : float
        share of all entries that may be touched
    zero_rate : float
        share of those that become 0
    rng : np.random.Generator or np.random.RandomState

    References
    ----------
    Paper, section on fMRI augmentation.
    """
    sparse = np.array(fmri, order="C")
    chosen = rng.choice(sparse.size, int(select_rate * sparse.size), replace=False)
    zeroed = rng.choice(chosen, int(zero_rate * len(chosen)), replace=False)
    sparse.reshape(-1)[zeroed] = 0
    return sparse
