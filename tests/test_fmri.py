"""fMRI arithmetic against numpy and scipy, vertex by vertex, and closed forms."""

import numpy as np
import pytest
from scipy import stats

from common import fmri
from Data_preprocess import fmri_runs

T, V = 240, 41
RNG = np.random.default_rng(0)


def make_run(seed=0, volumes=T, vertices=V):
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, volumes)[:, None]
    drift = sum(rng.normal(size=vertices) * 10 * time**k for k in range(5))
    return 1000 + 50 * rng.random(vertices) + drift + rng.normal(size=(volumes, vertices))


def plain_detrend(column, order=4):
    time = np.linspace(0, 1, len(column))
    return column - np.polyval(np.polyfit(time, column, order), time)


def relative(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


# ---------------------------------------------------------------------------------------------- one run


@pytest.mark.parametrize("order", [0, 1, 4])
@pytest.mark.parametrize("volumes", [12, 240])
def test_detrend_is_polyfit(order, volumes):
    run = make_run(volumes=volumes)
    expected = np.stack([plain_detrend(column, order) for column in run.T], axis=1)
    assert relative(fmri.detrend(run, order), expected) < 1e-9


def test_detrend_spans_many_blocks_and_any_memory_order(monkeypatch):
    run = make_run()
    whole = fmri.detrend(run)
    monkeypatch.setattr(fmri, "BLOCK", 7)
    for layout in (np.asfortranarray(run), run[:, ::1], run.copy()):
        np.testing.assert_allclose(fmri.detrend(layout), whole, atol=1e-9)


@pytest.mark.parametrize("value", [0, 0.1, 1 / 3, 1e9, -7.7e-12])
def test_a_constant_column_gives_exactly_zero(value):
    run = make_run()
    run[:, 3] = value
    for function in (fmri.detrend, fmri.zscore, lambda run: fmri_runs.clean_run(run)[0]):
        clean = function(run)
        assert (clean[:, 3] == 0).all() and (clean[:, 4] != 0).any()


def test_zscore_is_scipys():
    run = make_run()
    expected = np.stack([stats.zscore(column) for column in run.T], axis=1)
    np.testing.assert_allclose(fmri.zscore(run), expected, atol=1e-9)


def test_a_bad_column_leaves_the_others_alone():
    run = make_run()
    good = fmri.zscore(fmri.detrend(run))
    run[5, 2], run[7, 9], run[:, 11] = np.nan, np.inf, 3
    for clean in (fmri.detrend(run), fmri.zscore(run)):
        assert np.isnan(clean[:, 2]).all() and not np.isfinite(clean[:, 9]).any()
    clean, not_finite, constant = fmri_runs.clean_run(run)
    assert np.flatnonzero(not_finite).tolist() == [2, 9] and np.flatnonzero(constant).tolist() == [11]
    assert (clean[:, [2, 9, 11]] == 0).all()
    others = np.delete(np.arange(V), [2, 9, 11])
    np.testing.assert_allclose(clean[:, others], good[:, others], atol=1e-9)


def test_a_column_that_is_all_trend_has_no_signal():
    run = make_run()
    run[:, 0] = 5 + 3 * np.linspace(0, 1, T) ** 3
    clean, _, constant = fmri_runs.clean_run(run)
    assert constant[0] and not constant[1:].any() and (clean[:, 0] == 0).all()


def test_too_few_volumes_are_refused():
    with pytest.raises(ValueError, match=r"more than 4 volumes.*\(4, 41\)"):
        fmri.detrend(make_run(volumes=4))
    with pytest.raises(ValueError):
        fmri.detrend(np.zeros(10))


# ---------------------------------------------------------------------------------------------- repetitions


def make_pairs(segments=18):
    rng = np.random.default_rng(3)
    strength = np.linspace(0, 1.5, V)
    for _ in range(segments):
        signal = strength * rng.normal(size=(60, V))
        yield signal + rng.normal(size=(60, V)), signal + rng.normal(size=(60, V))


def test_reliability_is_corrcoef_and_ttest():
    z = [[np.arctanh(np.corrcoef(a[:, v], b[:, v])[0, 1]) for v in range(V)] for a, b in make_pairs()]
    expected = stats.ttest_1samp(np.array(z), 0)
    t, p = fmri.repetition_reliability(make_pairs())  # np.corrcoef sums in another order
    assert relative(t, expected.statistic) < 1e-9
    np.testing.assert_allclose(p, expected.pvalue, rtol=1e-6)
    assert t.shape == p.shape == (V,) and t.dtype == p.dtype == np.float64


def test_reliability_of_bad_vertices_is_nan():
    good_t, good_p = fmri.repetition_reliability(make_pairs())
    pairs = list(make_pairs())
    pairs[4][0][:, 0] = 0.1  # constant in one repetition
    pairs[5][1][3, 1] = np.nan
    pairs[6][1][:, 2] = pairs[6][0][:, 2]  # identical
    pairs[7][1][:, 3] = -2.5 * pairs[7][0][:, 3] + 4  # correlation -1
    pairs[8][0][:, 4] = np.inf
    t, p = fmri.repetition_reliability(pairs)
    assert np.isnan(t[:5]).all() and np.isnan(p[:5]).all()
    np.testing.assert_array_equal(t[5:], good_t[5:])
    np.testing.assert_array_equal(p[5:], good_p[5:])
    assert np.isnan(fmri.repetition_reliability(make_pairs(1))).all()  # one segment makes no test


def plain_select(t, p, n):
    order = sorted((i for i in range(len(p)) if np.isfinite(p[i])), key=lambda i: (p[i], -abs(t[i]), i))
    return sorted(order[:n])


def test_selection_with_ties_and_nan():
    rng = np.random.default_rng(5)
    p = rng.integers(0, 6, 200) / 10
    t = rng.integers(-4, 5, 200).astype(float)
    t[::17] = p[::17] = np.nan
    for n in (0, 1, 30, 77, int(np.isfinite(p).sum())):
        mask = fmri.select_vertices(t, p, n)
        assert mask.dtype == bool and np.flatnonzero(mask).tolist() == plain_select(t, p, n)
    with pytest.raises(ValueError, match="finite p"):
        fmri.select_vertices(t, p, int(np.isfinite(p).sum()) + 1)


def test_explainable_variance_is_its_definition():
    rng = np.random.default_rng(6)
    repetitions = np.stack([stats.zscore(row) for row in rng.normal(size=(5, 80, 7)) + rng.normal(size=(80, 7))])
    expected = []
    for v in range(7):
        residual = np.mean([np.var(rep[:, v] - repetitions[:, :, v].mean(0)) for rep in repetitions])
        share = 1 - residual
        expected.append(share - (1 - share) / 4)
    np.testing.assert_allclose(fmri_runs.explainable_variance(repetitions.mean(0), 5), expected, atol=1e-12)
    with pytest.raises(ValueError):
        fmri_runs.explainable_variance(repetitions[0], 1)


# ---------------------------------------------------------------------------------------------- rows of the decoders


@pytest.mark.parametrize("norm", ["own", "train"])
def test_rows_are_standardised_by_statistics_that_bring_other_rows_onto_their_scale(norm):
    train, test = RNG.normal(3, 2, (50, 6)), RNG.normal(1, 4, (20, 6))
    train[:, 4] = 0.7
    scales = fmri_runs.scales(train.astype(np.float32), test.astype(np.float32), norm)
    made = fmri.scale(train, *scales["train"])
    assert made.dtype == np.float32 and (made[:, 4] == 0).all()
    good = [0, 1, 2, 3, 5]
    np.testing.assert_allclose(made[:, good], stats.zscore(train)[:, good], atol=1e-5)
    reference = test if norm == "own" else train
    expected = (test - reference.mean(0))[:, good] / reference.std(0)[good]
    np.testing.assert_allclose(fmri.scale(test, *scales["test"])[:, good], expected, atol=1e-5)


# ---------------------------------------------------------------------------------------------- sparsification


@pytest.mark.parametrize("make", [np.random.RandomState, np.random.default_rng])
def test_sparsify_is_two_draws_of_the_generator(make):
    fmri_rows = RNG.normal(size=(30, 20)).astype(np.float32)
    before = fmri_rows.copy()
    sparse = fmri.sparsify(fmri_rows, 0.4, 0.5, make(3))
    rng = make(3)
    chosen = rng.choice(600, 240, replace=False)
    zeroed = rng.choice(chosen, 120, replace=False)
    expected = before.copy().ravel()
    expected[zeroed] = 0
    np.testing.assert_array_equal(sparse, expected.reshape(30, 20))
    np.testing.assert_array_equal(fmri_rows, before)
    assert sparse.dtype == np.float32 and (sparse == 0).sum() == 120
