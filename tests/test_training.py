"""The training scripts, through their mains, on a small data set: what they learn from, write, resume and refuse."""

import hashlib
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import CARD, N_TRAIN, N_VERTICES, SIZE, SMALL, fails, load_script, make_features, prompt_ids, run_script
from torch.nn import functional as F

from common import cli
from common.arms import load_fmri
from common.datasets import CC2017, DATASETS
from common.files import UserError, read_json, save_array
from common.fmri import load_statistics
from common.layout import Layout
from common.randomness import numpy_generator
from Feature_decoding import contrastive, plan, training
from models.checkpoints import load_checkpoint, statistics_path
from models.schedules import compounding_decay

SCRIPTS = {
    "semantic": load_script("Feature_decoding/train_semantic_decoder.py"),
    "structure": load_script("Feature_decoding/train_structure_decoder.py"),
    "CMG": load_script("Feature_decoding/train_CMG.py"),
    "retrieval": load_script("Retrieval/train_retrieval_decoder.py"),
}
N_VAL = 4
EPOCHS = 3
WHOLE = {}  # of the fixture


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """fMRI and targets that no test changes."""
    root = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "phantom", SMALL)
        make_features(root)
    return root


@pytest.fixture(autouse=True)
def small(monkeypatch, request):
    monkeypatch.setitem(DATASETS, "phantom", SMALL)
    if "figure" not in request.node.name:
        monkeypatch.setattr(training, "draw_losses", lambda *_: None)  # half of the time of such short trainings


@pytest.fixture
def command(features, models, tmp_path):
    """Function of a decoder that gives a command line; checkpoints go below tmp_path, or into a folder elsewhere."""

    def make(decoder, *more, folder="run"):
        flags = ["--dataset", "phantom", "--out_root", features, "--n_val", N_VAL, "--batch_size", 8, "--epoch", EPOCHS, "--device", "cpu"]
        flags += ["--model_dir", tmp_path / folder]
        own = {
            "semantic": ["--sd_path", models[0], "--clip_path", models[1], "--projector_dims", 8, 8],
            "structure": ["--hidden_dim", 16, "--lr", 1e-3],
            "CMG": ["--attn_dim", 8, "--d_ff", 8, "--encoder_dim", 8],
            "retrieval": ["--clip_path", models[1]],
        }
        return [*flags, *own[decoder], *more]

    return make


@pytest.fixture
def whole(command, tmp_path_factory):
    """Function of a decoder: folder of its uninterrupted training, which all tests share."""

    def folder_of(decoder):
        if decoder not in WHOLE:
            folder = tmp_path_factory.mktemp(decoder)
            run_script(SCRIPTS[decoder], *command(decoder, folder=folder))
            WHOLE[decoder] = folder
        return WHOLE[decoder]

    return folder_of


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def without_seconds(folder):
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in log_of(folder)]


def parse(decoder, command):
    return cli.parse(SCRIPTS[decoder].get_parser, [str(word) for word in command], "train")


def contrastive_task(decoder, fmri, models, features, **changes):
    """Task of the semantic or the retrieval decoder on the small data set."""
    options = dict(n_train=N_TRAIN - N_VAL, n_epochs=EPOCHS, seed=42, alpha=0.5, crop_frames=True, clip_path=models[1]) | changes
    layout = Layout(features / "phantom")
    if decoder == "retrieval":
        return SCRIPTS[decoder].RetrievalTask(layout, SMALL, fmri, **options)
    return SCRIPTS[decoder].SemanticTask(layout, SMALL, fmri, sd_path=models[0], k1=0.01, k2=0.5, **options)


# ---------------------------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("decoder", SCRIPTS)
def test_training_leaves_checkpoints_log_and_figure(decoder, command, tmp_path, caplog):
    caplog.set_level("INFO")
    run_script(SCRIPTS[decoder], *command(decoder, "--save_every", 3))
    folder, kept = tmp_path / "run", {SMALL.epochs[decoder], 3}
    assert {path.stem for path in folder.glob("*.safetensors")} == {f"epoch_{n}" for n in kept} | {"last", "best"}
    assert (folder / "figures" / f"{decoder}_loss.png").stat().st_size > 5000
    log = log_of(folder)
    assert [entry["epoch"] for entry in log] == [1, 2, 3]
    assert all(np.isfinite(list(entry[part].values())).all() for entry in log for part in ("train", "validation"))
    best = min(log, key=lambda entry: entry["validation"]["total"])
    model, record = load_checkpoint(folder / "best.safetensors")
    assert record["epoch"] == best["epoch"] and record["decoder"] == decoder and record["seed"] == 42 and record["subject"] == 1
    assert record["finished"] and record["of_epochs"] == 3 and "packages" not in record
    assert (
        f"{decoder} epoch 2/3: training loss {log[1]['train']['total']:.4g}, validation loss {log[1]['validation']['total']:.4g}"
        in caplog.text
    )
    assert not list(folder.glob("training_state*")) and not list(folder.glob(".*"))
    assert model.in_dim == N_VERTICES
    assert digest(folder / "last.safetensors") == digest(folder / "epoch_3.safetensors")
    args = read_json(folder / "args.json")
    assert all(len(entry["sha256"]) == 64 for entry in args["inputs"]) and len(args["inputs"]) >= 2
    metrics = read_json(folder / "metrics.json")
    assert metrics["epochs"] == 3 and metrics["best"]["epoch"] == best["epoch"]


def test_learning_rates_are_the_documented_ones(command, tmp_path):
    run_script(SCRIPTS["structure"], *command("structure", "--lr", 0.01))
    assert [entry["lr"] for entry in log_of(tmp_path / "run")] == pytest.approx([0.01, 0.01 * 0.999, 0.01 * 0.999**2])
    run_script(SCRIPTS["CMG"], *command("CMG", "--warm_up", 5, "--lr_scale", 0.25, folder="cmg"))
    steps = 3  # 22 clips in batches of 8
    width = 4 * 8 * 8
    expected = [0.25 * width**-0.5 * min(s**-0.5, s * 5**-1.5) for s in (steps, 2 * steps, 3 * steps)]
    assert [entry["lr"] for entry in log_of(tmp_path / "cmg")] == pytest.approx(expected)


def test_logged_validation_losses_are_those_of_the_last_checkpoint(command, tmp_path, features):
    layout = Layout(features / "phantom")
    fmri = torch.from_numpy(np.load(layout.masked_fmri(1, "train", N_VERTICES))[-N_VAL:])
    latents = torch.from_numpy(np.load(layout.contents("train"))[-N_VAL:])
    run_script(SCRIPTS["structure"], *command("structure", "--k", 3))
    model, _ = load_checkpoint(tmp_path / "run/last.safetensors")
    expected = ((model(fmri) - latents[:, :, 0]) ** 2).mean().item()
    logged = log_of(tmp_path / "run")[-1]["validation"]
    assert logged == pytest.approx({"total": 3 * expected, "mse": expected}, rel=1e-5)

    for visibility in ("released", "causal"):
        run_script(SCRIPTS["CMG"], *command("CMG", "--visibility", visibility, folder=visibility))
        model, _ = load_checkpoint(tmp_path / visibility / "last.safetensors")
        frames = latents.transpose(1, 2).reshape(N_VAL, 8, -1)  # channels, rows, columns within a frame
        made = model.generate(fmri, frames[:, 0], 8, visibility=visibility)
        expected = ((made[:, 1:] - frames[:, 1:]) ** 2).mean().item()
        assert log_of(tmp_path / visibility)[-1]["validation"]["mse"] == pytest.approx(expected, rel=1e-5)

    paths = layout.text_embeddings_clip("train"), layout.image_embeddings_clip("train")
    text, image = (torch.from_numpy(np.load(path)[-N_VAL:]) for path in paths)
    tokens = torch.from_numpy(np.load(layout.text_embeddings_sd("train"))[-N_VAL:, 1:])
    run_script(SCRIPTS["semantic"], *command("semantic", "--alpha", 0.3, "--k1", 0.2, "--k2", 0.7, folder="semantic"))
    model, _ = load_checkpoint(tmp_path / "semantic/last.safetensors")
    embedding, decoded = model(fmri)

    def infonce(target):
        logits = model.logit_scale.exp() * F.cosine_similarity(embedding[:, None], target[None], dim=-1)
        rows = -torch.stack([logits[i].log_softmax(0)[i] for i in range(N_VAL)]).mean()
        columns = -torch.stack([logits[:, i].log_softmax(0)[i] for i in range(N_VAL)]).mean()
        return (rows + columns) / 2

    contrast = 0.3 * infonce(text) + 0.7 * infonce(image)
    total = ((embedding - text) ** 2).mean() + 0.2 * contrast + 0.7 * ((decoded - tokens) ** 2).mean()
    assert log_of(tmp_path / "semantic")[-1]["validation"]["total"] == pytest.approx(total.item(), rel=1e-5)


def test_training_loss_of_the_first_step_by_hand(command, tmp_path, features, monkeypatch):
    """One batch of all clips, no dropout: the logged training loss is the untrained model's, L1 term included."""
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    layout = Layout(features / "phantom")
    fmri = torch.from_numpy(np.load(layout.masked_fmri(1, "train", N_VERTICES))[:-N_VAL])
    frames = torch.from_numpy(np.load(layout.contents("train"))[:-N_VAL]).transpose(1, 2).flatten(2)
    started = []
    make_adam = SCRIPTS["CMG"].make_adam

    def keep(model, *args, **kwargs):
        started.append({name: value.clone() for name, value in model.state_dict().items()})
        return make_adam(model, *args, **kwargs)

    monkeypatch.setattr(SCRIPTS["CMG"], "make_adam", keep)
    flags = ["--epoch", 1, "--batch_size", 100, "--mask_ratio", 1, "--w", 1e-3]
    run_script(SCRIPTS["CMG"], *command("CMG", *flags))
    model, _ = load_checkpoint(tmp_path / "run/last.safetensors")
    model.load_state_dict(started[0])
    model.train()
    mse = ((model(fmri, frames[:, :7], torch.ones(1, 7, 7, dtype=torch.bool).tril()) - frames[:, 1:]) ** 2).mean().item()
    l1 = sum(p.abs().sum().item() for p in model.parameters())
    assert log_of(tmp_path / "run")[0]["train"] == pytest.approx({"total": mse + 1e-3 * l1, "mse": mse, "l1": l1}, rel=1e-4)


# ---------------------------------------------------------------------------------------------- what it is trained on


def test_sparsification_is_new_every_epoch_and_never_reaches_validation(models, features):
    fmri = np.load(Layout(features / "phantom").masked_fmri(1, "train", N_VERTICES))
    n = N_TRAIN - N_VAL
    for decoder, rate in (("semantic", 0.2), ("structure", 0.4)):
        source = torch.from_numpy(fmri.copy())
        if decoder == "semantic":
            task = contrastive_task(decoder, source, models, features)
            task.prepare("cpu")
        else:
            latents, l1_weight = np.zeros((N_TRAIN, 4, 8, 8, 8), np.float32), compounding_decay(0, 0, EPOCHS)
            task = SCRIPTS[decoder].StructureTask(source, latents, n_train=n, seed=42, k=1, l1_weight=l1_weight)
        zeros = []
        for epoch in (1, 2, 3):
            task.start_epoch(epoch)
            batch = task.load(np.arange(n), epoch)["fmri"].numpy()
            changed = batch != fmri[:n]
            assert (batch[changed] == 0).all() and changed.sum() == int(0.5 * int(rate * n * N_VERTICES))
            zeros.append(changed)
        assert (zeros[0] != zeros[1]).any() and (zeros[1] != zeros[2]).any()
        np.testing.assert_array_equal(source.numpy(), fmri)
        np.testing.assert_array_equal(task.load(np.arange(n, N_TRAIN), None)["fmri"].numpy(), fmri[n:])
        task.start_epoch(2)
        np.testing.assert_array_equal(task.load(np.arange(n), 2)["fmri"].numpy() != fmri[:n], zeros[1])


def test_captions_are_augmented_and_encoded_anew_in_training_alone(models, features, monkeypatch):
    import open_clip
    from transformers import CLIPTextModel, CLIPTokenizer

    layout = Layout(features / "phantom")
    monkeypatch.setattr(contrastive, "BANK_BYTES", 2 * N_TRAIN * (10 + 19 * 12) * 4)  # room for two of the three epochs
    task = contrastive_task("semantic", torch.zeros(N_TRAIN, N_VERTICES), models, features)
    task.prepare("cpu")
    clip = open_clip.create_model_and_transforms(f"local-dir:{models[1]}")[0].eval()
    tokenizer = CLIPTokenizer.from_pretrained(models[0] / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(models[0] / "text_encoder").eval()
    seen = set()
    for epoch in (3, 1, 2):
        task.start_epoch(epoch)
        captions = contrastive.draw_captions(task.captions[: task.n_train], 42, epoch)
        chosen = np.array([5, 0, 17])
        batch = task.load(chosen, epoch)
        for row, i in enumerate(chosen):
            with torch.no_grad():
                text = clip.encode_text(open_clip.SimpleTokenizer()([captions[i]]))[0]
                tokens = encoder(torch.tensor([prompt_ids(tokenizer, captions[i])]))[0][0, 1:]
            torch.testing.assert_close(batch["text"][row], text, atol=2e-5, rtol=0)
            torch.testing.assert_close(batch["tokens"][row], tokens, atol=2e-6, rtol=0)
        seen.add(tuple(captions))
    assert len(seen) == 3
    plain = sum(caption == original.lower() for captions in seen for caption, original in zip(captions, task.captions, strict=False))
    assert 0 < plain < 3 * task.n_train / 2
    batch = task.load(np.arange(N_TRAIN - N_VAL, N_TRAIN), None)
    np.testing.assert_array_equal(batch["text"].numpy(), np.load(layout.text_embeddings_clip("train"))[-N_VAL:])
    np.testing.assert_array_equal(batch["tokens"].numpy(), np.load(layout.text_embeddings_sd("train"))[-N_VAL:, 1:])
    np.testing.assert_array_equal(batch["image"].numpy(), np.load(layout.image_embeddings_clip("train"))[-N_VAL:])


def test_frames_are_cropped_for_every_clip_and_epoch(models, features):
    import open_clip
    from PIL import Image

    task = contrastive_task("retrieval", torch.zeros(N_TRAIN, N_VERTICES), models, features)
    task.prepare("cpu")
    task.start_epoch(1)
    batch = task.load(np.array([3, 4]), 1)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{models[1]}")
    side = SIZE * 400 // 512
    path = Layout(features / "phantom").frames("train", SMALL.clip_names("train")[3]) / "0000024.png"
    picture = Image.open(path)
    crops = [preprocess(picture.crop((x, y, x + side, y + side))) for y in range(SIZE - side + 1) for x in range(SIZE - side + 1)]
    assert sum(torch.equal(batch["pixels"][0], crop) for crop in crops) == 1
    with torch.no_grad():
        expected = model.eval().encode_image(batch["pixels"])
    torch.testing.assert_close(task.targets(batch)["image"], expected)
    places = {contrastive.crop_frame(np.arange(512 * 512).reshape(512, 512), numpy_generator(1, "crop", e, 3))[0, 0] for e in range(50)}
    assert len(places) > 45 and contrastive.crop_frame(np.zeros((512, 512, 3)), numpy_generator(1)).shape == (400, 400, 3)
    task = contrastive_task("retrieval", torch.zeros(N_TRAIN, N_VERTICES), models, features, crop_frames=False)
    task.prepare("cpu")
    task.start_epoch(1)
    stored = np.load(Layout(features / "phantom").image_embeddings_clip("train"))
    np.testing.assert_array_equal(task.load(np.array([3]), 1)["image"].numpy(), stored[3:4])


def test_masks_are_new_for_every_clip_and_epoch_or_fixed():
    def masks(new_masks=True):
        fmri, latents = torch.zeros(N_TRAIN, N_VERTICES), np.zeros((N_TRAIN, 4, 8, 8, 8), np.float32)
        options = dict(whole_frames=True, keep_ratio=0.6, visibility="released", l1_weight=None, seed=42)
        task = SCRIPTS["CMG"].MotionTask(fmri, latents, new_masks=new_masks, **options)
        return torch.cat([task.load(np.arange(N_TRAIN), epoch)["mask"] for epoch in (1, 2)])

    drawn = masks()
    assert drawn.shape == (2 * N_TRAIN, 7, 7) and len(drawn.unique(dim=0)) > 0.9 * len(drawn)
    open_places = torch.ones(7, 7, dtype=torch.bool).tril()
    open_places[:2] = open_places[:, 0] = False
    kept = drawn[:, open_places].float().mean().item()
    assert abs(kept - 0.6) < 5 * (0.24 / (len(drawn) * open_places.sum().item())) ** 0.5
    assert len(masks(new_masks=False).unique(dim=0)) == 1


def test_batches_cover_the_clips_once_in_a_new_order():
    first, second = (training.shuffled_batches(np.arange(10, 30), 8, 42, epoch) for epoch in (1, 2))
    assert [len(batch) for batch in first] == [8, 8, 4]
    assert sorted(np.concatenate(first)) == sorted(np.concatenate(second)) == list(range(10, 30))
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()


def test_the_validation_share_of_other_sizes_is_rounded_down(command):
    flags = [str(word) for word in command("structure")]
    del flags[flags.index("--n_val") : flags.index("--n_val") + 2]
    for n, expected in ((4320, 320), (720, 53), (2736, 202), (N_TRAIN, 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(DATASETS, "phantom", replace(SMALL, n_train_runs=1, n_train=n, clips_per_train_run=n))
            made = plan.make_plan(parse("structure", flags), "structure")
            assert len(made.val_clips) == expected == n * 320 // 4320
            assert made.val_clips[-1] == n - 1 and len(made.train_clips) == n - expected


def test_checkpoints_of_another_seed_lie_beside_those_of_the_default(command, features):
    flags = [str(word) for word in command("structure")]
    del flags[flags.index("--model_dir") : flags.index("--model_dir") + 4]
    folders = [plan.make_plan(parse("structure", [*flags, "--seed", seed]), "structure").folder for seed in ("42", "43")]
    assert [folder.relative_to(features).as_posix() for folder in folders] == [
        "phantom/checkpoints/sub1/full/structure", "phantom/checkpoints/sub1/full_seed43/structure",
    ]  # fmt: skip


def test_what_scaled_the_fmri_goes_with_the_checkpoints(command, features, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(features, root)
    rows = np.random.default_rng(0).random((4, N_VERTICES))
    save_array(Layout(root / "phantom").statistics(1, N_VERTICES), rows, **CARD)
    run_script(SCRIPTS["structure"], *command("structure", "--out_root", root, "--epoch", 1))
    mean, std = load_statistics(statistics_path(tmp_path / "run/last.safetensors"), n_vertices=N_VERTICES)
    np.testing.assert_array_equal([mean, std], rows[:2])


# ---------------------------------------------------------------------------------------------- arms


def test_arms(features, tmp_path):
    layout = Layout(features / "phantom")
    fmri = np.load(layout.masked_fmri(1, "train", N_VERTICES))
    test = np.random.default_rng(9).standard_normal((SMALL.n_test, N_VERTICES)).astype(np.float32)
    save_array(layout.masked_fmri(1, "test", N_VERTICES), test, **CARD)

    def load(split, arm, seed=1, dataset=SMALL):
        return load_fmri(layout, dataset, 1, split, arm, tmp_path, seed)

    np.testing.assert_array_equal(load("train", "full"), fmri)
    control = load("train", "control")
    assert (control != fmri).any(1).sum() > N_TRAIN / 2
    np.testing.assert_array_equal(np.sort(control, axis=0), np.sort(fmri, axis=0))
    np.testing.assert_array_equal(load("train", "control"), control)
    assert (load("train", "control", seed=2) != control).any()
    np.testing.assert_array_equal(load("test", "control"), test)
    with pytest.raises(UserError, match="use another arm"):
        load("train", "oracle", dataset=CC2017)
    with pytest.raises(UserError, match="true_features_train.npy; run .*step2"):
        load("train", "oracle")
    write_oracle(tmp_path)
    assert load("train", "oracle").shape == (N_TRAIN, 12) and load("test", "oracle").shape == (SMALL.n_test, 12)


def write_oracle(data_root):
    for split in ("train", "test"):
        rows = np.random.default_rng(0).standard_normal((SMALL.n_clips(split), 12)).astype(np.float32)
        save_array(SMALL.oracle_path(data_root, split), rows, **CARD)


def test_patches(command, tmp_path):
    run_script(SCRIPTS["CMG"], *command("CMG", "--patch_size", 4, "--hidden_dim", 16, "--N", 1, "--n_heads", 2))
    model, record = load_checkpoint(tmp_path / "run/last.safetensors")
    assert record["kind"] == "PatchCMG" and record["arguments"]["patch_size"] == 4 and record["arguments"]["n_frames"] == 7
    run_script(SCRIPTS["CMG"], *command("CMG", "--patch_size", 8, folder="whole"))  # all of an 8 x 8 latent
    assert load_checkpoint(tmp_path / "whole/last.safetensors")[1]["kind"] == "ConsistencyMotionGenerator"


def test_bf16_stays_near_fp32(command, tmp_path):
    for precision in ("fp32", "bf16"):
        run_script(SCRIPTS["structure"], *command("structure", "--precision", precision, folder=precision))
    one, two = (log_of(tmp_path / name)[-1]["validation"]["mse"] for name in ("fp32", "bf16"))
    assert one != two and one == pytest.approx(two, rel=0.02)
    assert all(p.dtype == torch.float32 for p in load_checkpoint(tmp_path / "bf16/last.safetensors")[0].parameters())


def test_workers_change_nothing(command, tmp_path):
    run_script(SCRIPTS["CMG"], *command("CMG", folder="none"))
    run_script(SCRIPTS["CMG"], *command("CMG", "--num_workers", 1, folder="one"))
    assert digest(tmp_path / "none/last.safetensors") == digest(tmp_path / "one/last.safetensors")


# ---------------------------------------------------------------------------------------------- stopping and going on


def stop_in(monkeypatch, script, step, stop):
    """Make a script's task call `stop` at its loss of a step, counted over epochs."""
    own = [kind for kind in vars(script).values() if isinstance(kind, type) and kind.__module__ == script.__name__]
    (kind,) = [kind for kind in own if issubclass(kind, training.Task)]
    loss, calls = kind.loss, []

    def counted(self, model, outputs, targets, epoch):
        if epoch is not None:
            calls.append(epoch)
            if len(calls) == step:
                stop()
        return loss(self, model, outputs, targets, epoch)

    monkeypatch.setattr(kind, "loss", counted)
    return calls


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("decoder", ["semantic", "structure", "CMG"])
def test_a_resumed_run_equals_an_uninterrupted_one(decoder, command, whole, tmp_path, monkeypatch):
    script, whole = SCRIPTS[decoder], whole(decoder)
    with monkeypatch.context() as patch:
        calls = stop_in(patch, script, 5, interrupt)  # the second step of epoch 2
        fails(script, *command(decoder), status=130)
        assert calls[-1] == 2
    _, record = load_checkpoint(tmp_path / "run/best.safetensors")
    assert (record["epoch"], record["of_epochs"], record["finished"]) == (1, EPOCHS, False) and not (tmp_path / "run/metrics.json").exists()
    with pytest.raises(UserError, match="has not finished"):
        load_checkpoint(tmp_path / "run/last.safetensors")
    run_script(script, *command(decoder, "--resume"))
    weights = {path.name: digest(path) for path in whole.glob("*.safetensors")}
    assert len(weights) >= 2 and {path.name: digest(path) for path in (tmp_path / "run").glob("*.safetensors")} == weights
    assert without_seconds(whole) == without_seconds(tmp_path / "run")
    assert read_json(tmp_path / "run/metrics.json")["best"] == read_json(whole / "metrics.json")["best"]


def test_a_state_that_is_slow_to_write_is_written_less_often(command, whole, tmp_path, monkeypatch):
    """Seconds as for the full-size CMG on a GPU, epochs of 1 and states of 2: a stop in epoch 3 costs two epochs, and the end is the same."""
    script, clock, written = SCRIPTS["structure"], [0], []
    save, validate = training.save_state, training.Trainer.validate

    def slow(path, model, optimizer, epoch, best):
        clock[0] += 2
        written.append(epoch)
        save(path, model, optimizer, epoch, best)

    def later(self, epoch):
        clock[0] += 1
        return validate(self, epoch)

    monkeypatch.setattr(training, "time", SimpleNamespace(time=time.time, monotonic=lambda: clock[0]))
    monkeypatch.setattr(training, "save_state", slow)
    monkeypatch.setattr(training.Trainer, "validate", later)
    with monkeypatch.context() as patch:
        stop_in(patch, script, 8, interrupt)  # the second step of epoch 3
        fails(script, *command("structure"), status=130)
    assert written == [1]
    run_script(script, *command("structure"))
    assert written == [1, 2, 3]  # the new process does not know yet how slow it is
    assert digest(tmp_path / "run/last.safetensors") == digest(whole("structure") / "last.safetensors")
    assert without_seconds(tmp_path / "run") == without_seconds(whole("structure"))


MOMENTS = ("best.json", "training_state.safetensors", "last.safetensors", "last.json", "metrics.json", "removal of the state")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_while_files_are_written_loses_nothing(moment, command, whole, tmp_path, monkeypatch):
    script, folder, whole = SCRIPTS["structure"], tmp_path / "run", whole("structure")
    replace_file, unlink = os.replace, Path.unlink

    def rename(source, target):
        if os.path.basename(target) == moment and len(log_of(folder)) >= 2:
            interrupt()
        replace_file(source, target)

    def remove(path, **options):
        return interrupt() if moment == MOMENTS[-1] and path.name == "training_state.safetensors" else unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", rename)
        patch.setattr(Path, "unlink", remove)
        fails(script, *command("structure"), status=130)
    run_script(script, *command("structure"))
    for name in ("last", "best", "epoch_3"):
        assert digest(whole / f"{name}.safetensors") == digest(folder / f"{name}.safetensors")
        assert read_json(whole / f"{name}.json") | {"git": None} == read_json(folder / f"{name}.json") | {"git": None}
    assert without_seconds(whole) == without_seconds(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())


def test_a_damaged_state_is_refused(command, tmp_path, monkeypatch, capsys):
    script, state = SCRIPTS["structure"], tmp_path / "run/training_state.safetensors"
    with monkeypatch.context() as patch:
        stop_in(patch, script, 5, interrupt)
        fails(script, *command("structure"), status=130)
    good = state.read_bytes()
    for bad in (good[:-100], good[:-4] + b"\0\0\0\1", good.replace(b'\\"epoch\\": 1', b'\\"epoch\\": 2', 1), b"nonsense"):
        assert bad != good
        state.write_bytes(bad)
        capsys.readouterr()
        fails(script, *command("structure"))
        assert "use --overwrite to train again" in capsys.readouterr().err
    state.write_bytes(good)
    run_script(script, *command("structure"))


def test_a_finished_run_is_left_alone_another_is_refused_and_overwrite_starts_anew(command, tmp_path, caplog, capsys):
    script = SCRIPTS["structure"]
    run_script(script, *command("structure", "--save_every", 1))
    before = digest(tmp_path / "run/last.safetensors"), (tmp_path / "run/last.safetensors").stat().st_mtime_ns
    with caplog.at_level("INFO"):
        run_script(script, *command("structure"))
    assert "already done" in caplog.text
    fails(script, *command("structure", "--k", 2))
    assert "--overwrite" in capsys.readouterr().err
    assert before == (digest(tmp_path / "run/last.safetensors"), (tmp_path / "run/last.safetensors").stat().st_mtime_ns)
    (tmp_path / "run/training_state.safetensors").write_bytes(b"left by a kill")
    run_script(script, *command("structure", "--save_every", 1))
    assert not (tmp_path / "run/training_state.safetensors").exists()
    run_script(script, *command("structure", "--overwrite", "--epoch", 2, "--seed", 3))
    assert len(log_of(tmp_path / "run")) == 2 and not list((tmp_path / "run").glob("epoch_*"))
    assert digest(tmp_path / "run/last.safetensors") != before[0]


def test_a_loss_that_is_not_finite_stops_the_run(command, tmp_path, monkeypatch, capsys):
    script = SCRIPTS["semantic"]
    loss, calls = script.semantic_loss, []

    def poisoned(*args, **kwargs):
        total, terms = loss(*args, **kwargs)
        calls.append(0)
        if len(calls) == 3 + 1 + 2:  # an epoch of three steps, its validation, two steps
            terms["tokens"] = terms["tokens"] * float("nan")
            total = total + terms["tokens"]
        return total, terms

    monkeypatch.setattr(script, "semantic_loss", poisoned)
    fails(script, *command("semantic"))
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1 and "epoch 2, step 2" in error[0] and "the loss tokens is nan" in error[0] and "embedding" not in error[0]
    assert load_checkpoint(tmp_path / "run/best.safetensors")[1]["epoch"] == 1 and len(log_of(tmp_path / "run")) == 1


def test_weights_that_blow_up_are_never_saved(command, tmp_path, capsys):
    fails(SCRIPTS["structure"], *command("structure", "--lr", 1e6))
    assert "epoch 1" in capsys.readouterr().err and not list((tmp_path / "run").glob("*.safetensors"))


# ---------------------------------------------------------------------------------------------- several processes


def in_process(decoder, argv):
    """What one of several processes does."""
    torch.set_num_threads(1)
    SCRIPTS[decoder].main(parse(decoder, argv))


@pytest.mark.parametrize("decoder", ["semantic", "CMG"])
def test_two_processes_equal_one(decoder, command, tmp_path, monkeypatch):
    from accelerate import debug_launcher
    from accelerate.state import AcceleratorState

    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    flags = ["--epoch", 2, "--batch_size", 7, "--mask_schedule", "random"] if decoder == "CMG" else ["--epoch", 2, "--batch_size", 7]
    run_script(SCRIPTS[decoder], *command(decoder, *flags, folder="one"))
    AcceleratorState._reset_state(True)  # the forked processes would inherit ours
    debug_launcher(
        in_process, (decoder, command(decoder, *flags, "--accumulate", 2 if decoder == "semantic" else 1, folder="two")), num_processes=2
    )
    for one, two in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        assert two["train"] == pytest.approx(one["train"], rel=1e-4) and two["validation"] == pytest.approx(one["validation"], rel=1e-4)
    one, two = (load_checkpoint(tmp_path / name / "last.safetensors")[0].state_dict() for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_both_passes_of_a_part_drop_the_same_units(command, monkeypatch):
    sums, forward = [], torch.nn.Dropout.forward

    def dropped(layer, x):
        out = forward(layer, x)
        sums.extend([float(out.detach().sum())] * layer.training)
        return out

    monkeypatch.setattr(torch.nn.Dropout, "forward", dropped)
    run_script(SCRIPTS["structure"], *command("structure", "--epoch", 1, "--accumulate", 3))
    passes = np.reshape(sums, (3, 2, 3, -1))  # steps, passes, parts
    np.testing.assert_allclose(passes[:, 0], passes[:, 1], rtol=1e-5)


@pytest.mark.parametrize("decoder", ["semantic", "structure", "CMG"])
def test_a_batch_in_parts_trains_as_a_whole_one(decoder, command, tmp_path, monkeypatch):
    """Contrastive, L1 and masked losses, a last batch of 6; three parts of 8, 2 and so on."""
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    flags = ["--epoch", 1, *(["--image_aug", "on"] if decoder == "semantic" else [])]
    run_script(SCRIPTS[decoder], *command(decoder, *flags, folder="whole"))
    sizes, forward = [], SCRIPTS[decoder].Trainer.forward
    monkeypatch.setattr(SCRIPTS[decoder].Trainer, "forward", lambda self, parts, key: sizes.append(len(parts)) or forward(self, parts, key))
    run_script(SCRIPTS[decoder], *command(decoder, *flags, "--accumulate", 3, folder="parts"))
    assert sizes == [3, 3, 3]
    whole, parts = (load_checkpoint(tmp_path / name / "last.safetensors")[0].state_dict() for name in ("whole", "parts"))
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


# ---------------------------------------------------------------------------------------------- mistakes


MISTAKES = [
    ("structure", "--subj_ID 7", "no subject 7"), ("structure", "--subj_ID 2", "file not found"),
    ("structure", f"--n_val {N_TRAIN}", "--n_val"), ("structure", "--epoch 0", "--epoch"), ("structure", "--k nan", "--k"),
    ("structure", "--arm oracle", "true_features_train.npy"), ("CMG", "--d_model 16384", "--d_model"),
    ("CMG", "--patch_size 64", "--patch_size"), ("CMG", "--n_heads 3", "--n_heads"), ("semantic", "--sd_path ./nowhere", "nowhere"),
]  # fmt: skip


@pytest.mark.parametrize("decoder, flags, words", MISTAKES)
def test_mistakes_are_one_line(decoder, flags, words, command, tmp_path, capsys):
    fails(SCRIPTS[decoder], *command(decoder, "--data_root", tmp_path, *flags.split()))
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert words in error


def test_features_of_another_number_of_clips_are_refused(command, features, tmp_path, capsys):
    root = tmp_path / "copy"
    shutil.copytree(features, root)
    layout = Layout(root / "phantom")
    save_array(layout.contents("train"), np.zeros((N_TRAIN - 1, 4, 8, 8, 8), np.float32), **CARD)
    for decoder in ("structure", "CMG"):
        fails(SCRIPTS[decoder], *command(decoder, "--out_root", root))
        assert "Train_contents.npy" in capsys.readouterr().err
    layout.image_embeddings_clip("train").unlink()
    fails(SCRIPTS["semantic"], *command("semantic", "--out_root", root))
    assert "Train_img_embeddings_CLIP_512.npy" in capsys.readouterr().err


def test_tensorboard_says_what_to_install(command, capsys):
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        fails(SCRIPTS["structure"], *command("structure", "--tensorboard"))
        assert "[tensorboard]" in capsys.readouterr().err
    else:
        run_script(SCRIPTS["structure"], *command("structure", "--tensorboard"))
