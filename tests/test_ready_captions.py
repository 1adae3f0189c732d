"""Caption files that people have: every form read, rows brought into clip order, what is wrong said in one sentence."""

import h5py
import numpy as np
import pytest
from tiny import fails, load_script

from common import captions
from common.files import UserError
from Data_preprocess.ready_captions import captions_of_table, read_ready_captions

LINES = ["a dog runs", "Ein Mädchen, das lacht", "two 'red' cars; and then a street"]
NAMES = ["test1_1", "test1_2", "test2_1"]
QUOTED = [f'"{line}"' for line in LINES]
TEXT = "\n".join(LINES) + "\n"


def table(rows, separator=",", heading=("clip", "caption")):
    return "".join(separator.join(row) + "\n" for row in (heading, *rows))


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.txt", TEXT),
        ("a.txt", "\ufeff" + TEXT.replace("\n", "\r\n") + "\r\n"),
        ("a.txt", TEXT.encode("utf-16")),
        ("a.csv", table([], heading=["caption"]) + "\n".join(QUOTED)),
        ("a.csv", "\n".join(QUOTED)),
        ("a.CSV", table(zip(NAMES, QUOTED, strict=True))),
        ("a.csv", table(zip(NAMES[::-1], QUOTED[::-1], strict=True))),  # by name, not by row
        ("a.csv", table(zip(QUOTED[1:] + QUOTED[:1], NAMES[1:] + NAMES[:1], strict=True), heading=("Captions", " Clip"))),
        ("a.csv", table(zip(["clips/test2_1.mp4", "x\\test1_1.mp4", "test1_2"], [QUOTED[2], QUOTED[0], QUOTED[1]], strict=True))),
        ("a.csv", table(zip([f"a/{name}.mp4" for name in NAMES[::-1]], QUOTED[::-1], strict=True), heading=("path", "caption"))),
        ("a.csv", table(zip("123", QUOTED, strict=True), heading=("id", "caption"))),
        ("a.csv", table(zip("312", QUOTED[2:] + QUOTED[:2], strict=True))),
        ("a.csv", table(zip("021", [QUOTED[0], QUOTED[2], QUOTED[1]], strict=True))),
        ("a.csv", "\ufeff" + table(zip(NAMES, QUOTED, strict=True), ";") + ";;\n"),
        ("a.csv", ("sep=;\r\n" + table(zip(NAMES, QUOTED, strict=True), ";")).encode("utf-16")),
        ("a.tsv", table(zip(NAMES, LINES, strict=True), "\t", ("clip", "caption\t\t"))),
        ("a.csv", table(zip(NAMES, [f" {line}" for line in QUOTED], strict=True))),
    ],
)
def test_every_form_is_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert read_ready_captions(tmp_path / name, NAMES) == LINES


def test_hdf5_of_every_kind(tmp_path):
    captions.write_captions(tmp_path / "a.h5", "train", LINES)
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file["fixed"], file["numbers"] = np.array([line.encode() for line in LINES])[:, None], [1, 2]
    for name in ("a.h5", "b.hdf5"):
        assert read_ready_captions(tmp_path / name, NAMES) == captions.read_captions(tmp_path / name, 3) == LINES
    with h5py.File(tmp_path / "a.h5") as file:
        assert list(file) == ["Train_captions"] and h5py.check_string_dtype(file["Train_captions"].dtype) == ("utf-8", None)
    captions.write_captions(tmp_path / "other.h5", "train", LINES[::-1])
    (tmp_path / "other.h5").replace(tmp_path / "a.h5")
    with pytest.raises(UserError, match=r"a\.h5 does not match its checksum.*--captions_test"):
        captions.read_captions(tmp_path / "a.h5")


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("a.txt", TEXT + "one more", "a.txt has 4 captions, not 3"),
        ("a.txt", "one\n\nthree", "caption number 2 is empty"),
        ("a.txt", "one\ntwo\0\nthree", "line 2, has the control character"),
        ("a.txt", TEXT.encode("latin-1"), "line 2, is not in UTF-8"),
        ("a.csv", table(zip(NAMES, LINES, strict=True)), "line 3 has 3 cells, not 2; put cells with commas in quotation marks"),
        ("a.csv", "\n".join(LINES), "line 2 has 2 cells, not 1; .* or begin the table with the names of its columns"),
        ("a.csv", "caption\n" + TEXT, "line 3 has 2 cells, not 1"),
        ("a.csv", "caption\na\n\"b\nc\n", "line 3: a quotation mark is not closed"),
        ("a.csv", "caption\na\n\"b\nc\"\nd\n", "line 3: a quotation mark is not closed"),
        ("a.csv", "caption,caption\na,b\n", "two columns named 'caption'"),
        ("a.csv", table(zip("312", QUOTED, strict=True), heading=("id", "caption")), "the numbers of a column 'id' in another order; call it clip"),
        ("a.csv", "caption\na\nnan\nb", "caption number 2 is 'nan'"),
        ("a.csv", "clip,text\na,b\n", "none of them named 'caption'"),
        ("a.csv", table(zip(NAMES[:2], QUOTED, strict=False)), "has 2 captions, not 3"),
        ("a.csv", table(zip([*NAMES[:2], "test1_1"], QUOTED, strict=True)), "line 4: there is a caption of test1_1 already"),
        ("a.csv", table(zip([*NAMES[:2], "seg1_1"], QUOTED, strict=True)), "captions of seg1_1, which is none of the 3 clips test1_1 to test2_1"),
        ("a.csv", "", "none of them named 'caption'"),
        ("a.csv", "caption\na\0\nb\nc", "line 2, has the control character"),
        ("a.json", "[]", "not a caption file by its ending"),
        ("a.h5", "no HDF5", "not a readable caption file"),
        ("b.txt", None, "file not found"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=says) as error:
        read_ready_captions(tmp_path / name, NAMES)
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, says",
    [({"x": ["a"], "y": ["b"]}, "not one data set of text but x, y"), ({"x": [1]}, "but none"),
     ({"x": [b"a", b"b\0c"]}, "caption number 2 has the control character"), ({"x": ["a", " "]}, "caption number 2 is empty")],
)  # fmt: skip
def test_hdf5_that_is_no_caption_file(tmp_path, content, says):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, values in content.items():
            file[name] = np.array(values) if isinstance(values[0], bytes) else values
    with pytest.raises(UserError, match=says):
        captions.read_captions(tmp_path / "a.h5")


def test_the_table_of_an_earlier_step_is_taken_when_every_clip_has_a_caption(tmp_path, caplog):
    path = tmp_path / "clips.csv"
    assert captions_of_table(path, NAMES) == (None, None)
    path.write_text(table(zip(NAMES[::-1], QUOTED[::-1], strict=True)))
    assert captions_of_table(path, NAMES) == (path, LINES) and not caplog.text
    path.write_text(table(zip(NAMES, ["", "", ""], strict=True)))
    assert captions_of_table(path, NAMES) == (None, None) and not caplog.text
    path.write_text(table(zip(NAMES, [*QUOTED[:2], ""], strict=True)))
    assert captions_of_table(path, NAMES) == (None, None) and "1 of the 3 clips" in caplog.text


@pytest.mark.parametrize("spoil", ["a dog, a cat\n", "a\0\n"])
def test_the_script_ends_with_one_sentence(tmp_path, capsys, spoil):
    (tmp_path / "a.csv").write_text("caption\n" + spoil)
    fails(
        load_script("Data_preprocess/CC2017/step3_video_captioning.py"), "--out_root", tmp_path / "out", "--captions_train",
        tmp_path / "a.csv",
    )  # fmt: skip
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and shown.count("\n") == 1 and not (tmp_path / "out").exists()
