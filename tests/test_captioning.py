"""Captions by a model: the real BLIP-2 class with tiny random weights, and the choice between two captions."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import N_TEST, N_TRAIN, SMALL, fails, load_script, make_blip2, make_clip, make_frames, run_script

from common import datasets
from common.captions import read_captions
from common.files import read_json
from common.layout import Layout
from Data_preprocess import caption_steps
from Data_preprocess.captioning import PROMPT, choose_caption, load_captioner

SCRIPT = "Data_preprocess/CC2017/step3_video_captioning.py"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"clip": make_clip(folder / "clip"), **{kind: make_blip2(folder / kind, kind) for kind in ("t5", "opt")}}


@pytest.fixture()
def out(tmp_path, monkeypatch):
    """An output folder with random frames."""
    monkeypatch.setitem(datasets.DATASETS, "phantom", SMALL)
    for split in ("train", "test"):
        make_frames(Layout(tmp_path / "out/phantom"), split, np.random.default_rng(len(split)))
    return tmp_path / "out"


def flags(out, sources, kind="t5", *more):
    models = ["--caption_model", sources[kind], "--clip_path", sources["clip"], "--device", "cpu"]
    return ["--dataset", "phantom", "--out_root", out, *models, *more]


# ---------------------------------------------------------------------------------------------- the choice


def test_captions_that_fit_alike_are_chosen_at_random():
    chosen = [choose_caption(("a", "b"), (0.30, 0.26), 1, "train", f"clip{k}") for k in range(400)]
    assert set(chosen) == {"a", "b"} and abs(chosen.count("a") - 200) < 4 * 10
    assert chosen == [choose_caption(("a", "b"), (0.20, 0.25), 1, "train", f"clip{k}") for k in range(400)]
    assert chosen != [choose_caption(("a", "b"), (0.30, 0.26), 2, "train", f"clip{k}") for k in range(400)]


def test_captions_that_differ_are_joined():
    assert choose_caption(("a man", "a dog"), (0.30, 0.20), 1) == "a man, and then a dog"
    assert choose_caption(("a man", "a dog"), (0.20, 0.26), 1) == "a man, and then a dog"


# ---------------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("kind", ["t5", "opt"])
def test_the_captioner_is_the_models_greedy_search(kind, sources):
    """Against a loop that asks the model for one word at a time."""
    captioner = load_captioner(sources[kind])
    frames = list(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    model, processor = captioner.model, captioner.processor
    for frame, caption in zip(frames, captioner(frames), strict=True):
        inputs = processor(images=frame, text=PROMPT, return_tensors="pt")
        words = [0] if kind == "t5" else []
        with torch.no_grad():
            for _ in range(40):
                if kind == "t5":
                    step = model(**inputs, decoder_input_ids=torch.tensor([words]))
                else:
                    ids = torch.cat([inputs["input_ids"], torch.tensor([words], dtype=torch.long)], 1)
                    step = model(pixel_values=inputs["pixel_values"], input_ids=ids, attention_mask=torch.ones_like(ids))
                words.append(int(step.logits[0, -1].argmax()))
                if words[-1] == 1:
                    break
        assert caption == processor.decode(words, skip_special_tokens=True).strip()
        assert caption


def test_captions_of_all_clips(out, sources, capsys):
    script = load_script(SCRIPT)
    run_script(script, *flags(out, sources))
    assert f"phantom train: {N_TRAIN} captions from {sources['t5']}, {N_TRAIN} expected" in capsys.readouterr().out
    layout = Layout(out / "phantom")
    captions = read_captions(layout.captions("train"), N_TRAIN)
    entries = [json.loads(line) for line in (layout.captions("train").parent / "Train_captions.jsonl").read_text().splitlines()]
    assert [entry["clip"] for entry in entries] == SMALL.clip_names("train")
    for entry, caption in zip(entries, captions, strict=True):
        assert entry["caption"] == caption
        both = f"{entry['first']}, and then {entry['last']}"
        alike = abs(entry["cosines"][0] - entry["cosines"][1]) <= 0.05
        assert caption in ((entry["first"], entry["last"]) if alike else (both,))
    assert len({entry["first"] for entry in entries}) > 1
    # frame 0 gives the first, frame 56 the last, frame 24 the cosines
    from common.frames import read_frame
    from models.encoders import encode_clip_images, encode_clip_text
    from models.loading import load_clip

    captioner = load_captioner(sources["t5"])
    model, preprocess, tokenizer = load_clip(str(sources["clip"]))
    name = SMALL.clip_names("train")[3]
    first, middle, last = (read_frame(layout.frames("train", name), index, SMALL.frame_size) for index in (0, 24, 56))
    assert captioner([first, last]) == [entries[3]["first"], entries[3]["last"]]
    image = encode_clip_images(model, preprocess(Image.fromarray(middle))[None])[0]
    text = encode_clip_text(model, tokenizer, [entries[3]["last"]])[0]
    assert float(image @ text / image.norm() / text.norm()) == pytest.approx(entries[3]["cosines"][1], abs=1e-5)


def test_resuming_changes_nothing_and_batch_size_next_to_nothing(out, sources, monkeypatch):
    script, layout = load_script(SCRIPT), Layout(out / "phantom")
    argv, path = flags(out, sources, "t5", "--split", "test"), layout.captions("test").with_name("Test_captions.jsonl")
    run_script(script, *argv, "--batch_size", 2)
    whole, lines = layout.captions("test").read_bytes(), path.read_text()
    layout.captions("test").unlink()
    path.write_text("".join(lines.splitlines(keepends=True)[:2]) + lines[:30])  # cut off in the third entry
    seen = []
    original = caption_steps.read_clip
    monkeypatch.setattr(caption_steps, "read_clip", lambda folder, *rest: seen.append(folder.name) or original(folder, *rest))
    run_script(script, *argv, "--batch_size", 2)
    assert seen == SMALL.clip_names("test")[2:] and len(seen) == N_TEST - 2
    assert layout.captions("test").read_bytes() == whole and path.read_text() == lines
    assert read_json(layout.captions("test").parent / "records/Test/metrics.json")["captions"] == N_TEST

    run_script(script, *argv, "--batch_size", 1, "--overwrite")
    for before, after in zip(map(json.loads, lines.splitlines()), map(json.loads, path.read_text().splitlines()), strict=True):
        # a matrix product of other size sums in another order, and so rounds otherwise
        np.testing.assert_allclose(after.pop("cosines"), before.pop("cosines"), atol=1e-5)
        assert after == before


def test_a_missing_model_is_one_line(out, sources, capsys):
    fails(load_script(SCRIPT), *flags(out, sources | {"t5": "no/such/folder/here"}))
    assert "error: file not found: no/such/folder/here; give an image-to-text model of transformers" in capsys.readouterr().err


def test_a_signal_waits_while_captions_are_written(tmp_path, monkeypatch):
    """In mid-write h5py makes another error of the exception that the signal raises."""
    import signal

    from common import captions

    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    create, written = captions.h5py.Group.create_dataset, []

    def interrupted(*args, **options):
        signal.raise_signal(signal.SIGTERM)
        written.append(create(*args, **options))

    monkeypatch.setattr(captions.h5py.Group, "create_dataset", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            captions.write_captions(tmp_path / "c.h5", "train", ["a", "b"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert written and not (tmp_path / "c.h5").exists()  # the data set was made first
    monkeypatch.undo()
    captions.write_captions(tmp_path / "c.h5", "train", ["a", "b"])
    assert captions.read_captions(tmp_path / "c.h5", 2) == ["a", "b"]
