"""Damaged files: found when they are read, in one sentence, without a hang, a crash, other errors, or code of theirs that runs.

Every reader meets a dozen spoiled files; MINDANIMATOR_MUTANTS=200 sets another number.
"""

import functools
import hashlib
import io
import json
import os
import pickle
import resource
import select
import signal
import traceback

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
from Data_preprocess import pickles
from Data_preprocess.cifti import open_series
from Data_preprocess.cifti_writing import write_series
from Data_preprocess.events import read_events
from Data_preprocess.frames import encode
from Data_preprocess.pickles import read_arrays
from Data_preprocess.ready_captions import read_ready_captions
from Feature_decoding import training_state
from models.checkpoints import load_checkpoint, read_released, save_checkpoint
from Reconstruction.outputs import FORMATS

N_MUTANTS = int(os.environ.get("MINDANIMATOR_MUTANTS", 12))
SECONDS, MEMORY = 60, 2**30  # that a reader of a small file may take; bytes
FRAMES = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
CAPTIONS = ["a red circle over the sea", "ein größerer Stern", "a blue star"]
EVENTS = 'run,onset,split,film,caption\na,6,train,x.mp4,a deer\na,9.5,train,y.mp4,"deer, two"\nb,9,test,z.mp4,a cat\n'
CONFIG = "all:\n  seed: 3\ntrain_CMG:\n  lr: 1e-4\n  split: [train, test]\n"
OWN = OwnDataset("mine", (1,), 2, 1, 1.5, 20, 60, tuple(range(0, 64, 8)), 24, 64, 0)


# ---------------------------------------------------------------------------------------------- what is written and read


def with_sums(write):
    """The same, with the folder's SHA256SUMS; a frame's lies one folder up."""

    def write_both(path):
        write(path)
        folder = path.parent.parent if path.parent.name == "clip" else path.parent
        files.write_sums(folder, {path.relative_to(folder).as_posix(): files.sha256(path)})

    return write_both


def content(data):
    return lambda path: path.write_bytes(data() if callable(data) else data)


def save_training(path):
    model = build("RetrievalDecoder")
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    training_state.save_state(path, model, optimizer, 3, {"epoch": 2, "loss": 0.25})


def load_training(path):
    model = build("RetrievalDecoder")
    return training_state.load_state(path, model, torch.optim.Adam(model.parameters()))


def clips_of(layout, file=False):
    return lambda path: FolderClips(path if file else path.parent, layout).read(1)


def read_config(path):
    parser = cli.make_parser("")
    parser.add_argument("--lr", type=cli.real(above=0))
    parser.add_argument("--split", nargs="+")
    return cli.read_config(path, parser, "Feature_decoding/train_CMG")


def write_h5(path):
    with h5py.File(path, "w") as file:
        file["captions"] = CAPTIONS


def npy_bytes():
    np.save(buffer := io.BytesIO(), np.ones((40, 6)))
    return buffer.getvalue()


def zip_bytes():
    np.savez(buffer := io.BytesIO(), frames=FRAMES)
    return buffer.getvalue()


def save_pth(new):
    return lambda path: torch.save(build("StructureDecoder").state_dict(), path, _use_new_zipfile_serialization=new)


def write_gif(path):
    FORMATS["gif"]([path], FRAMES)


def write_npz(path):
    FORMATS["npz"]([path], FRAMES)


def read_state(path):
    return {name: tensor.numpy() for name, tensor in read_released(path).items()}


def frames_of_movie(path):
    return video.read_frames(path, [0, 3]), video.read_frames(path)


CHECKED = {  # files with a checksum, by their path: how they are written, how they are read
    "a.npy": (
        lambda path: files.save_array(path, FRAMES.astype(np.float32), rows="clips", units="none", made_by="test"),
        lambda path: files.load_array(path, verify=True),
    ),
    "a.safetensors": (lambda path: save_checkpoint(path, build("SemanticDecoder"), epoch=3), load_checkpoint),
    "training_state.safetensors": (save_training, load_training),
    "a.h5": (lambda path: captions.write_captions(path, "train", CAPTIONS), captions.read_captions),
    "a.mp4": (with_sums(lambda path: video.write_mp4(path, FRAMES, 30)), files.check_sum),
    "clip/0000000.jpg": (
        with_sums(lambda path: files.write_bytes(path, encode(FRAMES[0], "jpg", 95))),
        lambda path: frames.read_frame(path.parent, 0, 16),
    ),
    "test1.gif": (with_sums(write_gif), clips_of("gif")),
    "test1.npz": (with_sums(write_npz), clips_of("ours")),
    "test1.mp4": (with_sums(lambda path: FORMATS["mp4"]([path], FRAMES)), clips_of("mp4")),
}
OTHERS = {  # the same of files that people bring; of some the format itself has a checksum
    "a.npy": (content(npy_bytes), files.load_array),
    "a.json": (
        content(b'{"sha256": "abc", "shape": [1, 2], "runs": {"a": null, "b": 1.5}}'),
        lambda path: files.read_json(path, {"shape": [int], "runs": {...: (float, type(None))}}),
    ),
    "a.jsonl": (content(b'{"clip": "a", "n": 1}\n{"clip": "b", "n": [2]}\n'), lambda path: files.read_log(path, {"clip": str})),
    "a.yaml": (content(CONFIG.encode()), read_config),
    "mine/events.csv": (content(EVENTS.encode()), lambda path: read_events(OWN, path.parent.parent)),
    "a.csv": (content(b'clip,caption\nt1,"a dog, big"\nt2,a cat\n'), lambda path: read_ready_captions(path, ["t1", "t2"])),
    "a.pkl": (content(pickle.dumps({"train": np.ones((3, 4, 5))}, protocol=2)), read_arrays),
    "a.h5": (write_h5, captions.read_captions),
    "a.dtseries.nii": (lambda path: write_series(path, np.ones((2, 59412)), 2.0), lambda path: open_series(path).read()),
    "a.mp4": (lambda path: video.write_mp4(path, FRAMES, 30), frames_of_movie),
    "test1.gif": (write_gif, clips_of("gif")),
    "test1.npz": (write_npz, clips_of("ours")),
    "1/0.png": (lambda path: path.write_bytes(encode(FRAMES[0], "png", 95)), lambda path: FolderClips(path.parents[1], "ours").read(1)),
    "a.pth": (save_pth(True), read_state),
    "old.pth": (save_pth(False), read_state),
}
HAVE_CRC = ("test1.npz", "a.pth")


# ---------------------------------------------------------------------------------------------- spoiled

CODE = (b"cos\nsystem\n(S'touch executed'\ntR.", b'!!python/object/apply:os.system ["touch executed"]\n')


def mutants(content, n, rng):
    """Other bytes than those of a file: a byte changed at its ends, nothing, code before it, then whatever comes."""
    fixed = [bytes([content[0] ^ 1]) + content[1:], content[:-1] + bytes([content[-1] ^ 128]), b"", *(code + content for code in CODE)]
    for i in range(n):
        changed = fixed[i] if i < len(fixed) else spoil(content, rng)
        yield changed if changed != content else content[:-1]


def spoil(content, rng):
    """Bytes changed, cut out, put in, repeated, or cut off; half of the places lie in the first 500 bytes."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at, n = rng.integers((len(content), min(500, len(content)))[rng.integers(2)] or 1), rng.integers(1, 30)
        choices = (bytes([rng.integers(256)]), b"", rng.bytes(n), bytes(content[: n * 2]), b"\xff" * 8, b"\0" * 4, b"[[null", *CODE)
        content[at : at + (1 if rng.integers(2) else n)] = choices[rng.integers(len(choices))]
        if rng.integers(8) == 0:
            del content[at:]
    return bytes(content)


def read_all(read, path, contents, pipe):
    """In a child: read a file that gets one content after the other; a line of JSON each says what came of it."""
    signal.alarm(0)
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * 2**30,) * 2)
    for number, content in enumerate(contents, 1):
        path.write_bytes(content)
        os.utime(path, ns=(number, number))
        said = {}
        try:
            said["read"] = hashlib.sha256(pickle.dumps(read(path))).hexdigest()
        except UserError as error:
            said["refused"] = str(error)
        except BaseException:
            said["traceback"] = traceback.format_exc()[-1500:]
        said["peak"] = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024
        pipe.write(json.dumps(said) + "\n")
        pipe.flush()


def outcomes(read, path, contents):
    """What a reader makes of each content, list of dict; a process of its own reads, so that no hang and no crash is ours."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reading)
            read_all(read, path, contents, os.fdopen(writing, "w"))
        finally:
            os._exit(0)
    os.close(writing)
    found = []
    with os.fdopen(reading) as pipe:
        while len(found) < len(contents):
            line = pipe.readline() if select.select([pipe], [], [], 2 * SECONDS)[0] else None
            if not line:
                found.append({"traceback": "it hangs" if line is None else "it crashes"})
                break
            found.append(json.loads(line))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return found


@pytest.mark.parametrize("checked, name", [(checked, name) for checked, kinds in ((True, CHECKED), (False, OTHERS)) for name in kinds])
def test_spoiled_files_are_refused_in_one_sentence(checked, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (write, read), path = (CHECKED if checked else OTHERS)[name], tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write(path)
    content = path.read_bytes()
    contents = [content, *mutants(content, N_MUTANTS, np.random.default_rng(5))]
    right, *found = outcomes(read, path, contents)
    assert "read" in right, right
    for number, said in enumerate(found, 1):
        fault = None
        if "traceback" in said:
            fault = said["traceback"]
        elif "refused" in said:
            words = said["refused"]
            fault = (
                None
                if str(tmp_path) in words and path.name in words and "\n" not in words and len(words) < 500 + len(str(path))
                else f"bad sentence {words!r}"
            )
        elif checked or (name in HAVE_CRC and said["read"] != right["read"]):
            fault = "taken for whole"
        if said.get("peak", 0) > right["peak"] + MEMORY:
            fault = f"{said['peak'] / 2**30:.1f} GiB"
        if fault:
            (keep := tmp_path / f"mutant{number}").write_bytes(contents[number])
            pytest.fail(f"{keep}: {fault}")
    assert not (tmp_path / "executed").exists()
    refused = sum("refused" in said for said in found)
    print(f"{name}: {refused} of {len(found)} refused, peak {(max(said['peak'] for said in found) - right['peak']) / 2**20:.0f} MiB more")
    assert refused > len(found) / 4 or name == "a.jsonl"


@pytest.mark.parametrize(
    "content, says",
    [(b"\x93NUMPY\x01\0v\0" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 9), }".ljust(117) + b"\n", "not a readable .npy"),
     (pickle.dumps({"train": "x"})[:-1] + b"(" * 9 + b".", "damaged")],
)  # fmt: skip
def test_no_memory_is_asked_for_what_a_file_cannot_hold(tmp_path, content, says):
    path = tmp_path / ("a.npy" if b"NUMPY" in content else "a.pkl")
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        (files.load_array if path.suffix == ".npy" else read_arrays)(path)
    assert not cli.lacks_memory(error.value.__context__)


@pytest.mark.parametrize(
    "function, says",
    [(hostile.loop, "cannot be read within 1 s"), (hostile.fill, "ended with status 1"), (hostile.crash, "ended with status -6")],
)
def test_a_reader_that_hangs_or_takes_all_memory_is_ended(function, says, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    with pytest.raises(UserError, match=says):
        apart.read_apart(function, "x", "copy it again", seconds=1 if function is hostile.loop else 60)


@pytest.mark.parametrize("name, module, function", [("a.pkl", pickles, "unpickle"), ("a.h5", captions, "read_texts")])
def test_what_may_hang_is_read_in_a_process_of_its_own(tmp_path, monkeypatch, name, module, function):
    (write, read), path = OTHERS[name], tmp_path / name
    write(path)
    monkeypatch.setattr(module, function, functools.wraps(getattr(module, function))(lambda path: pytest.fail("read here")))
    assert read(path)


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
