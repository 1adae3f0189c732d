"""The brain-side score: ridge against a plain loop, correlations against numpy's, a planted brain, users' mistakes."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from himalaya.ridge import RidgeCV
from PIL import Image
from tiny import CARD, N_VERTICES, SIZE, SMALL, error_of, run_script

from common import datasets
from common.cortex import N_CORTEX, area_vertices
from common.files import load_array, read_json, save_array
from common.layout import Layout
from Evaluation_Metrics import brain_score, clip_features
from Evaluation_Metrics.brain_score import (
    PENALTIES,
    area_shares,
    bootstrap_scores,
    ceiling_of_average,
    correlate,
    fit_encoder,
    predict,
)
from Evaluation_Metrics.encoding import neighbours_and_trend, partial_out
from Evaluation_Metrics.results import read_evaluation

RNG = np.random.default_rng


def planted(n=60, d=6, v=5, runs=4, noise=0.5):
    rng = RNG(0)
    features, weights = rng.standard_normal((n, d)) + 3, rng.standard_normal((d, v))
    return features, features @ weights + noise * rng.standard_normal((n, v)) + 7, np.arange(n) * runs // n


def plain_vertex(features, response, groups, scales=None):
    """Ridge of one vertex by normal equations: loss of each penalty over left-out runs, then the best on all rows."""
    z = features if scales is None else features * scales

    def solve(rows, penalty):
        x, y = z[rows] - z[rows].mean(0), response[rows] - response[rows].mean()
        w = np.linalg.inv(x.T @ x + penalty * np.eye(x.shape[1])) @ x.T @ y
        return w, response[rows].mean() - z[rows].mean(0) @ w

    losses = []
    for penalty in PENALTIES:
        fold = []
        for run in np.unique(groups):
            w, b = solve(groups != run, penalty)
            fold.append(((response - z @ w - b)[groups == run] ** 2).mean())
        losses.append(np.mean(fold))
    w, b = solve(np.full(len(groups), True), PENALTIES[np.argmin(losses)])
    return z @ w + b, PENALTIES[np.argmin(losses)], min(losses)


@pytest.mark.parametrize("d", [6, 90])  # fewer and more features than clips
def test_ridge_is_that_of_a_loop_over_vertices_runs_and_penalties(d):
    features, fmri, groups = planted(d=d, noise=2)
    fmri[:, 3] = 0.1 + 0.2  # constant, and no exact number
    model = fit_encoder(features, fmri, groups)
    got = predict(model, features)
    cv = [(np.flatnonzero(groups != run), np.flatnonzero(groups == run)) for run in range(4)]
    theirs = RidgeCV(alphas=PENALTIES, fit_intercept=True, cv=cv, solver_params={"warn": False}).fit(features, fmri)
    np.testing.assert_allclose(got[:, :3], theirs.predict(features)[:, :3], rtol=1e-8)
    assert (got[:, 3] == fmri[0, 3]).all() and len(set(model.penalties[0])) > 1
    for vertex in (0, 1, 2, 4):
        expected, penalty, _ = plain_vertex(features, fmri[:, vertex], groups)
        np.testing.assert_allclose(got[:, vertex], expected, rtol=1e-8)
        assert model.penalties[0, vertex] == pytest.approx(penalty)


def test_banded_ridge_takes_the_best_mixture_and_silences_a_band_of_noise():
    features, fmri, groups = planted(noise=1)
    features = np.concatenate([features, 5 * RNG(1).standard_normal((len(features), 40))], axis=1)
    model = fit_encoder(features, fmri, groups, bands=[6, 40], n_mixtures=15, seed=3)
    relation = model.penalties[1] / model.penalties[0]
    assert model.penalties.shape == (2, 5) and (relation > 10).all()
    for vertex in range(5):
        scales = np.repeat(1 / np.sqrt(model.penalties[:, vertex]), [6, 40])
        x, y = (features - features.mean(0)) * scales, fmri[:, vertex] - fmri[:, vertex].mean()
        expected = np.linalg.solve(x.T @ x + np.eye(46), x.T @ y) * scales
        np.testing.assert_allclose(model.weights[:, vertex], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda f, y, g: (np.where(f > 4, np.nan, f), y, g), "NaN"),
        (lambda f, y, g: (f, np.where(y > 8, np.inf, y), g), "NaN"),
        (lambda f, y, g: (f, y, 0 * g), "two runs"),
        (lambda f, y, g: (f, y[:-1], g), "expected, got"),
        (lambda f, y, g: (f[:, 0], y, g), "expected, got"),
    ],
)
def test_what_cannot_be_fitted_or_predicted_is_a_value_error(change, words):
    with pytest.raises(ValueError, match=words):
        fit_encoder(*change(*planted()))
    with pytest.raises(ValueError, match=r"\(N, 6\) expected"):
        predict(fit_encoder(*planted()), np.zeros((2, 7)))
    with pytest.raises(ValueError, match="NaN"):
        predict(fit_encoder(*planted()), np.full((2, 6), np.nan))


def test_correlations_resamples_and_means_are_numpys():
    rng = RNG(2)
    x, y = rng.standard_normal((12, 4)) + 50, rng.standard_normal((12, 4))
    y[:, 3] = 0.3
    expected = [np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(3)] + [0]
    np.testing.assert_allclose(correlate(x, y), expected, atol=1e-12)
    counts = rng.multinomial(12, np.full(12, 1 / 12), size=5)
    rows = [np.repeat(np.arange(12), of) for of in counts]
    each = [[np.corrcoef(x[of, i], y[of, i])[0, 1] for i in range(3)] + [0] for of in rows]
    np.testing.assert_allclose(correlate(x, y, counts), each, atol=1e-12)
    shares, names = area_shares(np.array(["L_V1", "R_V1", "", "L_MT"]), np.array([True, True, True, False]))
    assert names == ["all", "V1"]
    np.testing.assert_allclose(shares, [[1 / 3, 0.5], [1 / 3, 0.5], [1 / 3, 0], [0, 0]])
    root = np.array([0.5, 1, 2, 1])
    draws = bootstrap_scores(x, {"a": y, "b": y}, root, shares, n_bootstraps=7, rng=RNG(1), batch=3)
    assert draws["a"].shape == (7, 2) and (draws["a"] == draws["b"]).all()
    whole = RNG(1).multinomial(12, np.full(12, 1 / 12), size=3)[0]
    r = correlate(x, y, whole[None])[0] / root
    np.testing.assert_allclose(draws["a"][0], [r[:3].mean(), r[:2].mean()])


def test_the_ceiling_is_that_of_the_average():
    rng = RNG(0)
    signal = rng.standard_normal(4000)
    average = np.mean([signal + 1.5 * rng.standard_normal(4000) for _ in range(10)], axis=0)
    share = 1 / (1 + 1.5**2)
    assert np.corrcoef(signal, average)[0, 1] == pytest.approx(np.sqrt(ceiling_of_average(share, 10)), abs=0.01)
    assert ceiling_of_average(share, 1) == share


def test_what_the_clip_alone_tells_is_the_rest_of_a_regression():
    rng, rows = RNG(3), np.r_[2:40, 45:60]
    measured, predicted, runs = rng.standard_normal((60, 3)), rng.standard_normal((len(rows), 3)), np.arange(60) // 30
    trend, near = neighbours_and_trend(measured, runs, rows)
    assert trend.shape == (len(rows), 10) and near.shape == (4, len(rows), 3)
    time = np.tile(np.linspace(-1, 1, 30), 2)
    powers = np.concatenate([np.where(runs[:, None] == run, time[:, None] ** np.arange(5), 0) for run in (0, 1)], axis=1)
    for vertex in range(3):
        lagged = np.zeros((60, 4))
        for t in range(60):
            for column, other in enumerate((t - 2, t - 1, t + 1, t + 2)):
                lagged[t, column] = measured[other, vertex] if 0 <= other < 60 and runs[other] == runs[t] else 0
        x = np.concatenate([powers, lagged], axis=1)[rows]
        expected = predicted[:, vertex] - x @ np.linalg.lstsq(x, predicted[:, vertex], rcond=None)[0]
        np.testing.assert_allclose(partial_out(predicted, trend, near)[:, vertex], expected, atol=1e-9)


def test_a_reconstruction_gains_nothing_from_the_neighbours_that_its_fmri_holds():
    rng, runs = RNG(4), np.arange(240) // 120
    alone = rng.standard_normal((240, 30))
    signal = 0.8 * alone + 0.4 * np.roll(alone, 1, axis=0)
    measured, oracle, decoded = (
        source + by * rng.standard_normal((240, 30)) for source, by in ((signal, 0.2), (alone, 0.4), (signal, 0.4))
    )
    assert correlate(measured, decoded).mean() > correlate(measured, oracle).mean() + 0.05
    trend, near = neighbours_and_trend(measured, runs, np.arange(240))
    rest, *others = (partial_out(values, trend, near) for values in (measured, decoded, oracle))
    decoded, oracle = (correlate(rest, other).mean() for other in others)
    assert oracle > decoded + 0.01


# ---------------------------------------------------------------------------------------------- script
DATA = replace(SMALL, n_train=24, n_train_runs=6, clips_per_train_run=4, n_test=10, clips_per_test_run=5)


@pytest.fixture
def house(tmp_path, monkeypatch, models):
    """A subject whose vertices answer to the brightness of the clips' corners, with reconstructions that are the truth, and noise."""
    sd, clip = models
    monkeypatch.setitem(datasets.DATASETS, "phantom", DATA)
    layout, rng = Layout(tmp_path / "phantom"), RNG(0)
    clips = {}
    for split in ("train", "test"):
        levels = (
            rng.integers(0, 200, (DATA.n_clips(split), 1, 2, 2, 3), dtype=np.uint8).repeat(16, 2).repeat(16, 3)
        )  # colours of four corners
        clips[split] = levels + rng.integers(0, 56, (DATA.n_clips(split), 8, SIZE, SIZE, 3), dtype=np.uint8)
        for name, frames in zip(DATA.clip_names(split), clips[split], strict=True):
            for index, frame in zip(DATA.frame_indices, frames, strict=True):
                path = layout.frames(split, name) / f"{index:07d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(frame).save(path)
    weights = rng.standard_normal((12, N_VERTICES))
    drive = {split: (of[:, 0, ::16, ::16].reshape(len(of), 12) / 64.0) @ weights for split, of in clips.items()}
    for split, values in drive.items():
        save_array(layout.masked_fmri(1, split, N_VERTICES), values.astype(np.float32), **CARD)
    mask, ceiling = np.zeros(N_CORTEX, np.uint8), np.full(N_CORTEX, np.nan)
    mask[area_vertices(["V1"])[: N_VERTICES - 10]] = mask[area_vertices(["MT"])[:10]] = 1
    ceiling[mask == 1] = np.r_[0.04, np.full(N_VERTICES - 1, 0.6)]
    save_array(layout.mask(1), mask, **CARD)
    save_array(layout.mask(1).with_name("noise_ceiling.npy"), ceiling, **CARD)
    save_array(layout.ground_truth, clips["test"], **CARD)
    for name, frames in (("full", clips["test"]), ("control", clips["test"][::-1])):
        folder = layout.recons(1, name) / "results_recons"
        folder.mkdir(parents=True)
        for number, clip_frames in enumerate(frames, 1):
            np.savez(folder / f"test{number}.npz", frames=clip_frames)
    flags = [
        "--dataset", "phantom", "--out_root", tmp_path, "--sd_path", sd, "--clip_path", clip, "--n_bootstraps", "100", "--device", "cpu",
    ]  # fmt: skip
    return layout, flags


def test_a_planted_brain_is_scored_by_area_and_band(house):
    layout, flags = house
    run_script(brain_score, *flags, "--names", "full", "control", "--bands", "latents", "clip", "--ridge", "banded")
    out = layout.metrics(1, "brain_score")
    facts = read_evaluation(out / "metrics.json")  # which the report reads with the evaluations
    scores, differences = facts["scores"], facts["differences"]
    assert facts["alone"] == {"scores": {}, "differences": {}} and facts["band_differences"]["V1"]["latents - clip"][
        "value"
    ] == pytest.approx(facts["of_bands"]["V1"]["latents"] - facts["of_bands"]["V1"]["clip"])
    assert facts["runs"] == ["seg1", "seg3", "seg5"] and facts["vertices"] == N_VERTICES - 1 and facts["phantom"]
    assert scores["true clips"] == scores["full"] and differences["true clips - full"]["high"] == 0  # it is the truth
    assert (
        differences["full - control"]["low"] > 0
        and scores["true clips"]["value"] > 3 * scores["true clips"]["se"]
        and scores["mean clip"]["value"] == 0
    )
    values = load_array(out / "maps" / "full.npy", shape=(N_CORTEX,), finite=False)
    counted = np.isfinite(values)
    assert counted.sum() == N_VERTICES - 1 and values[counted].mean() == pytest.approx(scores["full"]["value"])
    with open(out / "areas.csv", newline="") as handle:
        rows = {row["area"]: row for row in csv.DictReader(handle)}
    assert set(rows) == {"all", "V1", "MT"} and int(rows["MT"]["vertices"]) == 10
    assert float(rows["MT"]["full"]) == pytest.approx(values[area_vertices(["MT"])[:10]].mean())
    assert {"band latents", "band clip"} < rows["all"].keys()
    control = ["--names", "control", "full", "--bands", "latents", "clip", "--ridge", "banded", "--half", "even", "--overwrite"]
    run_script(brain_score, *flags, *control)
    assert read_json(out / "metrics.json")["runs"] == ["seg2", "seg4", "seg6"]


def test_features_that_are_nan_are_named(house, monkeypatch, capsys):
    monkeypatch.setattr(clip_features, "encode_latents", lambda vae, first: np.full((len(first), 4), np.nan))
    assert "clip 1 has NaN in the band 'latents'; check the clip and the model" in error_of(
        capsys, brain_score, *house[1], "--bands", "latents"
    )


@pytest.mark.parametrize(
    "change, argv, words",
    [
        ({}, ["--names", "other"], "other/results_recons"),
        ({}, ["--clips", "1-2"], "2 clips are too few"),
        ({}, ["--clips", "1-11"], "--clips 11: not in all of full and the ground truth"),
        (
            {"n_train_runs": 3, "n_train": 12},
            ["--half", "even"],
            "has 3 training runs; the brain-side score needs two or more in each half",
        ),
        ({"models": {}}, ["--bands", "latents", "--sd_path", ""], "--sd_path is needed for the band 'latents'"),
    ],
)
def test_a_users_mistakes_are_one_sentence(change, argv, words, house, capsys, monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "phantom", replace(DATA, **change))
    assert words in error_of(capsys, brain_score, *house[1], *argv)
