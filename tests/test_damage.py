"""Damaged bytes in files of ours: found when the file is read, in one sentence that names it; foreign files are taken as they are."""

import io
import os
import pickle

import h5py
import hostile
import numpy as np
import pytest
import torch
from test_checkpoints import build

from common import apart, captions, cli, files, frames, video
from common.datasets import OwnDataset
from common.files import UserError
from common.readers import FolderClips
from Data_preprocess.events import read_events
from Data_preprocess.frames import encode
from Data_preprocess.pickles import read_arrays
from Data_preprocess.ready_captions import read_ready_captions
from Feature_decoding import training_state
from models.checkpoints import load_checkpoint, save_checkpoint
from Reconstruction.outputs import FORMATS

FRAMES = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
CAPTIONS = ["a red circle over the sea", "ein größerer Stern", "a blue star"]


def with_sums(write):
    """The same, with the folder's SHA256SUMS; a frame's lies one folder up."""

    def write_both(path):
        write(path)
        folder = path.parent.parent if path.parent.name == "clip" else path.parent
        files.write_sums(folder, {path.relative_to(folder).as_posix(): files.sha256(path)})

    return write_both


def save_training(path):
    model = build("RetrievalDecoder")
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    training_state.save_state(path, model, optimizer, 3, {"epoch": 2, "loss": 0.25})


def load_training(path):
    model = build("RetrievalDecoder")
    return training_state.load_state(path, model, torch.optim.Adam(model.parameters()))


def clips_of(layout):
    return lambda path: FolderClips(path.parent, layout).read(1)


KINDS = {  # path of the file: how it is written, how it is read
    "a.npy": (
        lambda path: files.save_array(path, FRAMES.astype(np.float32), rows="clips", units="none", made_by="test"),
        lambda path: files.load_array(path, verify=True),
    ),
    "a.safetensors": (lambda path: save_checkpoint(path, build("SemanticDecoder"), epoch=3), load_checkpoint),
    "training_state.safetensors": (save_training, load_training),
    "a.h5": (lambda path: captions.write_captions(path, "train", CAPTIONS), captions.read_captions),
    "a.mp4": (with_sums(lambda path: video.write_mp4(path, FRAMES, 30)), lambda path: files.check_sum(path)),
    "clip/0000000.jpg": (
        with_sums(lambda path: files.write_bytes(path, encode(FRAMES[0], "jpg", 95))),
        lambda path: frames.read_frame(path.parent, 0, 16),
    ),
    "test1.gif": (with_sums(lambda path: FORMATS["gif"]([path], FRAMES)), clips_of("gif")),
    "test1.npz": (with_sums(lambda path: FORMATS["npz"]([path], FRAMES)), clips_of("ours")),
    "test1.mp4": (with_sums(lambda path: FORMATS["mp4"]([path], FRAMES)), clips_of("mp4")),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_changed_byte_is_found(name, tmp_path):
    write, read = KINDS[name]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write(path)
    read(path)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for at in {0, len(content) - 1, *rng.integers(0, len(content), 4).tolist()}:
        changed = bytearray(content)
        changed[at] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(changed))
        with pytest.raises(UserError) as error:
            read(path)
        assert str(path) in str(error.value) or (str(path.parent) in str(error.value) and path.name in str(error.value))
        assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------- files of users, without a checksum

EVENTS = 'run,onset,split,film,caption\na,6,train,x.mp4,a deer\na,9.5,train,y.mp4,"deer, two"\nb,9,test,z.mp4,a cat\n'
CONFIG = "all:\n  seed: 3\ntrain_CMG:\n  lr: 1e-4\n  split: [train, test]\n"
OWN = OwnDataset("mine", (1,), 2, 1, 1.5, 20, 60, tuple(range(0, 64, 8)), 24, 64, 0)


def read_config(path):
    parser = cli.make_parser("")
    parser.add_argument("--lr", type=cli.real(above=0))
    parser.add_argument("--split", nargs="+")
    return cli.read_config(path, parser, "Feature_decoding/train_CMG")


def npy_bytes(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


USERS = {  # name of the file: its bytes, how it is read, mutants
    "a.npy": (npy_bytes(np.ones((40, 6))), files.load_array, 60),
    "a.json": (
        b'{"sha256": "abc", "shape": [1, 2], "runs": {"a": null, "b": 1.5}}',
        lambda path: files.read_json(path, {"shape": [int], "runs": {...: (float, type(None))}}),
        60,
    ),
    "mine/events.csv": (EVENTS.encode(), lambda path: read_events(OWN, path.parent.parent), 60),
    "a.csv": (b'clip,caption\nt1,"a dog, big"\nt2,a cat\n', lambda path: read_ready_captions(path, ["t1", "t2"]), 60),
    "a.yaml": (CONFIG.encode(), read_config, 60),
    "a.jsonl": (b'{"clip": "a", "n": 1}\n{"clip": "b", "n": [2]}\n', lambda path: files.read_log(path, {"clip": str}), 60),
    "a.pkl": (pickle.dumps({"train": np.ones((3, 4, 5))}, protocol=2), read_arrays, 8),
    "a.h5": (None, captions.read_captions, 8),
}


def spoil(content, rng):
    """Bytes changed, cut out, put in, repeated, or cut off."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at, n = rng.integers(len(content) or 1), rng.integers(1, 30)
        replacement = (bytes([rng.integers(256)]), b"", rng.bytes(n), bytes(content[: n * 2]), b"\xff" * 8, b"\0" * 4, b"[[null")[
            rng.integers(7)
        ]
        content[at : at + (1 if rng.integers(2) else n)] = replacement
        if rng.integers(8) == 0:
            del content[at:]
    return bytes(content)


@pytest.mark.parametrize("name", USERS)
def test_damaged_files_of_users_are_read_or_refused_in_one_sentence(name, tmp_path):
    content, read, n = USERS[name]
    path, rng = tmp_path / name, np.random.default_rng(5)
    path.parent.mkdir(exist_ok=True)
    if content is None:
        with h5py.File(path, "w") as file:
            file["captions"] = CAPTIONS
        content = path.read_bytes()
    path.write_bytes(content)
    read(path)
    refused = 0
    for _ in range(n):
        path.write_bytes(spoil(content, rng))
        try:
            read(path)
        except UserError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 500 + len(str(path))
    assert refused > n / 4 or name == "a.jsonl"


@pytest.mark.parametrize(
    "content, says",
    [(b"\x93NUMPY\x01\0v\0" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 9), }".ljust(117) + b"\n", "not a readable .npy"),
     (pickle.dumps({"train": "x"})[:-1] + b"(" * 9 + b".", "damaged")],
)  # fmt: skip
def test_no_memory_is_asked_for_what_a_file_cannot_hold(tmp_path, content, says):
    path = tmp_path / ("a.npy" if b"NUMPY" in content else "a.pkl")
    path.write_bytes(content)
    with pytest.raises(UserError, match=says):
        (files.load_array if path.suffix == ".npy" else read_arrays)(path)


@pytest.mark.parametrize(
    "function, says", [(hostile.loop, "cannot be read within 1 s"), (hostile.fill, "damaged"), (hostile.crash, "damaged")]
)
def test_a_reader_that_hangs_or_takes_all_memory_is_ended(function, says, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    with pytest.raises(UserError, match=says):
        apart.read_apart(function, "x", "copy it again", seconds=1 if function is hostile.loop else 60)


def test_files_of_others_need_no_checksum(tmp_path):
    from PIL import Image

    (tmp_path / "clip").mkdir()
    Image.fromarray(FRAMES[0]).save(tmp_path / "clip/0000000.jpg")
    assert frames.read_frame(tmp_path / "clip", 0, 16).shape == (16, 16, 3)
    np.save(tmp_path / "a.npy", FRAMES)
    assert len(files.load_array(tmp_path / "a.npy", verify=True)) == 8


def test_a_damaged_block_of_the_evaluation_is_computed_again(tmp_path, caplog):
    from Evaluation_Metrics.per_clip import BlockCache

    cache = BlockCache(tmp_path)
    cache.save("clip", ["a"], {"features": np.ones((3, 4))})
    np.testing.assert_array_equal(cache.load("clip", ["a"])["features"], np.ones((3, 4)))
    path = cache.path("clip", ["a"])
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(bytes(content))
    assert cache.load("clip", ["a"]) is None and path.name in caplog.text
