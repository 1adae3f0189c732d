"""The metrics of neighbouring fields, each against an independent computation and cases worked by hand; their place in evaluate.py."""

import itertools
from contextlib import nullcontext
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torchvision
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity
from test_evaluate import degrade, house, made_clips, run, save_recons, tiny_models  # noqa: F401
from tiny import error_of, load_script

import Evaluation_Metrics
from common import cli, datasets
from common.files import UserError, read_json, write_json
from Evaluation_Metrics import (
    compare,
    evaluate,
    identification,
    image_nets,
    motion_energy,
    paper_tables,
    protocols,
    results,
    temporal_consistency,
    towers,
)  # fmt: skip
from Evaluation_Metrics.CLIP_consist import clip_pcc
from Evaluation_Metrics.dynamic_degree import moves
from Evaluation_Metrics.EPE import flows
from Evaluation_Metrics.feature_distance import correlation_distance
from Evaluation_Metrics.flow_direction import flow_direction_cosine
from Evaluation_Metrics.identification import two_way_identification
from Evaluation_Metrics.motion_energy import motion_energy_correlation
from Evaluation_Metrics.pix_corr import pix_corr
from Evaluation_Metrics.SSIM import ssim
from phantom import checks

RNG = np.random.default_rng(0)

# ---------------------------------------------------------------------------------------------- features


def identify(pred, true):
    """The definition as a loop."""
    r = [[np.corrcoef(x, y)[0, 1] for y in true] for x in pred]
    wrong = [[j for j in range(len(true)) if j != i] for i in range(len(pred))]
    return [np.mean([(row[i] > row[j]) + (row[i] == row[j]) / 2 for j in wrong[i]]) for i, row in enumerate(r)]


@pytest.mark.parametrize("width, chunk", [(7, 8192), (300, 64)])
def test_identification_is_the_loop(width, chunk, monkeypatch):
    monkeypatch.setattr(identification, "CHUNK", chunk)
    true = RNG.normal(size=(30, width))
    pred = (true + width**0.5 * RNG.normal(size=true.shape)).astype(np.float32)
    found = two_way_identification(pred, true)
    np.testing.assert_allclose(found, identify(pred, true), atol=1e-12)
    assert found.dtype == np.float64 and 0.5 < found.mean() < 1
    np.testing.assert_allclose(two_way_identification(5 * pred + 3, true - 1), found, atol=1e-6)  # of a correlation


def test_identification_in_closed_cases():
    true = RNG.normal(size=(40, 20)).astype(np.float32)
    assert two_way_identification(true, true).tolist() == [1] * 40 and two_way_identification(-true, true).tolist() == [0] * 40
    # all truths equal: all ties; each truth twice: the own one ties with its twin
    assert two_way_identification(true, true[:1].repeat(40, 0)).tolist() == [0.5] * 40
    twice = true[:20].repeat(2, 0)
    np.testing.assert_allclose(two_way_identification(twice, twice), (38 + 0.5) / 39)
    # independent noise: 1/2, within 4 standard errors over seeds
    means = [two_way_identification(*np.random.default_rng(seed).normal(size=(2, 50, 30))).mean() for seed in range(60)]
    assert abs(np.mean(means) - 0.5) < 4 * np.std(means, ddof=1) / np.sqrt(60)
    # constant reconstruction or truth: no value; a constant truth is nobody's wrong one
    pred, flat = true.copy(), true.copy()
    pred[3], flat[5] = 2, 0
    assert np.flatnonzero(np.isnan(two_way_identification(pred, flat))).tolist() == [3, 5]
    np.testing.assert_allclose(np.delete(two_way_identification(true, flat), 5), identify(np.delete(true, 5, 0), np.delete(flat, 5, 0)))


def test_correlation_distance():
    x, y = RNG.normal(size=(2, 5, 30)).astype(np.float32)
    np.testing.assert_allclose(correlation_distance(x, y), [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)], atol=1e-12)
    np.testing.assert_allclose([correlation_distance(x, 2 * x), correlation_distance(x, -x)], [[0] * 5, [2] * 5], atol=1e-6)
    x[1] = 7
    assert np.isnan(correlation_distance(x, y)).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("metric", [two_way_identification, correlation_distance])
@pytest.mark.parametrize(
    "pred, true, says",
    [
        (np.ones((3, 4)), np.ones((3, 5)), r"one shape .*\(3, 4\) and \(3, 5\)"),
        (np.ones((3, 4)), np.ones((2, 4)), "one shape"),
        (np.array([[1, 2], [np.nan, 3]]), np.eye(2), "reconstruction in row 1 are NaN"),
        (np.eye(2), np.array([[np.inf, 2], [1, 3]]), "truth in row 0 are NaN or infinite"),
    ],
)
def test_features_that_do_not_fit(metric, pred, true, says):
    with pytest.raises(ValueError, match=says):
        metric(pred, true)
    with pytest.raises(ValueError, match="2 clips or more are needed, got 1"):
        two_way_identification(np.ones((1, 4)), np.ones((1, 4)))


def test_all_pairs_of_frames():
    features = RNG.normal(size=(3, 5, 6)) + 1
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    wanted = [np.mean([a @ b for a, b in itertools.combinations(clip, 2)]) for clip in unit]
    np.testing.assert_allclose(clip_pcc(features, threshold=None, every_pair=True), wanted)
    np.testing.assert_allclose(temporal_consistency.temporal_consistency(features[:, :1].repeat(4, 1)), 1)


# ---------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize("size", [(40, 40), (512, 512), (480, 720)])
def test_pixel_correlation(size):
    pred, gt = (cv2.resize(RNG.integers(0, 256, (9, 9, 3), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC) for _ in range(2))
    pred, gt = (np.stack([[side, np.roll(side, 5, 1)]]) for side in (pred, gt))

    def pixels(frame):
        if min(size) <= 425:
            return frame.ravel().astype(float)
        content = torch.from_numpy(frame).permute(2, 0, 1)[None].double()
        return torch.nn.functional.interpolate(content, (425, 425), mode="bilinear", antialias=False)[0].permute(1, 2, 0).numpy().ravel()

    wanted = np.mean([np.corrcoef(pixels(pred[0, t]), pixels(gt[0, t]))[0, 1] for t in range(2)])
    assert pix_corr(pred, gt) == pytest.approx([wanted], abs=1e-6) and pix_corr(gt, gt) == pytest.approx([1])
    both = np.concatenate([gt, gt])
    both[0, 1] = 90  # one flat frame of two
    assert np.isnan(pix_corr(both, np.concatenate([gt, gt]))).tolist() == [True, False]


def test_ssim_of_columns_is_skimages():
    pred, gt = made_clips(0, n=2, size=48)[:, :2], made_clips(1, n=2, size=48)[:, :2]
    how = {"channel_axis": -1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    grey = [np.stack([[rgb2gray(frame) for frame in clip] for clip in side]) for side in (pred, gt)]
    wanted = [np.mean([structural_similarity(p[t], g[t], **how) for t in range(2)]) for p, g in zip(*grey, strict=True)]
    np.testing.assert_allclose(ssim(pred, gt, mode="columns"), wanted, rtol=1e-9)
    with pytest.raises(ValueError, match="mode must be one of rgb, columns"):
        ssim(pred, gt, mode="grey")


# ---------------------------------------------------------------------------------------------- motion


def drifting(speed, angle=0.0, n=8, size=96, cycles=8, fps=3.75):
    """A grating that drifts towards `angle` (degrees, 0 to the right, 90 up) with so many cycles a second; (1, n, size, size, 3)."""
    y, x = np.mgrid[:size, :size] / size
    along = x * np.cos(np.radians(angle)) - y * np.sin(np.radians(angle))
    frames = [127 + 100 * np.cos(2 * np.pi * (cycles * along - speed * t / fps)) for t in range(n)]
    return np.stack(frames)[None, ..., None].round().astype(np.uint8).repeat(3, -1)


def test_motion_energy_of_gratings():
    truth, right = drifting(1), {}
    for name, clip in {"right": truth, "left": drifting(-1), "up": drifting(1, 90), "still": drifting(0), "half": drifting(0.5)}.items():
        right[name] = motion_energy_correlation(clip, truth)["moving"][0]
    assert right["right"] == pytest.approx(1) and right["left"] < -0.9 and right["still"] == 0
    assert right["up"] < 0.5 and right["right"] > right["half"] > right["up"]
    # speed: of gratings that drift with 0.5 and 1 Hz, each is most like itself
    assert motion_energy_correlation(drifting(2.8), truth)["moving"][0] < right["half"]
    drawn = motion_energy_correlation(moved(0, 0), moved(1, 0))
    assert drawn["static"][0] > 0.9 and drawn["moving"][0] == 0
    # what stands still is told by the 0 Hz filters alone, and a still truth has no motion to compare with
    assert motion_energy_correlation(drifting(-1), truth)["static"][0] > 0.9
    assert np.isnan(motion_energy_correlation(truth, drifting(0))["moving"][0])
    black = np.zeros_like(truth)
    assert motion_energy_correlation(black, truth)["static"].tolist() == [0] and np.isnan(
        motion_energy_correlation(truth, black)["static"][0]
    )
    with pytest.raises(ValueError, match="two frames or more"):
        motion_energy_correlation(truth[:, :1], truth[:, :1])


@pytest.mark.parametrize("n_frames, fps", [(8, 3.75), (5, 12.5)])
def test_motion_energy_is_pymotens(n_frames, fps, capsys):
    """The library's own pyramid, a whole rate given and the frequencies scaled to it (the extra "realdata")."""
    moten = pytest.importorskip("moten")
    clip = made_clips(4, n=1, size=96)[0, :n_frames]
    pyramid = moten.pyramids.MotionEnergyPyramid((96, 96), 15, temporal_frequencies=(0, 15 / fps), filter_temporal_width=8)
    answers = pyramid.project_stimulus(moten.io.imagearray2luminance(clip), dtype="float64")
    of = pyramid.parameters
    static, moving = motion_energy.motion_energy(clip, fps)
    np.testing.assert_allclose(np.sort(static, 1), np.sort(answers[:, of.temporal_freq == 0], 1), atol=1e-9)
    directed = (of.temporal_freq > 0) & (of.spatial_freq > 0)
    there, back = (np.flatnonzero(directed & side) for side in (of.direction < 180, of.direction >= 180))
    places = {(of.centerh[i], of.centerv[i], of.spatial_freq[i], of.direction[i] - 180): i for i in back}
    opponent = [answers[:, i] - answers[:, places[of.centerh[i], of.centerv[i], of.spatial_freq[i], of.direction[i]]] for i in there]
    np.testing.assert_allclose(np.sort(moving, 1), np.sort(np.transpose(opponent), 1), atol=1e-9)


def moved(dx, dy, n=6, size=96, seed=5):
    """A texture that moves by so many pixels a frame, (1, n, size, size, 3)."""
    still = cv2.resize(
        np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8), (size, size), interpolation=cv2.INTER_CUBIC
    )
    return np.stack([np.roll(still, (t * dy, t * dx), (0, 1)) for t in range(n)])[None]


def test_flow_direction():
    right = moved(2, 0)
    values = [flow_direction_cosine(moved(*step), right)[0] for step in ((2, 0), (1, 0), (0, 2), (-2, 0), (0, 0))]
    np.testing.assert_allclose(values, [1, 1, 0, -1, 0], atol=0.1)
    assert values[0] == pytest.approx(1, abs=1e-6) and values[4] == 0  # a still exactly: Farneback finds flow between equal frames
    # a loop over pixels; the weight is the length of the true flow, so that what stands still does not count
    pred, gt = moved(1, 1, n=3, size=32), moved(2, -1, n=3, size=32, seed=6)
    total = length = 0.0
    for u, v in zip(flows(pred[0], "rgb").reshape(-1, 2).tolist(), flows(gt[0], "rgb").reshape(-1, 2).tolist(), strict=True):
        total += (u[0] * v[0] + u[1] * v[1]) / np.hypot(*u)
        length += np.hypot(*v)
    assert flow_direction_cosine(pred, gt)[0] == pytest.approx(total / length, rel=1e-5)
    still = moved(0, 0)
    assert np.isnan(flow_direction_cosine(np.concatenate([right, right]), np.concatenate([still, right]))).tolist() == [True, False]
    for metric in (flow_direction_cosine, lambda *clips: moves(clips[0])):
        with pytest.raises(ValueError, match="two frames or more"):
            metric(right[:, :1], right[:, :1])


def test_dynamic_degree():
    assert moves(np.concatenate([moved(0, 0), moved(4, 0), np.zeros_like(moved(0, 0))]), fps=8).tolist() == [False, True, False]
    # the bar is 6 pixels of 256 at 8 frames a second or more, in proportion below: 2.25 of 96 and, at 2, four times that
    clip = moved(3, 0)
    longest = np.sort(np.hypot(*np.moveaxis(flows(clip[0], "rgb"), -1, 0)).reshape(5, -1), 1)[:, -int(0.05 * 96 * 96) :].mean(1)
    bars = {fps: max(1, 8 / fps) * 6 * 96 / 256 for fps in (30, 8, 6, 2)}
    for fps, bar in bars.items():
        assert moves(clip, fps)[0] == ((longest > bar).sum() >= 2), fps  # six frames: round(1.5) is 2
    assert moves(clip, 8)[0] and not moves(clip, 2)[0]
    # one pair that moves is not enough for six frames, two are
    for n_moving, verdict in ((1, False), (2, True)):
        jumps = np.concatenate([moved(4, 0, n=n_moving + 1), moved(4, 0, n=n_moving + 1)[:, -1:].repeat(5 - n_moving, 1)], axis=1)
        assert moves(jumps, 8)[0] == verdict


def test_flow_is_computed_once_for_a_pair(monkeypatch):
    """EPE, the direction and the dynamic degree of one pair of clips share it; what is handed out cannot be changed."""
    from Evaluation_Metrics import EPE

    calls, plain = [], EPE.flow_between
    monkeypatch.setattr(EPE, "flow_between", lambda a, b: calls.append(1) or plain(a, b))
    pred, gt = moved(2, 1, seed=11), moved(1, 0, seed=12)
    first = EPE.epe(pred, gt, "rgb"), flow_direction_cosine(pred, gt), moves(pred), moves(gt)
    assert len(calls) == 10
    np.testing.assert_array_equal(EPE.epe(pred, gt, "rgb"), first[0])
    assert EPE.epe(pred, gt)[0][0] != first[0][0][0] and len(calls) == 20  # another order of the channels
    with pytest.raises(ValueError, match="read-only"):
        EPE.flows(pred[0])[0] = 0
    many = np.concatenate([moved(1, 0, seed=seed) for seed in range(6)])
    other, calls[:] = EPE.epe(many[::-1], many), []
    np.testing.assert_array_equal(EPE.epe(many, many)[0], 0)
    assert calls == []  # those of the truth are kept from one method to the next
    monkeypatch.setattr(EPE, "_RECENT_BYTES", 0)  # of no more than a pair, where there is no room
    EPE._RECENT.clear()
    calls[:] = []
    np.testing.assert_array_equal(EPE.epe(many[::-1], many), other)
    assert len(EPE._RECENT) == 2 and len(calls) == 50  # the two in the middle meet twice
    monkeypatch.setattr(EPE, "_RECENT_BYTES", 3 * EPE.flows(many[0]).nbytes)  # what was asked for last stays longest
    calls[:] = []
    for clip in many[1:]:
        EPE.flows(clip), EPE.flows(many[0])
    assert len(calls) == 25


# ---------------------------------------------------------------------------------------------- models

PREFIX = {"swav": "module."}  # as its authors' file has it


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of the networks, in files as they are published; {kind: (path, model)}."""
    folder, made = tmp_path_factory.mktemp("weights"), {}
    for kind in ("alexnet", "effnet"):
        torch.manual_seed(3)
        model = getattr(torchvision.models, image_nets.NETS[kind].name)().eval()
        state = {
            name: value for name, value in model.state_dict().items() if not name.startswith(("classifier.1.", "classifier.4."))
        }  # large
        torch.save(state, folder / f"{kind}.pth")
        made[kind] = folder / f"{kind}.pth", model
    torch.manual_seed(3)
    model = torchvision.models.resnet50().eval()
    state = {f"module.{name}": value for name, value in model.state_dict().items() if not name.startswith("fc.")}
    torch.save(
        state | {"module.prototypes.weight": torch.zeros(3, 2), "module.projection_head.0.bias": torch.zeros(3)}, folder / "swav.pth.tar"
    )
    made["swav"] = folder / "swav.pth.tar", model
    return made


@pytest.mark.parametrize("kind, layers", [("alexnet", ("features.4", "features.11")), ("effnet", ("avgpool",)), ("swav", ("avgpool",))])
def test_networks_of_torchvision(weights, kind, layers):
    """Against torchvision's own extractor and transforms, frame by frame."""
    from torchvision.models.feature_extraction import create_feature_extractor
    from torchvision.transforms import v2

    path, model = weights[kind]
    clips = made_clips(7, n=2, size=40)[:, :3]
    side = 255 if kind == "effnet" else 224
    see = v2.Compose([
        v2.ToDtype(torch.float32, scale=True), v2.Resize((side, side)), v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    ])  # fmt: skip
    outputs = image_nets.FrameNet(kind, path, batch_size=4).outputs(clips)
    extract = create_feature_extractor(model, list(layers))
    with torch.inference_mode():
        wanted = [[extract(see(torch.from_numpy(frame).permute(2, 0, 1))[None]) for frame in clip] for clip in clips]
    for layer, found in zip(layers, outputs.values(), strict=True):
        np.testing.assert_allclose(found, [np.mean([of[layer].flatten().numpy() for of in clip], axis=0) for clip in wanted], atol=1e-4)


def test_inception_sees_its_own_normalisation(tmp_path):
    net = torchvision.models.inception_v3(init_weights=False, transform_input=True).eval()
    torch.save(net.state_dict(), tmp_path / "inception.pth")
    found = image_nets.FrameNet("inception", tmp_path / "inception.pth").outputs(made_clips(7, n=1, size=40)[:, :1])["features"]
    net.fc = torch.nn.Identity()
    pixels = torch.from_numpy(made_clips(7, n=1, size=40)[0, 0]).permute(2, 0, 1)[None] / 255
    pixels = torch.nn.functional.interpolate(pixels, (342, 342), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        np.testing.assert_allclose(found, net((pixels - mean) / std).numpy(), atol=1e-4)


def test_lpips_by_hand(weights):
    """The sum over five layers of the squared differences of unit features, weighed, averaged over places."""
    pytest.importorskip("lpips")
    path, model = weights["alexnet"]
    pred, gt = made_clips(8, n=2, size=64)[:, :2], made_clips(9, n=2, size=64)[:, :2]
    pairs = image_nets.LpipsPairs(path, batch_size=3)
    weigh = [getattr(pairs.model, f"lin{i}").model[-1].weight for i in range(5)]
    mean, std = (torch.tensor(v)[:, None, None] for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))

    def layers(frame):
        x, found = ((torch.from_numpy(frame).permute(2, 0, 1) / 127.5 - 1 - mean) / std)[None], []
        for i, module in enumerate(model.features[:12]):
            x = module(x)
            if i in (1, 4, 7, 9, 11):
                found.append((x / x.pow(2).sum(1, keepdim=True).sqrt().clamp_min(1e-10)).clone())
        return found

    with torch.inference_mode():
        of = [[sum((w * (a - b) ** 2).sum(1).mean() for w, a, b in zip(weigh, layers(x), layers(y), strict=True)) for x, y in zip(*clip, strict=True)]
              for clip in zip(pred, gt, strict=True)]  # fmt: skip
    np.testing.assert_allclose(pairs.of_pairs(pred, gt)["features"], np.mean(of, axis=1), rtol=1e-4)
    assert pairs.of_pairs(gt, gt)["features"].tolist() == [0, 0]
    assert np.isfinite(pairs.of_pairs(pred[:, :, :31, :31], gt[:, :, :31, :31])["features"]).all()
    with pytest.raises(UserError, match=r"at least 31 x 31 pixels, got \(64, 30\)"):
        pairs.of_pairs(pred[:, :, :, :30], gt[:, :, :, :30])


@pytest.mark.parametrize(
    "kind, content, says",
    [
        (
            "effnet",
            "alexnet",
            r"--effnet_path .*alexnet.pth does not fit EfficientNet.*missing.*unexpected \(features.0.weight|--effnet_path",
        ),
        ("alexnet", {"features.0.weight": torch.zeros(64, 3, 11, 11)}, "--alexnet_path .*does not fit AlexNet.*9 missing"),
        ("swav", b"nothing", "is broken or not a PyTorch file"),
        ("inception", None, "file not found"),
        ("alexnet", "folder", "is a folder; give the file of weights itself"),
    ],
)
def test_weights_that_do_not_fit(weights, tmp_path, kind, content, says):
    path = tmp_path / "w.pth"
    if content in ("alexnet", "folder"):
        path = weights["alexnet"][0] if content == "alexnet" else tmp_path
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        torch.save(content, path)
    with pytest.raises(UserError, match=says) as caught:
        image_nets.FrameNet(kind, path)
    assert "\n" not in str(caught.value)


def test_dino(tmp_path):
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    model = Dinov2Model(Dinov2Config(**small)).eval()
    size = {"do_resize": True, "size": {"height": 28, "width": 28}, "do_center_crop": False}
    for folder, of in (("dino", model), ("vit", ViTModel(ViTConfig(**small)))):
        of.save_pretrained(tmp_path / folder)
        BitImageProcessor(**size).save_pretrained(tmp_path / folder)
    clips = made_clips(2, n=2, size=28)[:, :3]
    found = towers.load_dino(tmp_path / "dino", batch_size=4)(clips)
    mean, std = np.array(BitImageProcessor().image_mean), np.array(BitImageProcessor().image_std)
    pixels = torch.from_numpy(((clips / 255 - mean) / std).astype(np.float32)).flatten(0, 1).permute(0, 3, 1, 2)
    with torch.inference_mode():
        np.testing.assert_allclose(found.reshape(6, 16), model(pixels).last_hidden_state[:, 0].numpy(), atol=1e-4)
    with pytest.raises(UserError, match="--dino_path .*vit is a model of the kind vit; give DINOv2"):
        towers.load_dino(tmp_path / "vit")


# ---------------------------------------------------------------------------------------------- in one run


def call(script, *argv):
    script.main(cli.parse(script.get_parser, list(map(str, argv)), script.__name__))


def test_one_run_has_every_column(house, tiny_models, weights, capsys):  # noqa: F811
    flags = ["--protocol", "correct", "--alexnet_path", weights["alexnet"][0], "--dino_path", tiny_models / "clip", "--clips", "1-5"]
    run(evaluate, *flags)
    printed, out = capsys.readouterr().out, house / "metrics/sub1/full/correct"
    gt, pred = made_clips(0)[:5], degrade(made_clips(0), 1)[:5]
    values, result = np.load(out / "per_clip.npz"), read_json(out / "metrics.json")
    np.testing.assert_allclose(values["PixCorr"], pix_corr(pred, gt))
    np.testing.assert_allclose(values["flow-cosine"], flow_direction_cosine(pred, gt), equal_nan=True)
    energy = motion_energy_correlation(pred, gt)
    np.testing.assert_allclose([values["motion-static"], values["motion-moving"]], [energy["static"], energy["moving"]], equal_nan=True)
    np.testing.assert_allclose(values["dynamic-degree-gap"], moves(pred).astype(float) - moves(gt))
    clip, net = towers.ClipTower(tiny_models / "clip"), image_nets.FrameNet("alexnet", weights["alexnet"][0])
    features = [clip(side).astype(np.float64) for side in (pred, gt)]
    np.testing.assert_allclose(values["id-CLIP"], identify(*(side.mean(1) for side in features)))
    layer = [net.outputs(side)["layer5"] for side in (pred, gt)]
    np.testing.assert_allclose(values["id-AlexNet5"], two_way_identification(*layer), atol=0.26)  # float32 features of other batches
    tokens = [towers.ClipClassifier(tiny_models / "clip_classifier").outputs(side)["token"] for side in (pred, gt)]
    np.testing.assert_allclose(values["id-VideoMAE"], identify(*tokens))
    rows = result["rows"]
    assert rows["true clips"]["DINO-consistency"]["mean"] == pytest.approx(
        temporal_consistency.temporal_consistency(features[1]).mean(), abs=1e-5
    )
    assert rows["true clips"]["dynamic-degree"]["mean"] == moves(gt).mean() and rows["black"]["DINO-consistency"]["mean"] == pytest.approx(
        1
    )
    assert rows["full"]["id-CLIP"]["low"] <= rows["full"]["id-CLIP"]["mean"] <= rows["full"]["id-CLIP"]["high"]
    assert result["protocol_version"] == "1.1" and not any("of the truth" in name for name in [*result["columns"], *values])
    assert result["not_scored"]["EffNet-distance"] == "no --effnet_path" and result["not_scored"]["id-CLIP-L"] == "no --clip_large_path"
    assert (
        "id-CLIP: " in printed
        and "chance 0.500" in printed
        and "a still 1.000" in printed
        and "The CLIP of --clip_path stands in" in printed
    )
    assert "| true clips |" in (out / "table.md").read_text()
    # beside another method, in the same tables
    save_recons(house / "recons/sub1/other/results_recons", gt)
    run(evaluate, *flags, "--name", "other", "--baselines", "none")
    both = out, house / "metrics/sub1/other/correct"
    tables = "--dataset", "phantom", "--protocol", "correct", "--names", "full", "other"
    call(compare, *both, "--out", "compared", "--metrics", "SSIM", "--n_clips", 1)
    call(paper_tables, *tables, "--columns", "id-CLIP", "motion-moving", "dynamic-degree-gap")
    table = (house / "metrics/tables_correct/main.md").read_text()
    assert "id-CLIP" in table and "| true clips |" in table
    # results of another major version are refused, of another minor one taken
    facts = read_json(both[1] / "metrics.json")
    for version, refused in (("1.9", False), ("2.0", True)):
        write_json(both[1] / "metrics.json", facts | {"protocol_version": version})
        for script, argv in ((compare, [*both, "--metrics", "SSIM", "--n_clips", 1]), (paper_tables, tables)):
            with pytest.raises(UserError, match="version") if refused else nullcontext():
                call(script, *argv, "--out", "again")


def test_one_clip_and_clips_without_a_value(house, capsys):  # noqa: F811
    """One clip has no identification, the others of its metrics are there; still truths and flat frames are counted and named."""
    clips = made_clips(0)
    clips[1], clips[2, 3] = clips[1, :1], 120
    np.save(house / "features/test_groundtruth.npy", clips)
    run(evaluate, "--protocol", "correct", "--clips", "1", "--baselines", "none", "--out", "one")
    assert "id-CLIP: – (1 clip, and 2 are needed)" in capsys.readouterr().out
    run(evaluate, "--protocol", "correct", "--baselines", "none")
    printed = capsys.readouterr().out
    for column, clip in (("flow-cosine", 2), ("motion-moving", 2), ("PixCorr", 3)):
        assert any(line.startswith(f"{column}: undefined for") and str(clip) in line for line in printed.splitlines()), column


def test_a_metric_is_one_file_and_its_row(tmp_path, monkeypatch):
    """What CONTRIBUTING.md says of a new metric."""
    (tmp_path / "brightness.py").write_text(
        "from Evaluation_Metrics import per_clip\n"
        "def brightness_gap(pred, gt): return abs(pred.mean((1, 2, 3, 4)) - gt.mean((1, 2, 3, 4)))\n"
        "def metric(columns): return per_clip.Metric(tuple(columns), brightness_gap, still={columns[0]: 0.0})\n"
    )
    monkeypatch.setattr(Evaluation_Metrics, "__path__", [*Evaluation_Metrics.__path__, str(tmp_path)])
    row = {"metric": "brightness", "columns": ["brightness-gap"], "better": "lower"}
    monkeypatch.setitem(results.PROTOCOLS, "correct", results.PROTOCOLS["correct"] | {"metrics": [row]})
    (made,) = protocols.protocol_metrics("correct", datasets.PHANTOM)
    dark = np.zeros((3, 8, 4, 4, 3), np.uint8)
    assert made.values(dark, dark + np.uint8(10))["brightness-gap"].tolist() == [10, 10, 10]
    assert results._columns("lower") >= {"brightness-gap", "EPE"} and "SSIM" not in results.LOWER_IS_BETTER


@pytest.mark.parametrize("protocol, size", [("neurons", 48), ("cinebrain", 48)])
def test_protocols_of_others(house, tmp_path, protocol, size):  # noqa: F811
    """Six of eight frames; 33 frames, of which VideoMAE sees 32."""
    n_frames = {"neurons": 8, "cinebrain": 33}[protocol]
    gt = np.stack([clip[np.arange(n_frames) % 8] for clip in made_clips(0, n=3)])
    pred = degrade(gt, 2)
    np.save(tmp_path / "gt.npy", gt)
    save_recons(tmp_path / "recons", pred)
    flags = [
        "--recons_dir", tmp_path / "recons", "--gt", tmp_path / "gt.npy", "--layout", "ours", "--baselines", "none", "--out",
        tmp_path / "out",
    ]  # fmt: skip
    run(
        evaluate, "--protocol", protocol, *flags,
        *(["--clip_large_path", datasets.DATASETS["phantom"].models["clip"]] if protocol == "neurons" else []),
    )  # fmt: skip
    values = np.load(tmp_path / "out/per_clip.npz")
    if protocol == "neurons":
        pred, gt = pred[:, [0, 1, 3, 4, 5, 7]], gt[:, [0, 1, 3, 4, 5, 7]]
        features = towers.ClipTower(datasets.DATASETS["phantom"].models["clip"])(pred)
        np.testing.assert_allclose(values["CLIP-pcc"], clip_pcc(features, threshold=None, every_pair=True), atol=1e-5)
    np.testing.assert_allclose(values["SSIM"], ssim(pred, gt, mode="columns" if protocol == "neurons" else "rgb"))
    np.testing.assert_allclose(values["2-way-V"] * 100, (values["2-way-V"] * 100).round(), atol=1e-9)


@pytest.mark.parametrize("script, says", [("identification", "one of --clip_path"), ("feature_distance", "--effnet_path or --swav_path")])
def test_scripts_without_a_model(house, monkeypatch, capsys, script, says):  # noqa: F811
    monkeypatch.setitem(datasets.DATASETS, "phantom", replace(datasets.PHANTOM, models={}, config=""))
    assert says in error_of(capsys, load_script(f"Evaluation_Metrics/{script}.py"), "--dataset", "phantom")
    assert "DINO-consistency cannot be computed: no --dino_path" in error_of(capsys, temporal_consistency, "--dataset", "phantom")


def test_a_model_that_answers_with_nan_is_named(house, tiny_models, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(towers.ClipTower, "__call__", lambda self, clips: np.full((*clips.shape[:2], 4), np.nan, np.float32))
    said = error_of(capsys, identification, "--dataset", "phantom", "--workers", "1", "--clip_path", tiny_models / "clip")
    assert "clip 1: the clip model answers with NaN (gt); check the model" in said


def test_claims_of_the_phantom_can_miss():
    noise = np.random.default_rng(1).normal(0, 0.1, (3, 100))
    noise -= noise.mean(1, keepdims=True)
    level = {"oracle": 0.9, "full": 0.7, "control": 0.5}
    identified = {arm: level[arm] + noise[i] for i, arm in enumerate(level)}
    moving = {arm: values - 0.5 for arm, values in identified.items()}
    motions = np.arange(100) % 8
    alike = np.cos(np.subtract.outer(motions // 2, motions // 2) * np.pi / 2)  # four directions, two speeds each
    arbitrary = alike[np.random.default_rng(3).permutation(8)[motions]]  # what an arbitrary map of the motions scores
    assert [row["held"] for row in checks.neighbours(identified, moving, arbitrary, motions)] == [True, True, True, True, True]
    swapped = identified | {"full": identified["control"], "control": identified["full"]}
    leaking = arbitrary + 2 * alike
    assert [row["held"] for row in checks.neighbours(swapped, moving, leaking, motions)] == [False, True, False, True, False]
    fewer = {arm: values[:80] for arm, values in moving.items()}
    assert checks.neighbours(swapped, fewer, leaking[:80, :80], motions[:80] // 2)[4]["held"] is None  # four motions tell nothing
    off = moving | {"control": moving["control"] + 0.15}
    assert [row["held"] for row in checks.neighbours(identified, off, arbitrary, motions)] == [True, True, True, False, True]
    row = checks.neighbours(identified, moving, arbitrary, motions)[0]
    steps = [(identified[a] - identified[b]) for a, b in (("oracle", "full"), ("full", "control"))]
    assert row["margin"] == pytest.approx(min(step.mean() / (step.std(ddof=1) / 10) for step in steps))
    assert checks.neighbours({"full": noise[0]}, moving, arbitrary, motions) == []
    static = {"still": 0.6 + noise[0], "control": 0.3 + noise[1]}
    assert [row["held"] for row in checks.still_energy(static, {"full": 0.3 + noise[0], "still": np.zeros(100)})] == [True, True]
    assert [row["held"] for row in checks.still_energy(static | {"control": 0.6 + noise[2]}, {"full": noise[0], "still": 0 * noise[0]})] == [
        False, False,
    ]  # fmt: skip


def test_error_over_groups_of_equal_clips_is_that_over_groups():
    eight = np.random.default_rng(2).normal(size=8)
    assert checks.cluster_error(np.repeat(eight, 10), np.repeat(np.arange(8), 10)) == pytest.approx(eight.std(ddof=1) / np.sqrt(8))


def test_a_controls_motion_is_compared_with_all_assignments():
    """By hand: three motions of one, two and one clips, so that of six assignments each has its score and none is drawn."""
    pairs = np.array([[9.0, 1, 1, 2], [3, 5, 5, 4], [3, 5, 5, 4], [6, 7, 7, 8]])
    of = np.array([[9.0, 1, 2], [3, 5, 4], [6, 7, 8]])
    scores = [(of[0, a] + 2 * of[1, b] + of[2, c]) / 4 for a, b, c in itertools.permutations(range(3))]
    mean, spread, p = checks.over_assignments(pairs, ["b", "c", "c", "d"])
    assert (mean, spread) == (pytest.approx(np.mean(scores)), pytest.approx(np.std(scores)))
    as_far = sum(abs(score - np.mean(scores)) >= (9 + 5 + 5 + 8) / 4 - np.mean(scores) - 1e-12 for score in scores)
    assert p == pytest.approx((as_far + 1) / 7)


def test_arbitrary_maps_of_motions_pass_and_leaks_do_not():
    """Of 16 arbitrary maps one at most is taken for a leak, and no leak of twice their size for chance."""
    rng, motions = np.random.default_rng(0), np.arange(40) % 8
    alike = np.cos(np.subtract.outer(motions // 2, motions // 2) * np.pi / 2)
    maps = [alike[rng.permutation(8)[motions]] + rng.normal(0, 0.1, (40, 40)) for _ in range(16)]
    p = [checks.over_assignments(scores, motions)[2] for scores in maps]
    assert sum(value < checks.P_OF_3_SE for value in p) <= 1 and 0.2 < np.median(p) < 0.8
    assert max(checks.over_assignments(scores + 2 * alike, motions)[2] for scores in maps) < checks.P_OF_3_SE


def test_claims_of_the_brains_side_can_miss():
    names = {"full": "full_seed1", "control": "control_seed1", "oracle": "oracle_seed1"}

    def of(step):
        steps = {"oracle_seed1 - full_seed1": step, "full_seed1 - control_seed1": 0.3}
        scores = {name: {"value": 0.5 * (name != "control_seed1"), "se": 0.02} for name in (*names.values(), "true clips")}
        return {"scores": scores, "differences": {name: {"value": value, "se": 0.01} for name, value in steps.items()}}

    def lead(values):
        return {f"{a} - {b}": {"value": values[a] - values[b], "se": 0.1} for a in values for b in values if a != b}

    areas = {
        "V1": {"clip": 0.1, "motion": 0.2, "latents": 0.7},
        "V2": {"clip": 0.1, "motion": 0.4, "latents": 0.6},
        "MT": {"clip": 0, "motion": 0.9},
    }
    facts = {"clips": 120, "alone": of(0.04), "of_bands": areas, "band_differences": {area: lead(values) for area, values in areas.items()}}
    rows = checks.brain_side(facts | of(-0.04), names)
    assert [(row["claim"], row["held"]) for row in rows] == [
        ("brain-side score", None), ("brain-side score", True), ("brain-side score", True), ("bands", False), ("bands", True),
    ]  # fmt: skip
    assert rows[1]["margin"] == pytest.approx(1) and (rows[3]["value"], rows[3]["control"], rows[3]["margin"]) == pytest.approx(
        (0.6, 0.4, -1)
    )
    off = of(0.04)
    off["scores"]["control_seed1"]["value"] = 0.07
    assert not checks.brain_side(facts | of(0.04) | {"alone": off}, names)[2]["held"]
    assert not checks.brain_side(facts | of(0.04) | {"alone": of(0.029)}, names)[1]["held"]
