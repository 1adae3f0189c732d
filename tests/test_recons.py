"""Reconstruction on a made data set with tiny random models of the real classes: six clips of 32 x 32 pixels."""

import contextlib
import itertools
import json
import logging
import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from tiny import error_of, run_script
from transformers import CLIPTextModel, CLIPTokenizer

from common import cli, datasets
from common.captions import write_captions
from common.cortex import N_CORTEX
from common.files import UserError, read_json, save_array, sha256
from common.fmri import scale, statistics
from common.layout import Layout
from common.randomness import torch_generator
from common.released import ReleasedTree
from common.video import write_mp4
from Evaluation_Metrics import evaluate
from Evaluation_Metrics.results import read_per_clip
from models.checkpoints import TRAINING_STATE, save_checkpoint, statistics_path
from models.cmg import ConsistencyMotionGenerator
from models.cmg_patch import PatchCMG
from models.decoding import load_decoder
from models.inflated_sd import inflate_unet
from models.pipeline import encode_prompts
from models.released import find_checkpoint
from models.semantic_decoder import SemanticDecoder
from models.structure_decoder import StructureDecoder
from Reconstruction import outputs as reconstructions
from Reconstruction import video_recons
from Reconstruction.sources import CaptionRanker
from Reconstruction.stage1_arrays import load_stage1
from Reconstruction.stage2 import PRESETS, load_pipeline, render_batches

VERTICES, TOKENS, WIDTH, EMBEDDING = 20, 5, 12, 24
LATENT, SIZE, FRAMES = (4, 8, 8), 32, 8
TINY = replace(
    datasets.PHANTOM, frame_size=SIZE, n_vertices=VERTICES, n_train_runs=1, clips_per_train_run=5, n_train=5, clips_per_test_run=3, n_test=6,
    config="",
)  # fmt: skip
CAPTIONS = ["a red circle", "a <b>blue</b> star", "a red circle", "a green square", "a white star", "a pink circle"]
STEPS = ("--steps", "3", "--guidance", "2")
ALPHAS = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


# ---------------------------------------------------------------------------------------------- the made world


def make_decoders(n_vertices=VERTICES, token_dim=WIDTH):
    torch.manual_seed(1)
    return {
        "semantic": SemanticDecoder(n_vertices, EMBEDDING, 1, TOKENS - 1, token_dim, (16, 16)).eval(),
        "structure": StructureDecoder(n_vertices, 16, 1, LATENT).eval(),
        "CMG": ConsistencyMotionGenerator(n_vertices, math.prod(LATENT), 1, 4, 16, 16, 16).eval(),
    }


def random_clips(n):
    return np.random.default_rng(3).integers(0, 4, (n, FRAMES, SIZE, SIZE, 3)).astype(np.uint8) * 80


@pytest.fixture(scope="module")
def world(tmp_path_factory, models):
    """Stable Diffusion, checkpoints, fMRI and features; outputs go elsewhere."""
    root = tmp_path_factory.mktemp("world")
    (root / "sd").symlink_to(models[0])
    layout, rng = Layout(root / "out" / "phantom"), np.random.default_rng(0)
    card = {"rows": "clips", "units": "none", "made_by": "test"}
    save_array(layout.masked_fmri(1, "test", VERTICES), rng.standard_normal((6, VERTICES)).astype(np.float32), **card)
    save_array(layout.ground_truth, random_clips(6), **card)
    save_array(layout.contents("train"), rng.standard_normal((5, 4, FRAMES, 8, 8)).astype(np.float32), **card)
    save_array(layout.text_embeddings_clip("test"), rng.standard_normal((6, EMBEDDING)).astype(np.float32)[[0, 1, 0, 3, 4, 5]], **card)
    write_captions(layout.captions("test"), "test", CAPTIONS)
    for decoder, model in make_decoders().items():
        save_checkpoint(layout.checkpoints(1, "full", decoder) / "last.safetensors", model, epoch=3, subject=1, dataset="phantom")
    return root


@pytest.fixture(autouse=True)
def tiny_dataset(monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "phantom", TINY)
    torch.set_num_threads(1)


def parse(*flags):
    return cli.parse(video_recons.get_parser, list(map(str, flags)), "Reconstruction/video_recons")


def run(world, out, *flags, steps=STEPS):
    """Run the script; `out` is the folder of the reconstruction."""
    video_recons.main(parse("--dataset", "phantom", "--out_root", world / "out", "--sd_path", world / "sd", "--out", out, *steps, *flags))
    return out


def frames_of(out, clip, folder="results_recons"):
    with np.load(out / folder / f"test{clip}.npz") as content:
        return content["frames"]


def all_frames(out, clips=range(1, 7), folder="results_recons"):
    return np.stack([frames_of(out, clip, folder) for clip in clips]).astype(int)


def contents(out):
    """Bytes of the clips' files."""
    folders = ("results_recons", "results_recons_with_gt", "strips", "stage1")
    return {path.relative_to(out): path.read_bytes() for folder in folders for path in sorted((out / folder).rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def full(world, tmp_path_factory):
    """An uninterrupted run over all clips with what came before stage 2."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.DATASETS, "phantom", TINY)
        return run(world, tmp_path_factory.mktemp("full"), "--batch_size", "4", "--save_stage1")


# ---------------------------------------------------------------------------------------------- the recipe, written out


def greedy_frames(cmg, fmri, first, visibility):
    """The CMG's loop without any cache: the whole sequence again for every frame."""
    frames = [first.flatten(1)]
    for n in range(1, FRAMES):
        mask = torch.tril(torch.ones(1, n, n, dtype=torch.bool))
        if visibility == "released":
            mask[:, 2:, 1:] = False
        frames.append(cmg(fmri, torch.stack(frames, 1), mask)[:, -1])
    return torch.stack(frames, 1).unflatten(-1, LATENT).transpose(1, 2)  # b c f h w


@torch.no_grad()
def recipe(
    world, clip, *, invert=True, start=999, shared=False, visibility="released", ablate=None, n_steps=3, guidance=2, seed=42, up=None, guided=(),
):  # fmt: skip
    """Frames of one clip before and after stage 2, by the formulas, (F, H, W, 3) in 0...255."""
    sd, decoders = world / "sd", make_decoders()
    unet = inflate_unet(UNet2DConditionModel.from_pretrained(sd / "unet")).eval()
    vae = AutoencoderKL.from_pretrained(sd / "vae").eval()
    encoder, tokenizer = CLIPTextModel.from_pretrained(sd / "text_encoder").eval(), CLIPTokenizer.from_pretrained(sd / "tokenizer")
    layout = Layout(world / "out" / "phantom")
    fmri = torch.from_numpy(np.load(layout.masked_fmri(1, "test", VERTICES))[[clip - 1]])

    def encode(prompt, length):
        return encoder(torch.tensor([tokenizer(prompt, padding="max_length", max_length=length, truncation=True).input_ids]))[0]

    def decode(latents):
        pictures = [vae.decode(latents[:, :, f] / 0.18215).sample[0] for f in range(FRAMES)]
        return torch.stack([(picture / 2 + 0.5).clamp(0, 1) * 255 for picture in pictures]).permute(0, 2, 3, 1).numpy()

    first = decoders["structure"](fmri)
    if ablate == "structure":
        first = torch.from_numpy(np.load(layout.contents("train"))[:, :, 0].mean(0))[None]
    x = greedy_frames(decoders["CMG"], fmri, first, visibility)
    if ablate == "motion":
        x = torch.stack([first] * FRAMES, dim=2)
    before = decode(x)
    tokens = decoders["semantic"](fmri)[1]
    prompt = torch.cat([encoder(torch.tensor([[tokenizer.bos_token_id]]))[0], tokens], 1)
    if ablate == "semantic":
        prompt = encode("", TOKENS)
    negative = encode("Not like the real scene, Distorted and blurred body, blurry,bad proportions,out of frame,disfigured", TOKENS)
    spacing = 1000 // n_steps
    grid = [t for t in (k * spacing + 1 for k in range(n_steps)) if t <= start]
    alpha = {t: ALPHAS[t] for t in grid} | {t - spacing: ALPHAS[max(t - spacing, 0)] for t in grid}
    below = ALPHAS[0]
    for t in (up or grid) if invert else ():
        noise = unet(x.float(), t, encode("", 77)).sample
        clean = (x - (1 - below) ** 0.5 * noise) / below**0.5
        x, below = alpha[t] ** 0.5 * clean + (1 - alpha[t]) ** 0.5 * noise, alpha[t]
    added = torch.randn(4, 1 if shared else FRAMES, 8, 8, generator=torch_generator(seed, "noise", clip))
    x = ALPHAS[200] ** 0.5 * x + (1 - ALPHAS[200]) ** 0.5 * added
    for t in grid[::-1]:
        without, with_prompt = unet(x.float(), t, negative).sample, unet(x.float(), t, prompt).sample
        noise = without + guidance * (with_prompt - without) if t in (guided or grid) else with_prompt
        clean = (x - (1 - alpha[t]) ** 0.5 * noise) / alpha[t] ** 0.5
        x = alpha[t - spacing] ** 0.5 * clean + (1 - alpha[t - spacing]) ** 0.5 * noise
    return before, decode(x.float())


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ([], {}),
        (["--no_inversion", "--noise_shared", "--seed", "7", "--train_seed", "42"], {"invert": False, "shared": True, "seed": 7}),
        (["--start_timestep", "400", "--visibility", "causal"], {"start": 400, "visibility": "causal"}),
        (["--inversion_steps", "2", "--guidance_interval", "300", "500"], {"up": [1, 667], "guided": [334]}),
        (["--ablate", "semantic"], {"ablate": "semantic"}),
        (["--ablate", "structure"], {"ablate": "structure"}),
        (["--ablate", "motion"], {"ablate": "motion"}),
    ],
)
def test_frames_follow_the_recipe(world, tmp_path, flags, options):
    run(world, tmp_path, "--clips", "2", "--save_stage1", *flags)
    before, after = recipe(world, 2, **options)
    assert after.std() > 5  # there is something to compare
    assert np.abs(frames_of(tmp_path, 2) - np.round(after)).max() <= 1
    assert np.abs(frames_of(tmp_path, 2, "stage1") - np.round(before)).max() <= 1


# ---------------------------------------------------------------------------------------------- the files


def read_gif(path):
    """Frames and milliseconds of a GIF."""
    with Image.open(path) as picture:
        frames, times = [], []
        for index in range(picture.n_frames):
            picture.seek(index)
            frames.append(np.asarray(picture.convert("RGB")))
            times.append(picture.info["duration"])
        return np.stack(frames), times, picture.info.get("loop")


def test_files_of_a_clip(full, tmp_path):
    names = {path.name for folder in ("results_recons", "results_recons_with_gt", "stage1", "strips") for path in (full / folder).iterdir()}
    made = {name for i in range(1, 7) for name in (f"test{i}.gif", f"test{i}.npz", f"test_and_gt{i}.gif", f"test{i}.png")}
    assert names == made | {"SHA256SUMS"}
    frames = frames_of(full, 2)
    assert frames.shape == (FRAMES, SIZE, SIZE, 3) and frames.dtype == np.uint8
    gif, times, loop = read_gif(full / "results_recons" / "test2.gif")
    assert gif.shape == frames.shape and times == [120] * FRAMES and loop == 0
    assert np.abs(gif.astype(int) - frames).mean() < 8  # 256 colours
    pair, times, _ = read_gif(full / "results_recons_with_gt" / "test_and_gt2.gif")
    assert pair.shape == (FRAMES, SIZE, 2 * SIZE, 3) and times == [120] * FRAMES
    assert np.abs(pair[:, :, :SIZE].astype(int) - random_clips(6)[1]).mean() < 8
    assert np.abs(pair[:, :, SIZE:].astype(int) - frames).mean() < 8
    strip = np.asarray(Image.open(full / "strips" / "test2.png"))
    cell = SIZE + 1  # a transparent gap
    assert strip.shape == (2 * cell, FRAMES * cell, 4) and not strip[SIZE, :, 3].any() and not strip[:, SIZE, 3].any()
    assert np.array_equal(strip[:SIZE, cell : cell + SIZE, :3], random_clips(6)[1, 1])
    assert np.array_equal(strip[cell:-1, -cell:-1, :3], frames[-1])
    few = np.random.default_rng(0).integers(0, 256, (200, 3), dtype=np.uint8)
    still = np.repeat(np.resize(few, (1, SIZE, SIZE, 3)), FRAMES, axis=0)  # PIL's own saving would keep one of its frames
    (tmp_path / "still.gif").write_bytes(reconstructions.gif_bytes(still))
    gif, times, _ = read_gif(tmp_path / "still.gif")
    assert len(gif) == FRAMES and times == [120] * FRAMES and np.array_equal(gif, still)  # 200 colours fit a palette
    (i, j), errors = np.indices((64, 64)), []
    smooth = np.stack([4 * i, 4 * j, 2 * (i + j)], axis=-1).astype(np.uint8)[None]  # 4096 colours
    for frame in (smooth, smooth // 4):  # the palette of a dark frame is as fine as that of a bright one, for its range
        (tmp_path / "one.gif").write_bytes(reconstructions.gif_bytes(frame))
        errors.append(np.abs(read_gif(tmp_path / "one.gif")[0].astype(int) - frame).mean())
    assert errors[1] < errors[0] / 3 < 8


def check_sums(folder):
    """What sha256sum says of a folder."""
    return subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)


def test_checksums(full, tmp_path):
    for name, n in (("results_recons", 12), ("results_recons_with_gt", 6), ("stage1", 6)):
        assert len((full / name / "SHA256SUMS").read_text().splitlines()) == n
        assert check_sums(full / name).returncode == 0
    out = shutil.copytree(full / "results_recons", tmp_path / "copy")
    path = out / "test2.gif"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert "test2.gif: FAILED" in check_sums(out).stdout


def test_other_formats(world, full, tmp_path):
    run(world, tmp_path, "--format", "png", "mp4", "--clips", "2")
    pictures = np.stack([np.asarray(Image.open(tmp_path / "results_recons" / "test2" / f"{i}.png")) for i in range(FRAMES)])
    assert np.abs(pictures.astype(int) - frames_of(full, 2)).max() <= 1
    assert (tmp_path / "results_recons" / "test2.mp4").stat().st_size > 0
    assert not (tmp_path / "results_recons" / "test2.npz").exists()
    run(world, tmp_path, "--format", "npz", "--clips", "2")  # adds to what is there
    sums = (tmp_path / "results_recons" / "SHA256SUMS").read_text()
    assert len(sums.splitlines()) == FRAMES + 2 and "  test2/7.png\n" in sums and check_sums(tmp_path / "results_recons").returncode == 0


def test_manifest(world, full):
    manifest = json.loads((full / "manifest.json").read_text())
    assert manifest["phantom"] and manifest["seed"] == 42 and manifest["settings"]["guidance"] == 2
    path = Layout(world / "out" / "phantom").checkpoints(1, "full", "CMG") / "last.safetensors"
    assert manifest["checkpoints"]["CMG"] == {"file": path.as_posix(), "sha256": sha256(path), "epoch": 3}
    assert "stable_diffusion/unet/diffusion_pytorch_model.safetensors" in manifest["checkpoints"] and manifest["versions"]["diffusers"]
    assert list(manifest["clips"]) == [str(i) for i in range(1, 7)]
    assert len({clip["seed"] for clip in manifest["clips"].values()}) == 6
    assert all(clip["seconds"] > 0 for clip in manifest["clips"].values())
    assert json.loads((full / "metrics.json").read_text())["clips"] == 6


# ---------------------------------------------------------------------------------------------- batches, shares, seeds


def test_batch_size_and_choice_of_clips_change_nothing(world, full, tmp_path):
    run(world, tmp_path, "--clips", "2,5-6", "--batch_size", "1")
    assert np.abs(all_frames(tmp_path, (2, 5, 6)) - all_frames(full, (2, 5, 6))).max() <= 1
    assert sorted(path.name for path in (tmp_path / "results_recons").glob("*.npz")) == ["test2.npz", "test5.npz", "test6.npz"]


def test_memory_flags_change_nothing(world, full, tmp_path):
    run(world, tmp_path, "--clips", "1-2", "--channels_last", "--vae_slicing", "--attention_slicing")
    assert np.abs(all_frames(tmp_path, (1, 2)) - all_frames(full, (1, 2))).max() <= 1


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_gives_the_frames_of_fp32(world, full, tmp_path, precision):
    run(world, tmp_path, "--clips", "1", "--precision", precision, "--format", "npz")
    error = frames_of(tmp_path, 1).astype(float) - frames_of(full, 1)
    assert 0 < (error**2).mean() ** 0.5 < 8  # of 255


def test_a_preset_sets_its_group_and_what_comes_later_overrules_it(world, tmp_path):
    names = ("scheduler", "steps", "inversion_steps", "guidance_interval", "deep_every", "guidance", "no_inversion")
    paper = dict(zip(names, ("ddim", 50, None, None, 1, 12.5, False), strict=True))
    given = ("--preset", "paper", "--guidance", "3"), ("--no_inversion", "--guidance", "3", "--preset", "fast", "--steps", "30"), ()
    found = [{name: getattr(parse(*flags), name) for name in names} for flags in given]
    assert found[0] == paper | {"guidance": 3} and found[2] == paper
    assert found[1] == paper | PRESETS["fast"] | {"steps": 30}
    run(world, tmp_path, "--clips", "1", steps=("--preset", "fast", "--steps", "3", "--inversion_steps", "2", "--deep_every", "2"))
    settings = json.loads((tmp_path / "manifest.json").read_text())["settings"]
    assert settings["inversion_steps"] == 2 and settings["deep_every"] == 2 and "preset" not in settings
    with pytest.raises(UserError, match="other settings .*deep_every 2 -> 3"):
        run(world, tmp_path, "--clips", "1", steps=("--preset", "fast", "--steps", "3", "--inversion_steps", "2", "--deep_every", "3"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--inversion_steps", "4"], "4 steps of inversion are more than the 3 that are used; use at most 3"),
        (["--guidance_interval", "400", "500"], "none of the 3 steps lies in the guidance interval from 400 to 500"),
    ],
)
def test_steps_that_the_grid_does_not_have(world, tmp_path, flags, words):
    with pytest.raises(UserError, match=words):
        run(world, tmp_path, *flags)


def share_of_two(world, out):
    from accelerate import PartialState

    PartialState._reset_state()  # the parent's, which the fork took along
    run(world, out, "--batch_size", "2")
    rank = PartialState().process_index
    (out / f"rank{rank}").write_text(str(PartialState().num_processes))


def test_two_processes_equal_one(world, full, tmp_path):
    from accelerate import debug_launcher

    debug_launcher(share_of_two, (world, tmp_path), num_processes=2)
    assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == ["2", "2"]
    assert np.abs(all_frames(tmp_path) - all_frames(full)).max() <= 1
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert len(manifest["clips"]) == 6 and (tmp_path / "metrics.json").exists() and (tmp_path / "gallery.html").exists()


def test_samples_are_of_other_noises_and_scored_by_their_mean(world, full, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "draw_distributions", lambda *_: None)  # takes longer than the scores
    out = tmp_path / "several"
    run(world, out, "--n_samples", "3", "--batch_size", "2", "--clips", "1-3")
    frames = [np.load(out / of / "test1.npz")["frames"] for of in ("results_recons", "samples/2", "samples/3")]
    np.testing.assert_array_equal(frames[0], np.load(full / "results_recons" / "test1.npz")["frames"])  # the first is what it was
    assert all((a != b).any() for a, b in itertools.combinations(frames, 2))
    truth = world / "out/phantom/features/test_groundtruth.npy"
    given = ["--dataset", "phantom", "--gt", truth, "--baselines", "none", "--clips", "1-3", "--cache", tmp_path / "cache", "--recons_dir"]
    scores = {}
    for folder in ("results_recons", "samples/2", "samples/3"):
        run_script(evaluate, *given, out / folder, "--out", tmp_path / folder)
        scores[folder] = read_per_clip(tmp_path / folder / "per_clip.npz")[1]["SSIM"]
    given.append(out / "results_recons")
    run_script(evaluate, *given, "--out", tmp_path / "mean", "--n_samples", "3")
    stack = np.stack(list(scores.values()))
    np.testing.assert_allclose(read_per_clip(tmp_path / "mean" / "per_clip.npz")[1]["SSIM"], stack.mean(0))
    spread = read_json(tmp_path / "mean" / "metrics.json")["samples"]["SSIM"]
    assert spread["between_samples"] == pytest.approx(np.sqrt(stack.var(0, ddof=1).mean())) and spread["n_samples"] == 3
    assert spread["between_clips"] == pytest.approx(stack.mean(0).std()) and "between the 3 samples of a clip" in capsys.readouterr().out
    assert "samples/4; run Reconstruction" in error_of(capsys, evaluate, *given, "--out", tmp_path / "four", "--n_samples", "4")


# ---------------------------------------------------------------------------------------------- going on, refusing


class Killed(BaseException):
    pass


@pytest.mark.parametrize("inside", [False, True])
def test_a_killed_run_goes_on(world, full, tmp_path, monkeypatch, inside):
    """Killed after three clips, or between the files of the third: the batch of four is cut."""
    written, write_clip, write_npz = [], video_recons.write_clip, reconstructions.FORMATS["npz"]

    def stop(*args):
        if len(written) == 2:
            raise Killed
        written.append(args)
        (write_npz if inside else write_clip)(*args)

    with monkeypatch.context() as patch:
        if inside:
            patch.setitem(reconstructions.FORMATS, "npz", stop)
        else:
            patch.setattr(video_recons, "write_clip", stop)
        with pytest.raises(Killed):
            run(world, tmp_path, "--batch_size", "4", "--save_stage1")
    assert len(list((tmp_path / "results_recons").glob("*.npz"))) == 2
    assert not {"metrics.json", "SHA256SUMS"} & {path.name for path in tmp_path.rglob("*")}  # nothing that looks whole
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results_recons").glob("*.npz")}
    run(world, tmp_path, "--batch_size", "4", "--save_stage1")
    assert contents(tmp_path) == contents(full)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_second_run_does_nothing(world, full, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(video_recons, "reconstruct", None)
    before = {path: path.stat().st_mtime_ns for path in full.rglob("*")}
    with caplog.at_level(logging.INFO):
        run(world, full, "--batch_size", "1")
    assert "already done, --overwrite to redo" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in full.rglob("*")}


def test_other_settings_are_refused(world, full, tmp_path):
    before, model = contents(full), make_decoders()["structure"]
    with torch.no_grad():
        model.lin1[2].bias += 1
    save_checkpoint(tmp_path / "other.safetensors", model)
    for flags, named in (
        (("--guidance", "3"), "guidance 2.0 -> 3.0"), (("--ablate", "motion"), "ablate None -> motion"),
        (("--seed", "1", "--train_seed", "42"), "seed 42 -> 1"),
        (("--structure_model_path", tmp_path / "other.safetensors"), "structure_checkpoint"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=named):
            run(world, full, *flags)
    assert contents(full) == before
    (run(world, tmp_path / "out", "--clips", "1") / "args.json").unlink()
    with pytest.raises(UserError, match="without a record"):
        run(world, tmp_path / "out", "--clips", "1-2")


def test_overwrite_leaves_nothing_of_the_old_settings(world, full, tmp_path):
    out = shutil.copytree(full, tmp_path / "copy")
    run(world, out, "--guidance", "3", "--clips", "1-2", "--overwrite")
    left = ["SHA256SUMS", "test1.gif", "test1.npz", "test2.gif", "test2.npz"]
    assert sorted(path.name for path in (out / "results_recons").iterdir()) == left and check_sums(out / "results_recons").returncode == 0
    assert list(json.loads((out / "manifest.json").read_text())["clips"]) == ["1", "2"]
    assert np.abs(frames_of(out, 1).astype(int) - frames_of(full, 1)).max() > 1


@pytest.mark.parametrize("batch_size", ["1", "4"])
def test_a_failing_clip_costs_no_other(world, full, tmp_path, monkeypatch, capsys, caplog, batch_size):
    noise = video_recons.clip_noise

    def bad_noise(seed, clip, *rest):
        if clip == 2:
            raise RuntimeError("no such thing\nat length")
        return noise(seed, clip, *rest) * (math.nan if clip == 3 else 1)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(video_recons, "clip_noise", bad_noise)
        run(world, tmp_path, "--batch_size", batch_size)
    assert stop.value.code == 1
    assert "2 of 6 clips failed: 2-3" in capsys.readouterr().err
    assert "clip 2 failed: no such thing at length" in caplog.text and "clip 3 failed: frames that are not finite" in caplog.text
    assert np.abs(all_frames(tmp_path, (1, 4, 5, 6)) - all_frames(full, (1, 4, 5, 6))).max() <= 1
    assert not (tmp_path / "results_recons" / "test3.gif").exists() and not (tmp_path / "metrics.json").exists()
    run(world, tmp_path, "--batch_size", batch_size)  # the cause is gone
    assert np.abs(all_frames(tmp_path) - all_frames(full)).max() <= 1


def test_want_of_memory_stops(world, full, tmp_path, monkeypatch):
    """Not tried clip by clip: what one batch lacks the others lack. What is there stays, and a smaller batch goes on."""

    def no_memory(seed, clip, *rest):
        if clip > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return noise(seed, clip, *rest)

    noise = video_recons.clip_noise
    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):  # which cli.run puts into words
        patch.setattr(video_recons, "clip_noise", no_memory)
        run(world, tmp_path, "--batch_size", "4")
    assert (tmp_path / "results_recons/test4.npz").exists()
    run(world, tmp_path, "--batch_size", "2")
    assert np.abs(all_frames(tmp_path) - all_frames(full)).max() <= 1


class Silent(Exception):
    """An error without a message, as a failed assert is."""


def test_nothing_works(world, tmp_path, monkeypatch, caplog):
    """A cause that all clips share is told after the first batch, even where it has no words."""
    tried = []

    def fail(*args):
        tried.append(args)
        raise Silent

    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"\(1-2\) could be reconstructed: Silent"):
        patch.setattr(video_recons, "clip_noise", fail)
        run(world, tmp_path, "--batch_size", "2", "--debug")
    assert len(tried) == 3  # both, then one by one; not the clips 3 to 6
    assert "Traceback" in caplog.text and "raise Silent" in caplog.text
    assert not (tmp_path / "metrics.json").exists()
    run(world, tmp_path, "--clips", "1")


def test_a_clip_that_always_fails_does_not_stop_the_rest():
    """Where clips were made before, a first batch that fails is an exception."""

    def make(batch):
        if batch == [2]:
            raise Silent
        return [(np.zeros(1), None)] * len(batch)

    parts = list(render_batches([[2], [3]], make, worked=True))
    assert [part[1:] for part in parts] == [({}, {2: "Silent"}), ({3: (np.zeros(1), None)}, {})]


def one_line(flags, capsys):
    """Run the script as a command; its exit status and the line on stderr."""
    with pytest.raises(SystemExit) as stop:
        cli.run(video_recons.main, video_recons.get_parser, flags)
    return stop.value.code, capsys.readouterr().err.split("\r")[-1]  # after the progress bars


def test_a_users_mistakes_are_one_line(world, tmp_path, capsys):
    flags = ["--dataset", "phantom", "--out_root", world / "out", "--sd_path", world / "sd", "--name", "mistake"]
    save_checkpoint(tmp_path / "wide.safetensors", make_decoders(VERTICES + 1)["semantic"])
    save_checkpoint(tmp_path / "tokens.safetensors", make_decoders(token_dim=WIDTH + 1)["semantic"])
    save_checkpoint(tmp_path / "structure.safetensors", StructureDecoder(VERTICES, 16, 1, (4, 4, 4)))
    save_checkpoint(tmp_path / "best.safetensors", make_decoders()["semantic"], epoch=3, finished=False)
    mistakes = {
        ("--semantic_model_path", tmp_path / "wide.safetensors"): "decodes 21 vertices, but the fMRI has 20",
        ("--semantic_model_path", tmp_path / "tokens.safetensors"): "tokens of width 13, but Stable Diffusion takes 12",
        ("--structure_model_path", tmp_path / "structure.safetensors"): "latent frames of 256 numbers",
        ("--semantic_model_path", tmp_path / "best.safetensors"): "not finished (epoch 3)",
        ("--CMG_model_path", tmp_path / "wide.safetensors"): "is a SemanticDecoder, not a ConsistencyMotionGenerator or PatchCMG",
        ("--ckpt", "8"): "file not found: ", ("--seed", "7"): "full_seed7", ("--subj_ID", "7"): "no subject 7",
        ("--clips", "5-9"): "no clip 9", ("--sd_path", tmp_path): "Stable Diffusion", ("--batch_size", "0"): "--batch_size",
        ("--arm", "control"): "control", ("--cpu_offload",): "no GPU", ("--fmri", "x.npy"): "--fmri needs --out",
        ("--gt", "x.npy"): "--gt goes with --fmri", ("--stage1_from", tmp_path / "no"): "file not found: ",
    }  # fmt: skip
    for mistake, words in mistakes.items():
        code, line = one_line([*flags, *mistake], capsys)
        assert code == 2 and line.count("\n") == 1 and words in line and "Traceback" not in line, (mistake, line)


def test_unfinished_trainings(world, tmp_path):
    folder = Layout(tmp_path / "phantom").checkpoints(1, "full", "semantic")
    folder.mkdir(parents=True)
    (folder / TRAINING_STATE).touch()
    with pytest.raises(UserError, match="last.safetensors; its training has not finished"):
        video_recons.main(parse("--dataset", "phantom", "--out_root", tmp_path, "--sd_path", world / "sd"))
    save_checkpoint(tmp_path / "best.safetensors", make_decoders()["semantic"], epoch=3, finished=False)
    for given, advice in (({}, "train to the end$"), ({"allow_unfinished": False}, "--allow_unfinished$")):
        with pytest.raises(UserError, match=advice):
            load_decoder(tmp_path / "best.safetensors", "semantic", **given)
    run(world, tmp_path / "out", "--semantic_model_path", tmp_path / "best.safetensors", "--allow_unfinished", "--clips", "1")


def test_paths(world):
    layout = Layout(Path("out"))

    def path(decoder, *flags, dataset=TINY):
        return video_recons.checkpoint_path(parse("--dataset", "phantom", "--subj_ID", "2", *flags), dataset, layout, None, decoder, 12)

    assert path("semantic", dataset=datasets.CC2017) == layout.checkpoints(2, "full", "semantic") / "epoch_30.safetensors"
    assert path("structure") == layout.checkpoints(2, "full", "structure") / "last.safetensors"
    own = datasets.OwnDataset("mine", (1, 2), 2, 1, 1.5, 20, 60, tuple(range(8)), 4, 64, 0)
    assert path("structure", dataset=own).name == "last.safetensors"  # however many epochs it was trained
    assert path("structure", "--ckpt", "5").name == "epoch_5.safetensors"
    assert path("CMG", "--CMG_model_path", "models/sub{}/x.pth") == Path("models/sub2/x.pth")
    assert path("CMG", "--seed", "1").parent == layout.checkpoints(2, "full_seed1", "CMG")
    assert path("CMG", "--seed", "1", "--train_seed", "42").parent == layout.checkpoints(2, "full", "CMG")

    def outputs(*flags):
        flags = ("--dataset", "phantom", "--out_root", world / "out", "--sd_path", world / "sd", *flags)
        return video_recons.make_plan(parse(*flags)).outputs

    below = world / "out" / "phantom" / "recons" / "sub1"
    made = outputs("--ablate", "motion", "--seed", "3", "--train_seed", "42")
    assert made.recons == below / "full_ablate_motion_seed3" / "results_recons"
    assert made.with_gt == below / "full_ablate_motion_seed3" / "results_recons_with_gt"
    assert outputs("--name", "mine").recons == below / "mine" / "results_recons"
    made = outputs("--video_save_folder1", "a/one", "--video_save_folder2", "a/two")
    assert (made.recons, made.with_gt, made.root) == (Path("a/one"), Path("a/two"), Path("a"))


def test_patch_cmg(world, tmp_path):
    torch.manual_seed(2)
    cmg = PatchCMG(8, 4, 4, VERTICES, 16, 1, 4)
    torch.nn.init.normal_(cmg.final_layer.linear.weight, std=0.1)
    save_checkpoint(tmp_path / "patch.safetensors", cmg)
    run(world, tmp_path, "--CMG_model_path", tmp_path / "patch.safetensors", "--clips", "1", "--save_stage1")
    fmri = torch.from_numpy(np.load(Layout(world / "out" / "phantom").masked_fmri(1, "test", VERTICES))[:1])
    first = make_decoders()["structure"](fmri).detach()
    latents = cmg.generate(fmri, first)
    vae = AutoencoderKL.from_pretrained(world / "sd" / "vae")
    with torch.no_grad():
        pictures = (vae.decode(latents[0] / 0.18215).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255
    assert np.abs(frames_of(tmp_path, 1, "stage1") - pictures).max() <= 1.01


# ---------------------------------------------------------------------------------------------- the authors' folder


@pytest.fixture
def released(world, tmp_path, monkeypatch):
    """A tree of the authors' shape with the made world's weights and fMRI."""
    monkeypatch.setitem(
        datasets.DATASETS,
        "CC2017",
        replace(TINY, name="CC2017", note="", released_names=("cc2017",), epochs={"semantic": 30, "structure": 75, "CMG": 70}),
    )
    root = tmp_path / "Mind_Animator_data"
    test_set = root / "Testset_of_Preprocessed_datasets" / "CC2017"
    for number, clip in enumerate(random_clips(6)):
        # each of the eight frames is shown for eight film frames, and is flat, for the codec's sake
        film = np.broadcast_to(clip.mean((1, 2), keepdims=True), clip.shape).astype(np.uint8).repeat(8, axis=0)[:60]
        write_mp4(test_set / "stimuli_clips" / "Test" / f"test{number // 3 + 1}_{number % 3 + 1}.mp4", film, 30)
    fmri = np.load(Layout(world / "out" / "phantom").masked_fmri(1, "test", VERTICES))
    for subject, data in ((1, fmri), (2, fmri[::-1])):
        path = test_set / "fMRI_data" / f"sub{subject}" / "Test" / f"masked{VERTICES}_test_data.npy"
        path.parent.mkdir(parents=True)
        np.save(path, data)
    shutil.copytree(world / "sd", root / "Model_checkpoints" / "Stable_diffusion_ckpt")
    folder = root / "Model_checkpoints" / "Reconstruction_task"
    for subject, offset in ((1, 0), (2, 1)):
        models = make_decoders()
        with torch.no_grad():
            models["structure"].lin1[2].bias += offset
        (folder / f"sub{subject}").mkdir(parents=True)
        torch.save(models["semantic"].state_dict(), folder / f"sub{subject}" / "semantic_decoder_epoch30.pth")
        torch.save(
            {f"module.{name}": value for name, value in models["structure"].state_dict().items()}, folder / f"structure_sub{subject}_75.pth"
        )
        torch.save(models["CMG"].state_dict(), folder / f"sub{subject}" / "motion-70.pth")
    torch.save(models["semantic"].state_dict(), folder / "sub1" / "semantic_decoder_epoch50.pth")
    (folder / "HCP" / "sub1").mkdir(parents=True)
    torch.save(models["CMG"].state_dict(), folder / "HCP" / "sub1" / "motion-70.pth")
    return root


def test_reconstruction_from_the_authors_folder(world, full, released, tmp_path, caplog):
    out = tmp_path / "out"
    with caplog.at_level(logging.INFO):
        video_recons.main(parse("--released_root", released, "--out_root", out, *STEPS, "--save_stage1", "--batch_size", "4"))
    folder = out / "CC2017" / "recons" / "sub1" / "full"
    assert np.array_equal(all_frames(folder), all_frames(full))  # same weights, same fMRI, same noise
    assert "Reconstruction_task/sub1/semantic_decoder_epoch30.pth" in caplog.text
    assert "Reconstruction_task/structure_sub1_75.pth" in caplog.text
    strip = np.asarray(Image.open(folder / "strips" / "test5.png")).astype(int)
    expected = random_clips(6)[4].mean((1, 2)).astype(int)  # (F, 3)
    assert np.abs(strip[SIZE // 2, SIZE // 2 :: SIZE + 1, :3] - expected).max() <= 6
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["checkpoints"]["CMG"]["epoch"] == 70 and not manifest["phantom"]
    assert "phantom" not in (folder / "gallery.html").read_text()


def test_released_tree_refuses_to_guess(released, tmp_path):
    dataset = datasets.DATASETS["CC2017"]
    tree = ReleasedTree(released, dataset, 1)
    assert find_checkpoint(**tree.checkpoints("semantic"), epoch=50, token_dim=WIDTH).name == "semantic_decoder_epoch50.pth"
    with pytest.raises(UserError, match="several semantic decoders of subject 1 .*epoch30.pth, .*epoch50.pth.*--semantic_model_path"):
        find_checkpoint(**tree.checkpoints("semantic"), epoch=40, token_dim=WIDTH)
    with pytest.raises(UserError, match="no CMG decoder of subject 3"):
        find_checkpoint(**ReleasedTree(released, dataset, 3).checkpoints("CMG"), epoch=70, token_dim=WIDTH)
    with pytest.raises(UserError, match="Mind_Animator_data"):
        ReleasedTree(tmp_path / "nowhere", dataset, 1)
    for flags, words in ((("--ablate", "structure"), "training data"), (("--arm", "control"), "--arm control")):
        with pytest.raises(UserError, match=words):
            video_recons.main(parse("--released_root", released, "--out_root", tmp_path / "out", *flags))


# ---------------------------------------------------------------------------------------------- other recordings


def fmri_rows(world):
    return np.load(Layout(world / "out" / "phantom").masked_fmri(1, "test", VERTICES))


def run_recording(world, out, rows, *flags):
    """Run the script on rows in a file beside `out` (None: those of before), with the checkpoints of subject 1."""
    if rows is not None:
        np.save(out.parent / "rows.npy", rows)
    return run(world, out, "--fmri", out.parent / "rows.npy", "--batch_size", "4", *flags)


def test_rows_that_are_standardised_already(world, full, tmp_path):
    out = run_recording(world, tmp_path / "out", fmri_rows(world), "--fmri_norm", "none")
    assert np.array_equal(all_frames(out), all_frames(full))  # the same batches
    assert not (out / "results_recons_with_gt").exists()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["dataset"] is None and manifest["folders"]["with_gt"] is None and "caption" not in manifest["clips"]["1"]
    page = (out / "gallery.html").read_text()
    assert "The true clips are not known" in page and '"pairs": null' in page and "results_recons" in page and '"test6.gif"' in page
    strip = np.asarray(Image.open(out / "strips" / "test2.png"))
    assert len(strip) == SIZE + 1  # the reconstruction alone


@pytest.mark.parametrize("folder", [False, True])
def test_rows_with_their_ground_truth(world, full, tmp_path, folder):
    gt = tmp_path / ("gt" if folder else "gt.npy")
    if folder:
        for clip, frames in enumerate(random_clips(6), 1):
            reconstructions.write_npz(gt / f"test{clip}.npz", frames)
    else:
        np.save(gt, random_clips(6))
    out = run_recording(world, tmp_path / "out", fmri_rows(world), "--fmri_norm", "none", "--gt", gt)
    for clip in range(1, 7):
        name = f"results_recons_with_gt/test_and_gt{clip}.gif"
        assert (out / name).read_bytes() == (full / name).read_bytes()


def make_checkpoints(folder):
    """Checkpoints in a folder of their own and the flags that name them."""
    flags = []
    for decoder, model in make_decoders().items():
        save_checkpoint(folder / decoder / "last.safetensors", model)
        flags += [f"--{decoder}_model_path", folder / decoder / "last.safetensors"]
    return flags


def test_raw_rows_are_standardised(world, full, tmp_path, caplog):
    """By the statistics beside the checkpoints, where there are any; else, or when asked, by their own."""
    rng = np.random.default_rng(5)
    mean, std = rng.normal(5, 1, VERTICES), rng.uniform(1, 2, VERTICES)
    raw = fmri_rows(world) * std + mean
    flags = make_checkpoints(tmp_path / "checkpoints")
    train = rng.standard_normal((50, VERTICES))
    train = (train - train.mean(0)) / train.std(0) * std + mean
    with caplog.at_level(logging.INFO):
        own = run_recording(world, tmp_path / "own", raw, *flags)
        assert "--fmri_norm own" in caplog.text
        for decoder in ("semantic", "structure", "CMG"):
            path = statistics_path(tmp_path / "checkpoints" / decoder / "last.safetensors")
            save_array(path, np.stack([*statistics(train)] * 2), rows="train, test", units="none", made_by="test")
        saved = run_recording(world, tmp_path / "saved", raw, *flags)
        assert "fmri_statistics.npy (--fmri_norm saved)" in caplog.text
    assert np.abs(all_frames(saved) - all_frames(full)).max() <= 1  # standardised and back: rounding
    assert np.abs(all_frames(own) - all_frames(full)).max() > 1
    again = run_recording(world, tmp_path / "again", scale(raw, *statistics(raw)), *flags, "--fmri_norm", "none")
    assert np.abs(all_frames(again) - all_frames(own)).max() <= 1


@pytest.mark.parametrize("n", [N_CORTEX, 300])
def test_rows_of_the_whole_cortex_or_of_all_voxels(world, full, tmp_path, n):
    chosen = np.sort(np.random.default_rng(6).choice(n, VERTICES, replace=False))
    rows, mask = np.zeros((6, n), np.float32), np.zeros(n, np.uint8)
    rows[:, chosen], mask[chosen] = fmri_rows(world), 1
    np.save(tmp_path / "mask.npy", mask)
    with pytest.raises(UserError, match="no mask was found; give --mask" if n == N_CORTEX else "has 300 columns"):
        run_recording(world, tmp_path / "out", rows)
    out = run_recording(world, tmp_path / "out", None, "--mask", tmp_path / "mask.npy", "--fmri_norm", "none", "--clips", "1-4")
    assert np.abs(all_frames(out, range(1, 5)) - all_frames(full, range(1, 5))).max() <= 1


def test_rows_that_do_not_fit(world, tmp_path):
    fmri = fmri_rows(world)
    for rows, flags, words in (
        (fmri[:, :-1], (), "has 19 columns; give the 20 vertices of the decoders, or all 59412"),
        (fmri[:, :-1], ("--mask", tmp_path / "mask.npy"), "has 19 columns; give the 20 vertices of the decoders, or all 30"),
        (fmri, ("--fmri_norm", "saved"), "needs the statistics"),
        (fmri[:1], (), "one row"),
        (fmri[:0], (), "nothing in it"),
        (fmri, ("--gt", tmp_path / "gt.npy"), "does not hold clips 1-6"),
    ):
        np.save(tmp_path / "gt.npy", random_clips(5))
        np.save(tmp_path / "mask.npy", np.arange(30) < VERTICES)
        with pytest.raises(UserError, match=words):
            run_recording(world, tmp_path / "out", rows, *flags)


# ---------------------------------------------------------------------------------------------- other decoders


@pytest.fixture(scope="module")
def arrays(world, tmp_path_factory):
    """A reconstruction of three clips that leaves the arrays of all six."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.DATASETS, "phantom", TINY)
        out = run(world, tmp_path_factory.mktemp("arrays"), "--save_stage1_arrays", "--clips", "1-3")
    return out / "stage1_arrays"


def test_arrays_go_through_stage_2(world, full, arrays, tmp_path):
    out = run(world, tmp_path / "out", "--stage1_from", arrays, "--clips", "2,5", "--gt", world_gt(world))
    assert np.abs(all_frames(out, (2, 5)) - all_frames(full, (2, 5))).max() <= 1
    flags = ("--dataset", "phantom", "--out_root", tmp_path, "--sd_path", world / "sd", *STEPS)
    shutil.copytree(world / "out" / "phantom" / "features", tmp_path / "phantom" / "features")
    shutil.copytree(world / "out" / "phantom" / "captions", tmp_path / "phantom" / "captions")
    own = shutil.copytree(arrays, tmp_path / "mine")
    video_recons.main(parse(*flags, "--stage1_from", own, "--clips", "2", "--ablate", "semantic"))  # neither fMRI nor checkpoints
    manifest = json.loads((tmp_path / "phantom" / "recons" / "sub1" / "mine" / "manifest.json").read_text())
    assert (
        manifest["dataset"] == "phantom" and manifest["arm"] is None and manifest["clips"]["2"]["nearest_captions"].keys() <= set(CAPTIONS)
    )
    (own / "embedding.npy").unlink()  # optional
    video_recons.main(parse(*flags, "--stage1_from", own, "--clips", "2", "--name", "wordless"))
    manifest = json.loads((tmp_path / "phantom" / "recons" / "sub1" / "wordless" / "manifest.json").read_text())
    assert manifest["clips"]["2"]["caption"] == CAPTIONS[1] and "nearest_captions" not in manifest["clips"]["2"]


def test_ridge_example(world, tmp_path, monkeypatch):
    """The example's arrays go through stage 2, gallery and evaluation."""
    from examples import ridge_decoder

    monkeypatch.setattr(evaluate, "draw_distributions", lambda *_: None)
    layout, rng = Layout(tmp_path / "phantom"), np.random.default_rng(4)
    fmri, shapes = rng.standard_normal((5, VERTICES)), {"contents": (*LATENT[:1], FRAMES, 8, 8), "text_embeddings_sd": (TOKENS, WIDTH)}
    card = {"rows": "clips", "units": "none", "made_by": "test"}
    save_array(layout.masked_fmri(1, "train", VERTICES), fmri.astype(np.float32), **card)
    targets = {}
    for name, shape in (shapes | {"text_embeddings_clip": (EMBEDDING,)}).items():
        weights = rng.standard_normal((VERTICES, math.prod(shape)))
        targets[name] = (fmri @ weights).reshape(5, *shape).astype(np.float32)
        save_array(getattr(layout, name)("train"), targets[name], **card)
    save_array(layout.masked_fmri(1, "test", VERTICES), np.tile(fmri, (2, 1))[:6].astype(np.float32), **card)  # rows that it has seen
    save_array(layout.ground_truth, random_clips(6), **card)
    where = ["--dataset", "phantom", "--out_root", tmp_path]
    cli.run(ridge_decoder.main, ridge_decoder.get_parser, [*where, "--to", tmp_path / "ridge", "--alpha", "1e-3"])
    for name, array in (("latents", targets["contents"]), ("tokens", targets["text_embeddings_sd"][:, 1:])):
        decoded = np.load(tmp_path / "ridge" / f"{name}.npy")
        assert np.abs(decoded[:5] - array).max() < 0.01 * np.abs(array).max()  # the penalty is small
    video_recons.main(parse(*where, "--sd_path", world / "sd", *STEPS, "--stage1_from", tmp_path / "ridge"))
    assert (layout.recons(1, "ridge") / "gallery.html").exists()
    cli.run(evaluate.main, evaluate.get_parser, [*where, "--name", "ridge", "--baselines", "none", "--workers", "1"])
    assert json.loads((layout.metrics(1, "ridge") / "metrics.json").read_text())["method"]


def world_gt(world):
    return Layout(world / "out" / "phantom").ground_truth


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("latents", lambda array: array[:, :3], r"latents.npy has shape .*write it as \(clips, 4, 8, height, width\)"),
        ("latents", lambda array: array[:5], "latents.npy has shape .*for 6 clips"),
        ("latents", lambda array: array * np.nan, "NaN"),
        ("tokens", lambda array: array[:, :, 1:], "tokens.npy has shape .*12"),
        ("tokens", lambda array: array[:5], "tokens.npy has shape"),
        ("tokens", lambda array: array[:, :0], "nothing in it"),
        ("embedding", lambda array: array[:5], "embedding.npy has shape"),
    ],
)
def test_arrays_that_do_not_fit(world, arrays, tmp_path, name, change, words):
    own = shutil.copytree(arrays, tmp_path / "mine")
    for card in own.glob("*.json"):
        card.unlink()
    np.save(own / f"{name}.npy", change(np.load(own / f"{name}.npy")))
    with pytest.raises(UserError, match=words):
        video_recons.main(
            parse("--dataset", "phantom", "--out_root", world / "out", "--sd_path", world / "sd", "--stage1_from", own, "--name", "no")
        )


def test_tokens_with_the_start_token(world, arrays, tmp_path):
    """A first word that all captions begin with is no start token."""
    own, pipe = shutil.copytree(arrays, tmp_path / "mine"), load_pipeline(str(world / "sd"), torch.device("cpu"))
    tokens, start = np.load(own / "tokens.npy"), encode_prompts(pipe, TOKENS).empty[0, :2].numpy()
    flags = ("--dataset", "phantom", "--out_root", world / "out", "--sd_path", world / "sd", *STEPS, "--stage1_from", own, "--clips", "1")
    (own / "tokens.npy.json").unlink()
    for first, refused in ((start[0] + 1e-4, True), (start[1], False)):
        np.save(own / "tokens.npy", np.concatenate([np.broadcast_to(first, tokens[:, :1].shape), tokens[:, 1:]], 1))
        with pytest.raises(UserError, match="tokens.npy: .*this is the start token; leave it out") if refused else contextlib.nullcontext():
            video_recons.main(parse(*flags, "--name", f"refused_{refused}"))


@pytest.mark.parametrize(
    "factor, trained, warns", [(1, 1, ""), (1 / 0.18215, 1, "far from the training's"), (0.2, None, "far from about 1"), (2, None, "")]
)
def test_latents_of_another_scale(tmp_path, caplog, factor, trained, warns):
    rng, contents = np.random.default_rng(7), tmp_path / "Train_contents.npy"
    np.save(tmp_path / "latents.npy", factor * rng.standard_normal((3, 4, 8, 4, 4)))
    np.save(tmp_path / "tokens.npy", rng.standard_normal((3, 19, 12)))
    if trained:
        np.save(contents, trained * rng.standard_normal((9, 4, 8, 4, 4)))
    load_stage1(tmp_path, 3, 8, 4, 12, contents)
    assert warns in caplog.text and bool(warns) == ("multiply by 0.18215?" in caplog.text)


# ---------------------------------------------------------------------------------------------- captions


def test_nearest_caption(world, full):
    features = np.load(Layout(world / "out" / "phantom").text_embeddings_clip("test"))
    fmri = torch.from_numpy(np.load(Layout(world / "out" / "phantom").masked_fmri(1, "test", VERTICES)))
    with torch.no_grad():
        embedding = make_decoders()["semantic"](fmri)[0].numpy()
    clips = json.loads((full / "manifest.json").read_text())["clips"]
    for i in range(6):
        similarity = {}  # identical captions count as one
        for caption, feature in zip(CAPTIONS, features, strict=True):
            similarity[caption] = feature @ embedding[i] / np.linalg.norm(feature) / np.linalg.norm(embedding[i])
        ordered = sorted(similarity, key=similarity.get, reverse=True)
        clip = clips[str(i + 1)]
        assert clip["rank"] == 1 + ordered.index(CAPTIONS[i]) and clip["n_captions"] == 5
        assert list(clip["nearest_captions"]) == ordered and clip["nearest_captions"] == pytest.approx(similarity, abs=1e-4)


def test_captions_that_are_the_same_to_the_model_count_as_one():
    features = np.array([[1, 0], [1, 1e-8], [1, 0], [0, 1]], np.float32)
    ranker = CaptionRanker(["unknown", "words", "unknown", "a dog"], features)
    found = [ranker.describe(clip, np.array([1, 0.5])) for clip in (1, 2, 3, 4)]
    assert [one["rank"] for one in found] == [1, 1, 1, 2] and {one["n_captions"] for one in found} == {2}
    assert list(found[1]["nearest_captions"]) == ["unknown", "a dog"] and found[1]["caption"] == "words"
    assert CaptionRanker(["unknown", "words"], features[:2]).describe(1, np.array([1, 0.5])) == {"caption": "unknown"}
