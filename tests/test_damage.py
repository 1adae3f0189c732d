"""A flipped byte in any kind of file that the project writes is found by whoever reads the file, or changes nothing."""

import shutil

import numpy as np
import pytest
import torch
from test_checkpoints import build
from tiny import CARD, load_script

from Feature_decoding import training
from common import cifti, files, seals, frames as stimuli, video
from common.captions import read_captions, write_captions
from common.cortex import N_CORTEX
from common.files import UserError
from common.readers import FolderClips
from Reconstruction.outputs import FORMATS
from models.checkpoints import load_checkpoint, save_checkpoint

FRAMES = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
RECORD = {"a": [1, 2.5, None], "b": {"c": "text", "d": True}}
CAPTIONS = ["a red circle over the sea", "ein größerer Stern", "a blue star"]


def write_jpeg(path):
    path.write_bytes(load_script("Data_preprocess/CC2017/step2_get_video_frames.py").encode(FRAMES[0], "jpg", 95))


def read_array(path):
    return files.load_array(path, verify=True)


def read_values(path):
    series = cifti.open_series(path)
    series.check_values()
    return series.read()


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
    "a.mp4": (lambda path: video.write_mp4(path, FRAMES, 30), video.read_frames),
    "0000000.jpg": (write_jpeg, lambda path: stimuli.read_frame(path.parent, 0, 16)),
    "0000000.png": (of_format("png"), lambda path: stimuli.read_frame(path.parent, 0, 16)),
    "a_Atlas.dtseries.nii": (lambda path: cifti.write_series(path, np.random.default_rng(0).normal(size=(2, N_CORTEX)), 2.0), read_values),
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
    if name.endswith(".nii"):  # its header and description have a test of their own
        places = rng.integers(n - 2 * 4 * N_CORTEX, n, 25)
    else:
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


# ---------------------------------------------------------------------------------------------- seals


def test_a_seal_lies_where_other_programs_pass_over_it(tmp_path):
    """The same pictures with and without it, by readers that know nothing of it."""
    import av
    import cv2
    from PIL import Image, ImageSequence

    jpeg = cv2.imencode(".jpg", FRAMES[0])[1].tobytes()
    np.testing.assert_array_equal(
        cv2.imdecode(np.frombuffer(seals.seal_jpeg(jpeg), np.uint8), 1), cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1)
    )
    FORMATS["gif"]([tmp_path / "a.gif"], FRAMES)
    with Image.open(tmp_path / "a.gif") as picture:
        assert len([frame.copy() for frame in ImageSequence.Iterator(picture)]) == 8
    video.write_mp4(tmp_path / "a.mp4", FRAMES, 30)
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(content[: -seals.LENGTH - 8])
    decoded = [[frame.to_ndarray(format="rgb24") for frame in av.open(str(tmp_path / name)).decode(video=0)] for name in ("a.mp4", "b.mp4")]
    np.testing.assert_array_equal(*decoded)
    assert not seals.is_broken(content) and not seals.is_broken((tmp_path / "b.mp4").read_bytes())


def test_files_of_others_need_no_seal(tmp_path):
    from PIL import Image

    Image.fromarray(FRAMES[0]).save(tmp_path / "0000000.jpg")
    assert stimuli.read_frame(tmp_path, 0, 16).shape == (16, 16, 3)
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert files.read_json(tmp_path / "a.json") == {"a": 1}


# ---------------------------------------------------------------------------------------------- CIFTI headers


def test_header_bytes(tmp_path):
    """Every field of the NIfTI-2 header and words of the description: found in the file itself, or against another series.

    A byte of the values cannot be told from another value in files that are not ours, nor can free text.
    """
    import nibabel as nib

    path = tmp_path / "a_Atlas.dtseries.nii"
    cifti.write_series(path, np.random.default_rng(0).normal(size=(2, N_CORTEX)), 2.0)
    content, series = path.read_bytes(), cifti.open_series(path)
    reference, origin = series.read(), series.origin()
    fields = nib.Nifti2Header.template_dtype.fields
    places = {name: {start, start + dtype.itemsize - 1} for name, (dtype, start) in fields.items()}
    places["dim"] = set(range(16, 80, 4))
    places["extension"] = {540, 541, 543, 544, 547, 548, 551}
    end = len(content) - reference.nbytes
    places["description"] = set(np.random.default_rng(1).integers(552, content.rindex(b"</CIFTI>", 0, end), 60).tolist())
    free = range(content.index(b"<MetaData>"), content.index(b"</MetaData>"))
    alone, compared = set(), set()
    for name, positions in places.items():
        for at in positions - set(free):
            changed = bytearray(content)
            changed[at] ^= 0xFF if at < 552 else 1
            path.write_bytes(bytes(changed))
            try:
                series = cifti.open_series(path)
                series.check_tr(2.0)
                np.testing.assert_array_equal(series.read(), reference)
                if series.origin() == origin:
                    raise AssertionError(f"byte {at} ({name}) is not found")
                compared.add(name)
            except UserError as error:
                assert "a_Atlas" in str(error)
                alone.add(name)
    assert alone >= {
        "sizeof_hdr",
        "magic",
        "datatype",
        "bitpix",
        "dim",
        "vox_offset",
        "scl_slope",
        "intent_code",
        "intent_name",
        "extension",
    }
    assert compared >= {"slice_start", "xyzt_units", "srow_z", "descrip"}


def test_the_odd_one_is_named_with_its_field(tmp_path):
    paths = [tmp_path / f"{i}.dtseries.nii" for i in range(3)]
    for i, path in enumerate(paths):
        cifti.write_series(path, np.random.default_rng(i).normal(size=(2 + i, N_CORTEX)), 2.0)  # other lengths are no difference

    def odd():
        return list(cifti.odd_series(paths, [cifti.open_series(path).origin() for path in paths]))

    assert odd() == []
    content = bytearray(paths[0].read_bytes())
    content[344] = 1  # qform_code
    paths[0].write_bytes(bytes(content))
    (error, serious), *others = odd()
    assert serious and not others and "0.dtseries.nii" in str(error)
    content[240] = 65  # descrip
    paths[1].write_bytes(bytes(bytearray(paths[1].read_bytes()[:240]) + b"A" + paths[1].read_bytes()[241:]))
    shutil.copy(paths[2], paths[0])
    (error, serious), *others = odd()
    assert not serious and not others and "descrip A" in str(error)
