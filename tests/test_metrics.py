"""Every metric against an independent computation: skimage, scipy, plain loops, cases worked by hand."""

import colorsys
import itertools
import math
from fractions import Fraction

import cv2
import numpy as np
import pytest
from scipy.stats import pearsonr, wilcoxon
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from Evaluation_Metrics.bootstrap_with_wilcoxon import bootstrap_wilcoxon, paired_interval
from Evaluation_Metrics.CLIP_consist import clip_pcc
from Evaluation_Metrics.EPE import epe, flow_errors, flows
from Evaluation_Metrics.hue_pcc import hue_pcc
from Evaluation_Metrics.n_way import chance_level, clip_accuracy, n_way_accuracy, true_classes
from Evaluation_Metrics.PSNR import psnr
from Evaluation_Metrics.SSIM import ssim


def smooth_clips(seed, n=2, frames=8, size=48):
    """Clips of coloured blobs that drift."""
    rng = np.random.default_rng(seed)
    clips = np.empty((n, frames, size, size, 3), np.uint8)
    for clip in clips:
        still = cv2.resize(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), (2 * size, 2 * size), interpolation=cv2.INTER_CUBIC)
        dx, dy = rng.integers(0, 3, 2)
        for t in range(frames):
            clip[t] = still[t * dy : t * dy + size, t * dx : t * dx + size]
    return clips


@pytest.fixture(scope="module")
def clips():
    return smooth_clips(0), smooth_clips(1)


# ---------------------------------------------------------------------------------------------- pixels


def test_ssim_is_skimages(clips):
    pred, gt = clips
    frames = [[structural_similarity(p[t], g[t], data_range=255, channel_axis=-1) for t in range(8)] for p, g in zip(pred, gt, strict=True)]
    wanted = np.mean(frames, axis=1)
    np.testing.assert_allclose(ssim(pred, gt), wanted, rtol=1e-10)
    np.testing.assert_allclose(ssim(gt, gt), 1, rtol=1e-12)
    flat = np.full((1, 2, 20, 20, 3), 200, np.uint8), np.full((1, 2, 20, 20, 3), 100, np.uint8)
    luminance = (2 * 200 * 100 + 2.55**2) / (200**2 + 100**2 + 2.55**2)  # no variance: the luminance term is left
    np.testing.assert_allclose(ssim(*flat), luminance, rtol=1e-10)


def test_psnr(clips):
    pred, gt = clips
    wanted = [np.mean([peak_signal_noise_ratio(g[t], p[t], data_range=255) for t in range(8)]) for p, g in zip(pred, gt, strict=True)]
    np.testing.assert_allclose(psnr(pred, gt), wanted, rtol=1e-10)
    assert psnr(gt, gt) == pytest.approx([100, 100])
    black, grey = np.zeros((1, 2, 8, 8, 3), np.uint8), np.full((1, 2, 8, 8, 3), 51, np.uint8)  # 51 / 255 = 0.2
    np.testing.assert_allclose(psnr(black, grey), 20 * math.log10(1 / 0.2))
    half = np.concatenate([grey[:, :1], black[:, 1:]], axis=1)  # one frame of two identical
    np.testing.assert_allclose(psnr(half, grey), (100 + 20 * math.log10(5)) / 2)


def opencv_hue(red, green, blue):
    """Hue on OpenCV's 0..179 scale, from the standard library."""
    return round(colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)[0] * 180) % 180


def test_hue_against_the_standard_library():
    rng = np.random.default_rng(3)
    pred, gt = rng.integers(0, 256, (2, 2, 8, 5, 6, 3), dtype=np.uint8)
    released, pearson = np.empty((2, 2)), np.empty((2, 2))
    for clip in range(2):
        cosines, correlations = [], []
        for t in range(8):
            swapped = [[opencv_hue(*pixel[::-1]) / 360 for pixel in c[clip, t].reshape(-1, 3).tolist()] for c in (pred, gt)]
            plain = [[opencv_hue(*pixel) for pixel in c[clip, t].reshape(-1, 3).tolist()] for c in (pred, gt)]
            cosines.append(np.dot(*swapped) / math.sqrt(np.dot(swapped[0], swapped[0]) * np.dot(swapped[1], swapped[1])))
            correlations.append(pearsonr(*plain).statistic)
        released[clip] = np.mean(cosines[:6]), np.mean(cosines[:3])
        pearson[clip] = np.mean(correlations), np.mean(correlations[:6])
    # OpenCV rounds its own division table: now and then a hue is one off
    np.testing.assert_allclose(hue_pcc(pred, gt), released[:, 0], atol=2e-3)
    np.testing.assert_allclose(hue_pcc(pred, gt, n_frames=3), released[:, 1], atol=2e-3)
    np.testing.assert_allclose(hue_pcc(pred, gt, mode="pearson"), pearson[:, 0], atol=5e-3)
    np.testing.assert_allclose(hue_pcc(pred, gt, mode="pearson", n_frames=6), pearson[:, 1], atol=5e-3)


def test_hue_by_hand():
    """Two halves: hues 0 and 60 degrees apart are the planes (a, b); the cosine and the correlation follow."""

    def picture(left, right):
        frame = np.zeros((4, 4, 3), np.uint8)
        frame[:, :2], frame[:, 2:] = left, right
        return np.broadcast_to(frame, (1, 8, 4, 4, 3)).copy()

    red, green, blue, yellow = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
    a, b = picture(red, green), picture(green, yellow)
    # read as BGR: red -> blue 120, green 60, yellow -> cyan 90
    cosine = (120 * 60 + 60 * 90) / math.sqrt((120**2 + 60**2) * (60**2 + 90**2))
    assert hue_pcc(a, b) == pytest.approx([cosine], rel=1e-12)
    # read as RGB: (0, 60) against (60, 30): one rises, one falls
    assert hue_pcc(a, b, mode="pearson") == pytest.approx([-1])
    grey = np.full((1, 8, 4, 4, 3), 90, np.uint8)
    for mode in ("released", "pearson"):
        assert np.isnan(hue_pcc(a, grey, mode=mode)) and np.isnan(hue_pcc(grey, a, mode=mode))
    # one grey frame spoils its clip and no other; a frame after the sixth does not count in the released mode
    pair, truth = np.concatenate([a, a]), np.concatenate([b, b])
    pair[0, 7] = 90
    assert np.isfinite(hue_pcc(pair, truth)).all()
    assert np.isnan(hue_pcc(pair, truth, mode="pearson")).tolist() == [True, False]
    assert np.isnan(hue_pcc(picture(blue, blue), a, mode="pearson"))  # one hue alone has no correlation


# ---------------------------------------------------------------------------------------------- motion


def test_epe_against_loops(clips):
    pred, gt = (c[:1, :3] for c in clips)
    for order, weights in (("released", (0.114, 0.587, 0.299)), ("rgb", (0.299, 0.587, 0.114))):
        grey = [[np.floor(frame.astype(float) @ np.array(weights) + 0.5).astype(np.uint8) for frame in c[0]] for c in (pred, gt)]
        distances, angles = [], []
        for t in range(2):
            u, v = (cv2.calcOpticalFlowFarneback(g[t], g[t + 1], None, 0.5, 3, 15, 3, 5, 1.2, 0) for g in grey)
            for y, x in itertools.product(range(48), range(48)):
                (a, b), (c, d) = map(float, u[y, x]), map(float, v[y, x])
                distances.append(math.hypot(a - c, b - d))
                cosine = (a * c + b * d) / (math.hypot(a, b) * math.hypot(c, d) + 1e-8)
                angles.append(math.degrees(math.acos(max(-1, min(1, cosine)))))
        # the two roundings of grey may differ by one level in some pixels
        found = epe(pred, gt, channel_order=order)
        np.testing.assert_allclose(found[0], np.mean(distances), rtol=5e-3)
        np.testing.assert_allclose(found[1], np.mean(angles), rtol=5e-3)
        exact = [flow_errors(flows(p, order), flows(g, order)) for p, g in zip(pred, gt, strict=True)]
        np.testing.assert_allclose(np.array(found).T, exact, rtol=1e-12)


def test_flow_errors_by_hand():
    zero, right, up = np.zeros((3, 3, 2)), np.tile((1.0, 0.0), (3, 3, 1)), np.tile((0.0, -2.0), (3, 3, 1))
    assert flow_errors(right, up) == pytest.approx((math.sqrt(5), 90))
    assert flow_errors(right, -right) == pytest.approx((2, 180), rel=1e-4)
    assert flow_errors(zero, zero) == pytest.approx((0, 90))
    assert flow_errors(zero, right) == pytest.approx((1, 90))
    assert flow_errors(right * 3, right) == pytest.approx((2, 0), abs=0.02)  # 1e-8 below the fraction


def test_flow_errors_are_computed_in_float64():
    """OpenCV's flows are float32; nearly equal directions lose half the digits of their angle in it."""
    rng = np.random.default_rng(0)
    u = rng.normal(size=(20, 20, 2)).astype(np.float32)
    v = u + rng.normal(0, 1e-4, u.shape).astype(np.float32)
    (a, b), (c, d) = (np.moveaxis(flow.astype(np.longdouble), -1, 0) for flow in (u, v))
    cosine = (a * c + b * d) / (np.sqrt(a * a + b * b) * np.sqrt(c * c + d * d) + 1e-8)
    wanted = np.sqrt((a - c) ** 2 + (b - d) ** 2).mean(), np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean()
    np.testing.assert_allclose(flow_errors(u, v), np.array(wanted, np.float64), rtol=1e-9)


def test_flow_finds_a_shift():
    still = cv2.resize(np.random.default_rng(5).integers(0, 256, (16, 16, 3), dtype=np.uint8), (96, 96), interpolation=cv2.INTER_CUBIC)
    clip = np.stack([np.roll(still, (0, 2 * t), (0, 1)) for t in range(3)])
    mean = flows(clip)[:, 24:-24, 24:-24].mean((0, 1, 2))
    np.testing.assert_allclose(mean, (2, 0), atol=0.15)
    same = np.broadcast_to(still, (1, 3, 96, 96, 3)).copy()
    assert epe(same, same)[0] == 0
    black = np.zeros_like(same)
    assert [float(v[0]) for v in epe(black, black)] == [0, 90]
    assert epe(same, clip[None])[0] > 1.5


# ---------------------------------------------------------------------------------------------- features


def test_clip_pcc():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4, 5, 7)) + 1
    wanted = []
    for clip in features:
        cosines = [np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)) for a, b in itertools.pairwise(clip)]
        wanted.append(sum(cosines) / 4)
    vifi = np.array([0.61, 0.6, 0.2, 0.9])  # 0.6 itself is lost
    np.testing.assert_allclose(clip_pcc(features, vifi, threshold=None), wanted)
    np.testing.assert_allclose(clip_pcc(features, vifi), np.array(wanted) * [1, 0, 0, 1])
    np.testing.assert_allclose(clip_pcc(features, vifi, threshold=0.1), wanted)
    with pytest.raises(ValueError, match="VIFI"):
        clip_pcc(features)


# ---------------------------------------------------------------------------------------------- n-way


def passes(scores, ids, drawn, top_k):
    """One trial by the definition: a true class passes when fewer than k of the drawn do at least as well."""
    return any(sum(scores[d] >= scores[i] for d in drawn) < top_k for i in ids)


@pytest.mark.parametrize("n_way, top_k", [(2, 1), (4, 1), (4, 2), (5, 3)])
def test_n_way_counts_every_draw(n_way, top_k):
    rng = np.random.default_rng(n_way + top_k)
    scores = rng.integers(0, 6, (6, 9)).astype(float)  # many ties
    ids = np.stack([rng.choice(9, 3, replace=False) for _ in range(6)])
    wanted = []
    for row, true in zip(scores, ids.tolist(), strict=True):
        draws = list(itertools.combinations([c for c in range(9) if c not in true], n_way - 1))
        wanted.append(sum(passes(row, true, draw, top_k) for draw in draws) / len(draws))
    np.testing.assert_allclose(n_way_accuracy(scores, ids, n_way, top_k), wanted, atol=1e-12)


def test_n_way_is_hypergeometric_at_size():
    rng = np.random.default_rng(1)
    scores, ids = rng.normal(size=(20, 1000)), np.stack([rng.choice(1000, 3, replace=False) for _ in range(20)])
    for n_way, top_k in ((2, 1), (50, 1), (50, 5), (400, 3)):
        found = n_way_accuracy(scores, ids, n_way, top_k)
        for row, true, value in zip(scores, ids, found, strict=True):
            above = int((np.delete(row, true) >= row[true].max()).sum())
            ways = sum(math.comb(above, k) * math.comb(997 - above, n_way - 1 - k) for k in range(top_k))
            assert value == pytest.approx(float(Fraction(ways, math.comb(997, n_way - 1))), abs=1e-12)


def test_n_way_sampled_draws_as_agreed():
    scores, ids = np.random.default_rng(4).normal(size=(3, 12)), np.array([[0, 1, 2], [3, 5, 7], [11, 10, 4]])
    rng, wanted = np.random.RandomState(9), []
    for row, true in zip(scores, ids.tolist(), strict=True):
        others = np.array([c for c in range(12) if c not in true])
        wanted.append(np.mean([passes(row, true, rng.choice(others, 4, replace=False), 2) for _ in range(50)]))
    found = n_way_accuracy(scores, ids, 5, 2, exact=False, n_trials=50, rng=np.random.RandomState(9))
    assert found.tolist() == wanted


@pytest.mark.parametrize("n_way, top_k, chance", [(2, 1, 3 / 4), (50, 1, 3 / 52), (10, 4, None)])
def test_n_way_chance(n_way, top_k, chance):
    rng = np.random.default_rng(n_way)
    scores, ids = rng.random((20000, 96)), np.tile([4, 50, 80], (20000, 1))
    values = n_way_accuracy(scores, ids, n_way, top_k)
    level = chance_level(n_way, top_k)
    assert chance is None or level == pytest.approx(chance)
    assert abs(values.mean() - level) < 4 * values.std() / math.sqrt(20000)


def test_n_way_edges():
    scores = np.array([[0.0, 1, 2, 3, 4]])
    assert n_way_accuracy(scores, [[4]], 2) == [1] and n_way_accuracy(scores, [[0]], 2) == [0]
    assert n_way_accuracy(scores, [[2]], 2) == pytest.approx([0.5])
    assert n_way_accuracy(np.zeros((1, 5)), [[2]], 2) == [0]  # all tied: lost
    assert n_way_accuracy(scores, [[0]], 3, top_k=3) == [1]
    with pytest.raises(ValueError, match="NaN scores in row 0"):
        n_way_accuracy(scores * np.nan, [[0]], 2)
    with pytest.raises(ValueError, match="n_way from 2 to 3"):
        n_way_accuracy(scores, [[0, 1, 2]], 4)
    with pytest.raises(ValueError, match="class ids"):
        n_way_accuracy(scores, [[5]], 2)


def test_frames_are_averaged_over_clips():
    rng = np.random.default_rng(0)
    scores, truth = rng.normal(size=(3, 4, 20)), rng.normal(size=(3, 4, 20))
    ids = true_classes(truth)
    assert all(set(ids[i, t]) == set(np.argpartition(truth[i, t], -3)[-3:]) for i in range(3) for t in range(4))
    wanted = [np.mean([n_way_accuracy(scores[i, t][None], ids[i, t][None], 5)[0] for t in range(4)]) for i in range(3)]
    np.testing.assert_allclose(clip_accuracy(scores, ids, n_way=5), wanted)


# ---------------------------------------------------------------------------------------------- statistics


def test_bootstrap_wilcoxon_draws_as_agreed():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.02, 1, 80), rng.normal(0, 1, 60)
    draws, a, b = np.random.RandomState(7), [], []
    for _ in range(40):
        a.append(np.mean(draws.choice(x, 80, replace=True)))
        b.append(np.mean(draws.choice(y, 60, replace=True)))
    wanted = wilcoxon(a, b)
    assert bootstrap_wilcoxon(x, y, 40, np.random.RandomState(7)) == pytest.approx((wanted.statistic, wanted.pvalue))
    # what is wrong with it: the same two samples, more bootstraps, a smaller p
    few, many = (bootstrap_wilcoxon(x + 0.1, y[:60], n, np.random.RandomState(1))[1] for n in (30, 400))
    assert many < few


def test_paired_interval_covers():
    """About 95 of 100 intervals hold the true difference; the mean is the mean."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(100):
        x, y = rng.normal(0.3, 1, 60), rng.normal(0, 1, 60)
        mean, low, high = paired_interval(x, y, n_bootstraps=600, rng=rng)
        assert low < mean < high and mean == pytest.approx((x - y).mean())
        hits += low < 0.3 < high
    assert 86 <= hits <= 100
    assert paired_interval(np.array([1.0, np.nan, 2.0]), np.zeros(3))[0] == 1.5


def test_shapes_are_checked(clips):
    pred, gt = clips
    for metric in (ssim, psnr, hue_pcc, epe):
        with pytest.raises(ValueError, match="one shape"):
            metric(pred[:, :7], gt)
        with pytest.raises(ValueError, match="uint8"):
            metric(pred.astype(np.float32), gt)
    with pytest.raises(ValueError, match="channel_order"):
        epe(pred, gt, channel_order="bgr")
    with pytest.raises(ValueError, match="mode"):
        hue_pcc(pred, gt, mode="hsv")
