"""Damaged bytes in files of ours: found when the file is read, in one sentence that names it; foreign files are taken as they are."""

import numpy as np
import pytest
import torch
from test_checkpoints import build

from common import captions, files, frames, video
from common.files import UserError
from common.readers import FolderClips
from Data_preprocess.frames import encode
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
