"""The three extraction scripts, through their mains, against the libraries' own calls clip by clip."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState, debug_launcher
from accelerate.commands.config.config_args import load_config_from_file
from PIL import Image
from tiny import N_TEST, N_TRAIN, ROOT, SIZE, SMALL, WORDS, fails, load_script, make_captions, make_frames, prompt_ids, run_script

from common.captions import write_captions
from common.datasets import DATASETS
from common.files import read_json
from common.layout import Layout
from models import encoders

semantic = load_script("Feature_extraction/semantic_feature_extraction.py")
contrastive = load_script("Feature_extraction/contrastive_target_extraction.py")
content = load_script("Feature_extraction/content_feature_extraction.py")


@pytest.fixture(scope="module")
def text_models(models):
    """Stable Diffusion's tokenizer and text encoder, loaded without our loader."""
    from transformers import CLIPTextModel, CLIPTokenizer

    return CLIPTokenizer.from_pretrained(models[0] / "tokenizer"), CLIPTextModel.from_pretrained(models[0] / "text_encoder").eval()


@pytest.fixture
def world(tmp_path, monkeypatch, models):
    """Frames and captions of both splits below an output root."""
    monkeypatch.setitem(DATASETS, "phantom", SMALL)
    layout, rng = Layout(tmp_path / "phantom"), np.random.default_rng(0)
    for split in ("train", "test"):
        make_captions(layout, split, SMALL.n_clips(split))
    frames = {split: make_frames(layout, split, rng) for split in ("train", "test")}
    return layout, frames, ["--dataset", "phantom", "--out_root", tmp_path]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------------------------------------- captions


def test_semantic_tokens_are_those_of_the_text_encoder_caption_by_caption(world, models, text_models):
    layout, _, flags = world
    run_script(semantic, *flags, "--sd_path", models[0], "--batch_size", 3)
    tokenizer, encoder = text_models
    for split, n in (("train", N_TRAIN), ("test", N_TEST)):
        array = np.load(layout.text_embeddings_sd(split))
        assert array.shape == (n, 20, 12) and array.dtype == np.float32
        for i in range(n):
            ids = prompt_ids(tokenizer, WORDS[i % 4] + " indeed" * (i % 3))
            with torch.no_grad():
                expected = encoder(torch.tensor([ids]))[0][0].numpy()
            np.testing.assert_allclose(array[i], expected, atol=2e-6)
        # a causal encoder gives every prompt the same start token
        np.testing.assert_allclose(array[:, 0], np.broadcast_to(array[0, 0], array[:, 0].shape), atol=2e-6)
    assert read_json(f"{layout.text_embeddings_sd('train')}.json")["sha256"] == digest(layout.text_embeddings_sd("train"))


def test_long_captions_are_cut_and_masks_follow_the_configuration(text_models, monkeypatch):
    tokenizer, encoder = text_models
    plain = encoders.encode_sd_text(encoder, tokenizer, ["waves", "wave " * 40])
    assert plain.shape == (2, 20, 12)
    monkeypatch.setattr(encoder.config, "use_attention_mask", True, raising=False)
    masked = encoders.encode_sd_text(encoder, tokenizer, ["waves", "wave " * 40])
    torch.testing.assert_close(masked[:, :3], plain[:, :3])  # start, waves, end
    assert not torch.allclose(masked[0, 4:], plain[0, 4:])


def test_contrastive_targets_are_clip_features_of_caption_and_middle_frame(world, models):
    import open_clip

    layout, frames, flags = world
    run_script(contrastive, *flags, "--clip_path", models[1], "--batch_size", 4)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{models[1]}")
    model.eval()
    for split in ("train", "test"):
        text, image = np.load(layout.text_embeddings_clip(split)), np.load(layout.image_embeddings_clip(split))
        assert text.shape == image.shape == (SMALL.n_clips(split), 10) and text.dtype == image.dtype == np.float32
        for i, clip in enumerate(frames[split]):
            with torch.no_grad():
                words = model.encode_text(open_clip.SimpleTokenizer()([WORDS[i % 4] + " indeed" * (i % 3)]))[0].numpy()
                picture = model.encode_image(preprocess(Image.fromarray(clip[3]))[None])[0].numpy()  # frame 24 of 0, 8, 16, 24, ...
            np.testing.assert_allclose(text[i], words, atol=2e-5)
            np.testing.assert_allclose(image[i], picture, atol=2e-5)
    assert abs(np.linalg.norm(text, axis=1) - 1).max() > 0.1  # not normalised


def test_a_caption_is_encoded_once_however_often_it_stands(world, models, monkeypatch):
    """An encoder's last bits differ between batches, and a search must see equal captions tie."""
    layout, _, flags = world
    write_captions(layout.captions("test"), "test", ["a dog", *["a cat"] * (SMALL.n_test - 1)])
    asked = []

    def encode(model, tokenizer, captions):
        asked.extend(captions)
        return encoders.encode_clip_text(model, tokenizer, captions) + len(asked)

    monkeypatch.setattr(contrastive, "encode_clip_text", encode)
    run_script(contrastive, *flags, "--clip_path", models[1], "--split", "test", "--batch_size", 1)
    text = np.load(layout.text_embeddings_clip("test"))
    assert sorted(asked) == ["a cat", "a dog"] and (text[1:] == text[1]).all() and (text[0] != text[1]).any() and len(text) > 2


@pytest.mark.parametrize("words, warns", [("a dog ", ""), ("a dog " * 90, "different captions are 1 to ")])
def test_captions_that_are_one_to_the_model_are_a_warning(world, models, caplog, words, warns):
    layout, _, flags = world
    write_captions(layout.captions("test"), "test", [f"{words}{i}" for i in range(SMALL.n_test)])
    run_script(contrastive, *flags, "--clip_path", models[1], "--split", "test")
    assert warns in caplog.text and bool(warns) == ("tell them apart" in caplog.text)


# ---------------------------------------------------------------------------------------------- latents


@pytest.fixture(scope="module")
def vae(models):
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(models[0] / "vae").eval()


def posterior(vae, clip):
    """Mean and standard deviation of a clip's posterior, frame by frame, (4, 8, 8, 8) each."""
    with torch.no_grad():
        each = [vae.encode(torch.from_numpy(frame / 127.5 - 1).float().permute(2, 0, 1)[None]).latent_dist for frame in clip]
    return torch.stack([p.mean[0] for p in each], 1).numpy(), torch.stack([p.std[0] for p in each], 1).numpy()


def test_mean_latents_and_ground_truth(world, models, vae):
    layout, frames, flags = world
    run_script(content, *flags, "--sd_path", models[0], "--latents", "mean", "--batch_size", 3)
    assert not (layout.features / "train_groundtruth.npy").exists()
    np.testing.assert_array_equal(np.load(layout.ground_truth), frames["test"])
    for split in ("train", "test"):
        latents = np.load(layout.contents(split))
        assert latents.shape == (SMALL.n_clips(split), 4, 8, SIZE // 4, SIZE // 4) and latents.dtype == np.float32
        for i in (0, len(latents) - 1):
            np.testing.assert_allclose(latents[i], posterior(vae, frames[split][i])[0] * 0.18215, atol=1e-5)


def test_sampled_latents_are_the_posteriors_and_follow_seed_and_clip_alone(world, models, vae, tmp_path):
    layout, frames, flags = world
    results = {}
    ways = {"one": ["--batch_size", 1], "five": ["--batch_size", 5, "--overwrite"], "seed": ["--seed", 7, "--overwrite"]}
    for name, extra in ways.items():
        run_script(content, *flags, "--sd_path", models[0], "--split", "train", *extra)
        results[name] = np.load(layout.contents("train"))
    np.testing.assert_allclose(results["one"], results["five"], atol=1e-5)  # convolutions round otherwise in another batch
    assert abs(results["one"] - results["seed"]).mean() > 0.01
    scores = []
    for i in range(0, N_TRAIN, 5):
        mean, std = posterior(vae, frames["train"][i])
        scores.append((results["one"][i] / 0.18215 - mean) / std)
    scores = np.array(scores)
    n = scores.size
    assert abs(scores.mean()) < 5 / n**0.5 and abs(scores.std() - 1) < 5 / n**0.5
    assert abs(np.corrcoef(scores.reshape(len(scores), -1))[~np.eye(len(scores), dtype=bool)]).max() < 5 / scores[0].size ** 0.5


def test_half_precision(world, models):
    layout, _, flags = world
    run_script(content, *flags, "--sd_path", models[0], "--split", "test", "--dtype", "float16")
    assert np.load(layout.contents("test")).dtype == np.float16


def test_a_run_that_is_cut_off_goes_on_to_the_same_bytes(world, models, monkeypatch):
    layout, _, flags = world
    command = [*flags, "--sd_path", models[0], "--split", "test", "--batch_size", 1]
    run_script(content, *command)
    expected = [digest(layout.contents("test")), digest(layout.ground_truth)]
    layout.contents("test").unlink()
    layout.ground_truth.unlink()

    reads, read_clip = [], content.read_clip

    def cut_off(folder, *rest):
        reads.append(folder.name)
        if len(reads) == 3:
            raise KeyboardInterrupt
        return read_clip(folder, *rest)

    monkeypatch.setattr(content, "read_clip", cut_off)
    fails(content, *command, status=130)
    assert not layout.contents("test").exists() and not layout.ground_truth.exists()
    run_script(content, *command)
    assert reads == ["test1_1", "test1_2", "test2_1", "test2_1", "test2_2"]
    assert [digest(layout.contents("test")), digest(layout.ground_truth)] == expected
    assert not list(layout.features.glob(".partial*"))


def in_process(commands):
    """What one of two processes does."""
    PartialState._reset_state()  # the parent's, which the fork took along
    torch.set_num_threads(1)
    for script, command in commands:
        run_script(script, *command)
    layout = Layout(Path(commands[0][1][3]) / "phantom")
    (layout.root / f"rank{PartialState().process_index}").write_text(str(PartialState().num_processes))


@pytest.mark.parametrize(("name", "processes", "nodes"), [("one_gpu", 1, 1), ("eight_gpus", 8, 1), ("two_nodes", 16, 2)])
def test_launch_files(name, processes, nodes):
    """As accelerate reads them."""
    config = load_config_from_file(str(ROOT / f"configs/accelerate/{name}.yaml"))
    assert (config.num_processes, config.num_machines, config.mixed_precision, config.use_cpu) == (processes, nodes, "no", False)
    assert (config.distributed_type == "MULTI_GPU") == (processes > 1)


def test_two_processes_give_the_bytes_of_one(world, models, tmp_path):
    layout, _, flags = world
    sd = ["--sd_path", models[0], "--split", "test"]
    commands = [
        (semantic, [*flags, *sd, "--batch_size", 2]),
        (contrastive, [*flags, "--clip_path", models[1], "--split", "test", "--batch_size", 3]),
        (content, [*flags, *sd, "--batch_size", 1]),
    ]
    paths = [layout.text_embeddings_sd("test"), layout.text_embeddings_clip("test"), layout.image_embeddings_clip("test")]
    paths += [layout.contents("test"), layout.ground_truth]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for script, command in commands:
        run_script(script, *command)
    torch.set_num_threads(threads)
    expected = [digest(path) for path in paths]
    for path in paths:
        path.unlink()
    debug_launcher(in_process, ([(script, [*command, "--overwrite"]) for script, command in commands],), num_processes=2)
    assert [(layout.root / f"rank{rank}").read_text() for rank in (0, 1)] == ["2", "2"]
    assert [digest(path) for path in paths] == expected
    records = sorted((layout.features / "records").glob("*_Test/metrics.json"))
    assert [read_json(path)["clips"] for path in records] == [N_TEST] * 3 and not list(layout.features.glob(".partial*"))


@pytest.mark.parametrize("change", ["--overwrite", "captions"])
def test_a_half_done_array_is_not_continued_when_asked_or_of_other_inputs(world, models, monkeypatch, change):
    layout, _, flags = world
    command = [*flags, "--sd_path", models[0], "--split", "test", "--batch_size", 1]
    encoded, encode = [], semantic.encode_sd_text

    def cut_off(encoder, tokenizer, captions):
        encoded.extend(captions)
        if len(encoded) == 3:
            raise KeyboardInterrupt
        return encode(encoder, tokenizer, captions)

    monkeypatch.setattr(semantic, "encode_sd_text", cut_off)
    fails(semantic, *command, status=130)
    captions = ["another caption"] * N_TEST
    write_captions(layout.captions("test"), "test", captions) if change == "captions" else None
    run_script(semantic, *command, *([change] if change == "--overwrite" else []))
    assert len(encoded) == 3 + N_TEST
    if change == "captions":
        assert encoded[3:] == captions


# ---------------------------------------------------------------------------------------------- done, and mistakes


@pytest.mark.parametrize("damage", ["missing", "size", "broken"])
def test_bad_frames_are_named_in_one_line(world, models, damage, capsys):
    layout, _, flags = world
    frame = layout.frames("test", "test2_1") / "0000024.png"
    if damage == "size":
        Image.new("RGB", (SIZE, SIZE + 1)).save(frame)
    elif damage == "broken":
        frame.write_bytes(frame.read_bytes()[:200])
    else:
        frame.unlink()
    for script, path in ((content, ["--sd_path", models[0]]), (contrastive, ["--clip_path", models[1]])):
        capsys.readouterr()
        fails(script, *flags, *path, "--split", "test")
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(error) == 1 and "test2_1" in error[0] and "0000024" in error[0]
    assert not layout.contents("test").exists() and not layout.image_embeddings_clip("test").exists()


def test_missing_captions_and_models(world, models, tmp_path, capsys):
    layout, _, flags = world
    make_captions(layout, "test", N_TEST - 1)
    fails(semantic, *flags, "--sd_path", models[0], "--split", "test")
    assert f"has {N_TEST - 1} captions, not {N_TEST}" in capsys.readouterr().err
    fails(semantic, *flags, "--sd_path", tmp_path / "nowhere")
    fails(contrastive, *flags, "--clip_path", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    fails(content, *flags, "--sd_path", tmp_path / "empty")
    fails(contrastive, *flags, "--clip_path", tmp_path / "empty")
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 4 and all(
        str(tmp_path / name) in line for name, line in zip(("nowhere",) * 2 + ("empty",) * 2, errors, strict=True)
    )
