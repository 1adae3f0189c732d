"""The simulated cortex of the phantoms: which vertices answer to what, the haemodynamic response, signal and noise."""

import numpy as np
from scipy.stats import gamma

from common import cortex
from phantom.features import AREAS

AR = 0.4  # correlation of successive noise samples
BASELINE, DRIFT = 1000.0, 4.0  # arbitrary units; the noise has standard deviation 1
DENSITY = 0.25  # share of its area's features that a vertex answers to
N_CONSTANT, N_NAN = 12, 12  # vertices with a broken series, outside the planted areas
HRF = {  # gamma shape and scale, s, of peak and undershoot
    "phantom": ((10, 1 / 3), (20, 1 / 3)),
    "narrow": ((60, 3.5 / 60), (120, 3.5 / 60)),  # for scenes of 1 s
    "canonical": ((6, 1.0), (16, 1.0)),
}


def response_weights(name, tr, n=16):
    """Response to one scene of length TR, sampled 0, 1, 2, ... TRs after its onset; sums to 1 for long n."""
    (peak, scale), (under, under_scale) = HRF[name]
    integral = gamma.cdf(np.arange(n) * tr, peak, scale=scale) - gamma.cdf(np.arange(n) * tr, under, scale=under_scale) / 6
    return np.diff(integral, prepend=0) / (1 - 1 / 6)


def amplitude_of(reliability, response):
    """Amplitude at which two repetitions correlate by `reliability`; the noise has unit variance."""
    return np.sqrt(reliability / (1 - reliability)) / np.linalg.norm(response)


def draw_vertices(groups, subject, seed):
    """A subject's planted vertices: list of (group, vertices, weights (D, V)), and the broken vertices."""
    rng = np.random.default_rng([seed, subject, 1])
    planted = []
    for name, areas in AREAS.items():
        vertices = cortex.area_vertices(areas)
        n_features = groups[name]["train"].shape[1]
        weights = rng.standard_normal((n_features, len(vertices))) * (rng.random((n_features, len(vertices))) < DENSITY)
        planted.append((name, vertices, weights / np.maximum(np.linalg.norm(weights, axis=0), 1e-9)))
    quiet = np.setdiff1d(np.arange(cortex.N_CORTEX), np.concatenate([vertices for _, vertices, _ in planted]))
    broken = rng.choice(quiet, N_CONSTANT + N_NAN, replace=False)
    return planted, broken[:N_CONSTANT], broken[N_CONSTANT:]


def describe_vertices(planted, constant, nan, response):
    """Content of phantom_vertices_sub{ID}.json."""
    groups = {name: vertices for name, vertices, _ in planted}
    return {**groups, "constant": np.sort(constant), "nan": np.sort(nan), "response": response}


def signal(features, weights, response, lags):
    """Noise-free series of a run, (T, V); the answer to each scene has unit variance over the scenes.

    `features` (N, D) of a run's scenes, `weights` (D, V), `response` (n,), `lags` (T, N) TRs from the onset of every scene to every volume.
    """
    drive = features @ weights
    drive /= np.maximum(drive.std(0), 1e-9)
    kernel = np.where((lags >= 0) & (lags < len(response)), response[lags.clip(0, len(response) - 1)], 0)
    return kernel @ drive


def noise(n_volumes, rng, drift=DRIFT):
    """AR(1) noise of unit variance plus a 4th-order drift, (T, 59412)."""
    series = rng.standard_normal((n_volumes, cortex.N_CORTEX), dtype=np.float32)
    series[1:] *= np.sqrt(1 - AR**2)
    for t in range(1, n_volumes):
        series[t] += AR * series[t - 1]
    powers = np.vander(np.linspace(-1, 1, n_volumes), 5, increasing=True).astype(np.float32)
    return series + drift * powers @ rng.standard_normal((5, cortex.N_CORTEX), dtype=np.float32)


def make_series(clean, constant, nan, amplitude, rng, drift=DRIFT):
    """One scan of a run, (T, 59412) float32.

    `clean` are noise-free series, (vertices, (T, V)) each; `constant` and `nan` the broken vertices; `drift` the size of the slow drift.
    """
    series = noise(len(clean[0][1]), rng, drift)
    for vertices, answer in clean:
        series[:, vertices] += amplitude * answer
    series += BASELINE
    series[:, constant] = BASELINE
    series[:, nan] = np.nan
    return series
