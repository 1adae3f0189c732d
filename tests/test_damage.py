"""A flipped byte in any kind of file that the project writes is found by whoever reads the file, or changes nothing."""

import numpy as np
import pytest
import torch
from test_checkpoints import build
from tiny import CARD

from common import files
from common.captions import read_captions, write_captions
from common.files import UserError
from common.readers import FolderClips
from Feature_decoding import training
from models.checkpoints import load_checkpoint, save_checkpoint
from Reconstruction.outputs import FORMATS

FRAMES = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
RECORD = {"a": [1, 2.5, None], "b": {"c": "text", "d": True}}
CAPTIONS = ["a red circle over the sea", "ein größerer Stern", "a blue star"]


def read_array(path):
    return files.load_array(path, verify=True)


def save_training(path):
    model = build("RetrievalDecoder")
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    training.save_state(path.parent, 3, model, optimizer, {"epoch": 2, "loss": 0.25}, {})


def resume_training(path):
    model = build("RetrievalDecoder")
    optimizer = torch.optim.Adam(model.parameters())
    state = training.load_state(path.parent, model, optimizer)
    return str((state, [sorted(entry.items()) for entry in optimizer.state_dict()["state"].values()]))


def read_model(path):
    model, record = load_checkpoint(path.with_suffix(".safetensors"))
    return str(([record[key] for key in ("kind", "arguments", "epoch", "versions")], sorted(model.state_dict().items())))


def of_format(form):
    return lambda path: FORMATS[form]([path], FRAMES[:1] if form == "png" else FRAMES)


def clips_of(layout):
    return lambda path: FolderClips(path.parent, layout).read(1)


KINDS = {  # name of the file: how it is written, how it is read
    "a.npy": (lambda path: files.save_array(path, FRAMES.astype(np.float32), **CARD), read_array),
    "a.json": (lambda path: files.write_json(path, RECORD), lambda path: {key: files.read_json(path)[key] for key in RECORD}),
    "a.npz": (
        lambda path: np.savez(path, clip=np.arange(5), SSIM=np.linspace(0, 1, 5)),
        lambda path: {k: v.tolist() for k, v in files.load_npz(path).items()},
    ),
    "a.h5": (lambda path: write_captions(path, "train", CAPTIONS), read_captions),
    "optimizer_3.safetensors": (save_training, resume_training),
    "a.safetensors": (lambda path: save_checkpoint(path, build("SemanticDecoder"), epoch=3), read_model),
    "b.json": (lambda path: save_checkpoint(path.with_suffix(".safetensors"), build("SemanticDecoder"), epoch=3), read_model),
    "test1.gif": (of_format("gif"), clips_of("gif")),
    "test1.npz": (of_format("npz"), clips_of("ours")),
    "test1.mp4": (of_format("mp4"), clips_of("mp4")),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_flipped_byte(name, tmp_path):
    write, read = KINDS[name]
    path = tmp_path / name
    write(path)
    content, expected = path.read_bytes(), read(path)
    rng, n, found = np.random.default_rng(0), len(content), 0
    ends = min(64, n)
    places = [*range(ends), *rng.integers(0, n, 120), *range(n - ends, n)]
    for at in places:
        changed = bytearray(content)
        changed[at] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(changed))
        try:
            np.testing.assert_array_equal(read(path), expected)
        except UserError as error:
            found += 1
            assert str(path.parent) in str(error) and "\n" not in str(error)
    assert found > (0.2 if name == "a.h5" else 0.5) * len(places)  # HDF5 leaves much room unused


def test_a_damaged_block_of_the_evaluation_is_made_again(tmp_path, caplog):
    from Evaluation_Metrics.per_clip import BlockCache

    cache = BlockCache(tmp_path)
    cache.save("clip", ["a"], {"features": np.ones((3, 4))})
    np.testing.assert_array_equal(cache.load("clip", ["a"])["features"], np.ones((3, 4)))
    path = cache.path("clip", ["a"])
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(bytes(content))
    assert cache.load("clip", ["a"]) is None and path.name in caplog.text
