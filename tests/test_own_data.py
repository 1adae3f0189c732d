"""Bring your own fMRI: TR 1.5 s, clips of 3 s at 20 fps, voxels without a surface; the page's own entry and commands."""

import contextlib
import csv
import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import gamma
from test_house import code_blocks, commands, own_data_sets
from tiny import ROOT, error_of, fails, load_script, run_script

from common import datasets, fmri, video
from common.captions import read_captions
from common.files import UserError, card_path, load_array, read_json
from common.layout import Layout
from Data_preprocess import cifti_writing, events, vertex_figures
from models.checkpoints import load_checkpoint
from phantom import world as phantom_world

PAGE = ROOT / "docs/own_data.md"
MINE = replace(own_data_sets()["mine"], subjects=(1, 2), n_train=40, n_test=12, n_vertices=9, frame_size=64)
STEP1 = load_script("Data_preprocess/Own/step1_cut_event_clips.py")
STEP4 = load_script("Data_preprocess/Own/step4_convert_event_fMRI.py")
N_VOXELS, VOLUMES = 24, 130
CONSTANT, NAN, PLANTED = 3, 17, np.arange(5, 14)


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "mine", MINE)


def register(monkeypatch, **changes):
    monkeypatch.setitem(datasets.DATASETS, "mine", replace(MINE, **changes))


def write_table(path, rows, columns=("run", "onset", "split", "film", "start")):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as handle:
        csv.writer(handle, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([columns, *rows])


def flags(folder, *more, workers=1):
    return ["--dataset", "mine", "--data_root", folder / "DATA", "--out_root", folder / "out", "--workers", workers, *more]


# ---------------------------------------------------------------------------------------------- a small example


def small_table():
    """Training clips twice, in two orders; test clips three times; onsets off the grid of volumes."""
    rng, rows = np.random.default_rng(5), []
    shown = {"a": ("train", 40), "b": ("train", 40), "c": ("test", 12), "d": ("test", 12)}
    for run, (split, n) in shown.items():
        order = np.arange(n) if run in "ac" else rng.permutation(n)
        if run == "d":
            order = np.concatenate([order, rng.permutation(n)])
        onset = 3.1
        for i in order:
            rows.append([run, round(onset, 3), split, f"films/{split}.mp4", 3 * int(i)])
            onset += rng.uniform(3.2, 4.8)
    return rows


def small_series(run, subject=1):
    rng = np.random.default_rng([subject, ord(run)])
    series = 500 + rng.normal(size=(VOLUMES, N_VOXELS)) + np.linspace(0, 4, VOLUMES)[:, None] ** 2
    for name, onset, split, _, start in small_table():
        if name == run:
            answer = np.random.default_rng([start, split == "test"]).normal(size=len(PLANTED))
            for k in range(VOLUMES):
                if onset + 4 <= 1.5 * k < onset + 7:
                    series[k, PLANTED] += 4 * answer
    series[:, CONSTANT], series[40, NAN] = 7.7, np.nan
    return series


@pytest.fixture()
def small(tmp_path):
    write_table(MINE.events_path(tmp_path / "DATA"), small_table())
    for run in "abcd":
        path = MINE.series_path(tmp_path / "DATA", 1, run)
        path.parent.mkdir(exist_ok=True)
        np.save(path, small_series(run))
    return tmp_path


def plain_rows(volumes="mean"):
    """Response of every voxel to every presentation, one at a time: dict (split, start) -> list of (voxels,)."""
    rows = {}
    time = np.linspace(0, 1, VOLUMES)
    cleaned = {}
    for run in "abcd":
        series = small_series(run)
        cleaned[run] = np.zeros_like(series)
        for v in range(N_VOXELS):
            if v not in (CONSTANT, NAN):
                rest = series[:, v] - np.polyval(np.polyfit(time, series[:, v], 4), time)
                cleaned[run][:, v] = (rest - rest.mean()) / rest.std()
    for run, onset, split, _, start in small_table():
        inside = [k for k in range(VOLUMES) if onset + 4 <= 1.5 * k < onset + 7]
        assert len(inside) == 2
        if volumes == "nearest":
            inside = [min(range(VOLUMES), key=lambda k: abs(1.5 * k - onset - 4))]
        rows.setdefault((split, start), []).append(np.mean([cleaned[run][k] for k in inside], axis=0))
    return rows


@pytest.mark.parametrize("volumes", ["mean", "nearest"])
def test_rows_are_the_plain_ones(small, volumes, capsys):
    run_script(STEP4, *flags(small, "--volumes", volumes, workers=2))
    out = capsys.readouterr().out
    assert "mine subject 1: 116 events in 4 runs, 24 voxels" in out and "40 clips x 9 voxels, 40 clips expected" in out
    rows, layout = plain_rows(volumes), Layout(small / "out/mine")
    clips = {"train": [("train", 3 * i) for i in range(40)], "test": [("test", 3 * i) for i in range(12)]}
    first, second = (np.array([rows[clip][rep] for clip in clips["train"]]) for rep in (0, 1))
    r = np.array([np.nan if v in (CONSTANT, NAN) else np.corrcoef(first[:, v], second[:, v])[0, 1] for v in range(N_VOXELS)])
    np.testing.assert_allclose(np.load(layout.mask(1).parent / "correlation.npy"), r, atol=1e-5)
    chosen = np.sort(np.argsort(np.where(np.isnan(r), -2, r))[-9:])
    mask = load_array(layout.mask(1), shape=(N_VOXELS,), verify=True)
    assert np.flatnonzero(mask).tolist() == chosen.tolist()
    if volumes == "mean":
        assert chosen.tolist() == PLANTED.tolist()
    for split, n in (("train", 40), ("test", 12)):
        expected = np.array([np.mean(rows[clip], axis=0) for clip in clips[split]])[:, chosen]
        expected = (expected - expected.mean(0)) / expected.std(0)
        path = layout.masked_fmri(1, split, 9)
        made = load_array(path, shape=(n, 9), dtype="float32", verify=True)
        np.testing.assert_allclose(made, expected, atol=1e-5)
        assert read_json(card_path(path))["voxels"] == chosen.tolist()
    report = read_json(layout.fmri_report(1))
    assert report["presentations"] == {"train": {"least": 2, "most": 2}, "test": {"least": 3, "most": 3}}
    assert report["bad_vertices"] == {"in_any_series": 2, "selected_and_bad": 0} and report["runs"]["a"]["bad_voxels"] == 2
    assert report["inter_repetition_correlation"]["selected"]["mean"] == pytest.approx(r[chosen].mean())


def test_a_second_run_does_nothing_and_a_new_series_is_seen(small, caplog, capsys):
    run_script(STEP4, *flags(small))
    layout = Layout(small / "out/mine")
    before = {path: path.stat().st_mtime_ns for path in (small / "out").rglob("*.*")}
    with caplog.at_level("INFO"):
        run_script(STEP4, *flags(small))
    assert "already done" in caplog.text and {path: path.stat().st_mtime_ns for path in (small / "out").rglob("*.*")} == before
    np.save(MINE.series_path(small / "DATA", 1, "b"), small_series("b")[:, ::-1])
    run_script(STEP4, *flags(small))
    changed = {path.stem for path, when in before.items() if path.suffix == ".npy" and path.stat().st_mtime_ns != when}
    assert "b" in changed and "masked9_trn_data" in changed and not {"a", "c", "d"} & changed
    content = bytearray((rows := layout.fmri_report(1).parent / "events/a.npy").read_bytes())
    content[-1] ^= 1
    rows.write_bytes(content)
    layout.masked_fmri(1, "test", 9).unlink()
    assert "events/a.npy does not match its checksum" in error_of(capsys, STEP4, *flags(small))


def test_masks_all_voxels_and_norm(small, monkeypatch, capsys):
    layout = Layout(small / "out/mine")
    mask = np.zeros(N_VOXELS)
    mask[[1, 20]] = 1
    np.save(small / "two.npy", mask)
    assert "two.npy has 2 ones, and n_vertices of mine is 9" in error_of(capsys, STEP4, *flags(small, "--mask_from", small / "two.npy"))
    register(monkeypatch, n_vertices=25)
    assert "n_vertices of mine is 25, and the series have 24 voxels" in error_of(capsys, STEP4, *flags(small, "--overwrite"))
    register(monkeypatch, n_vertices=2)
    run_script(STEP4, *flags(small, "--mask_from", small / "two.npy", "--test_norm", "train", "--overwrite"))
    rows = plain_rows()
    train, test = (
        np.array([np.mean(rows[split, 3 * i], axis=0) for i in range(n)])[:, [1, 20]] for split, n in (("train", 40), ("test", 12))
    )
    np.testing.assert_allclose(np.load(layout.masked_fmri(1, "test", 2)), (test - train.mean(0)) / train.std(0), atol=1e-5)
    register(monkeypatch, n_vertices=0)
    run_script(STEP4, *flags(small, "--overwrite"))
    made = load_array(layout.masked_fmri(1, "train", 0), shape=(40, N_VOXELS))
    assert (made[:, [CONSTANT, NAN]] == 0).all() and np.load(layout.mask(1)).all()


def test_no_repetition_no_selection(small, capsys, monkeypatch):
    write_table(MINE.events_path(small / "DATA"), [row for row in small_table() if row[0] != "b"])
    assert "fewer than 16 training clips were shown twice" in error_of(capsys, STEP4, *flags(small))
    register(monkeypatch, n_vertices=N_VOXELS)
    run_script(STEP4, *flags(small, "--overwrite"))
    assert "inter_repetition_correlation" not in read_json(Layout(small / "out/mine").fmri_report(1))


def test_ready_rows(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(2)
    train, test = rng.normal(3, 2, (40, 9)), rng.normal(3, 2, (12, 9))
    for name, rows in {"train": train, "test": test, "short": test[:, :8], "broken": np.where(test > 5, np.nan, test)}.items():
        np.save(tmp_path / f"{name}.npy", rows)
    np.save(tmp_path / "vertices.npy", vertices := np.arange(10, 100, 10))
    given = ["--fmri_train", tmp_path / "train.npy", "--fmri_test"]
    drawn = []
    monkeypatch.setattr(
        vertex_figures, "draw_cortex", lambda path, values, *_, **__: drawn.append((path.name, np.flatnonzero(values == 1)))
    )
    run_script(STEP4, *flags(tmp_path, *given, tmp_path / "test.npy", "--vertices", tmp_path / "vertices.npy"))
    layout = Layout(tmp_path / "out/mine")
    for split, rows in (("train", train), ("test", test)):
        np.testing.assert_allclose(np.load(layout.masked_fmri(1, split, 9)), (rows - rows.mean(0)) / rows.std(0), atol=1e-6)
        mean, std = fmri.load_statistics(layout.statistics(1, 9), split, 9)
        np.testing.assert_allclose(np.load(layout.masked_fmri(1, split, 9)) * std + mean, rows, atol=1e-5)
    assert np.flatnonzero(load_array(layout.mask(1), shape=(59412,))).tolist() == vertices.tolist()
    assert read_json(card_path(layout.masked_fmri(1, "test", 9)))["vertices"] == vertices.tolist()
    assert drawn[0][0] == "mask.png" and drawn[0][1].tolist() == vertices.tolist()
    assert "short.npy has 8 voxels" in error_of(capsys, STEP4, *flags(tmp_path, *given, tmp_path / "short.npy"))
    assert "broken.npy has NaN or infinite values" in error_of(capsys, STEP4, *flags(tmp_path, *given, tmp_path / "broken.npy"))
    assert "train.npy has shape (40, 9), not (12, any)" in error_of(capsys, STEP4, *flags(tmp_path, *given, tmp_path / "train.npy"))
    assert "belong together" in error_of(capsys, STEP4, *flags(tmp_path, *given[:2]))


# ---------------------------------------------------------------------------------------------- CIFTI


def test_cifti_series(tmp_path, capsys, monkeypatch):
    """Three runs of the cortex give what the same columns give as plain arrays; a wrong TR is found."""
    register(monkeypatch, n_train=16, n_test=8, n_vertices=40, series="sub{subject}/{run}.dtseries.nii")
    entry, rng = datasets.DATASETS["mine"], np.random.default_rng(0)
    rows = [[run, 1 + 3 * i, "train", "film.mp4", 3 * i] for run in "ab" for i in range(16)]
    rows += [["c", 1 + 3 * i, "test", "film.mp4", 100 + 3 * i] for i in range(8)]
    write_table(entry.events_path(tmp_path / "DATA"), rows)
    shared = rng.normal(size=(40, 100))
    for run in "abc":
        series = rng.normal(size=(40, 59412)).astype(np.float32)
        series[:, 2000:2100] += 5 * shared
        path = entry.series_path(tmp_path / "DATA", 1, run)
        cifti_writing.write_series(path, series, 1.5)
        np.save(path.with_name(f"{run}.npy"), series)
    run_script(STEP4, *flags(tmp_path, "--no_figures"))
    layout = Layout(tmp_path / "out/mine")
    mask = load_array(layout.mask(1), shape=(59412,))
    assert mask.sum() == 40 and mask[2000:2100].sum() > 30  # of 59312 others, a few correlate by chance over sixteen clips
    of_cifti = {split: np.load(layout.masked_fmri(1, split, 40)) for split in ("train", "test")}
    register(monkeypatch, n_train=16, n_test=8, n_vertices=40)
    run_script(STEP4, *flags(tmp_path, "--overwrite"))
    for split, expected in of_cifti.items():
        np.testing.assert_array_equal(np.load(layout.masked_fmri(1, split, 40)), expected)

    register(monkeypatch, n_train=16, n_test=8, n_vertices=40, tr=1.6, series=entry.series)
    packed = entry.series_path(tmp_path / "DATA", 1, "b")
    packed.with_name("b.dtseries.nii.gz").write_bytes(gzip.compress(packed.read_bytes(), 1))
    packed.unlink()
    line = error_of(capsys, STEP4, *flags(tmp_path, "--overwrite"))
    assert "a.dtseries.nii has 1.5 s between volumes in its header, not the registry's 1.6 s" in line
    drawn = []
    monkeypatch.setattr(vertex_figures, "draw_cortex", lambda path, *_, **__: drawn.append(path.name))
    run_script(STEP4, *flags(tmp_path, "--overwrite", "--ignore_header_tr"))
    assert sorted(drawn) == ["mask.png", "repetition_correlation.png"]


# ---------------------------------------------------------------------------------------------- event tables and volumes


def test_volumes_of_an_event():
    assert events.event_volumes(0.5, 3, 4, 1.5) == (3, 5)  # 4.5 and 6 s
    assert events.event_volumes(0.5, 3, 4, 1.5, "nearest") == (3, 4)
    assert events.event_volumes(10, 2, 4, 2.0) == (7, 8)  # CC2017's timing
    assert events.event_volumes(0.3 + 0.6, 3, 0.6, 1.5) == (1, 3)  # 1.5 s but for rounding
    assert events.event_volumes(1, 0.5, 4, 2.0) == (3, 4)  # 5 to 5.5 s holds none: 6 s is as near as 4 s, the later one
    rng = np.random.default_rng(1)
    for _ in range(300):
        onset, seconds, lag, tr = rng.uniform(0, 50), rng.uniform(0.5, 5), rng.uniform(2, 6), rng.uniform(0.5, 3)
        inside = [k for k in range(300) if onset + lag <= k * tr < onset + lag + seconds]
        nearest = min(range(300), key=lambda k: abs(k * tr - onset - lag))
        first, end = events.event_volumes(onset, seconds, lag, tr)
        assert list(range(first, end)) == (inside or [nearest])


def test_the_table_of_the_page(tmp_path, monkeypatch):
    register(monkeypatch, n_train=3, n_test=1)
    path = MINE.events_path(tmp_path)
    path.parent.mkdir()
    path.write_text(code_blocks(PAGE, "csv")[0])
    read = events.read_events(datasets.DATASETS["mine"], tmp_path)
    clips = [(event.film, event.start, event.first) for event in events.clips_of(read, "train")]
    assert clips == [("films/forest.mp4", 0, 0), ("films/forest.mp4", 3, 60), ("films/harbour.mp4", 41.5, 830)]
    assert [(event.run, event.onset) for event in read if event.clip == ("films/forest.mp4", 0)] == [("run1", 6), ("run2", 7.5)]
    assert read[-1].caption == "a cat on a sofa"


TABLE = """run,onset,duration,split,film,start,caption
a,6,3,train,x.mp4,0,a deer
a,9.5,3,train,x.mp4,3,"a deer, running"
b,6,3,train,x.mp4,0,a deer
b,9,3,test,y.mp4,0,a cat
"""
SEMICOLONS = TABLE.replace('"', "").replace("deer, running", "deer\0 running").replace(",", ";").replace("9.5", "9,5").replace("\0", ",")
BIDS = """participant_id\tonset\tduration\ttrial_type\tstim_file\tresponse_time\trun\tstart\tcaption
sub-02\t6\tn/a\tTrain\tx.mp4\tn/a\ta\t0\tn/a
sub-02\t9.5\t3\ttrain\tx.mp4\t0.7\ta\t3\ta deer, running
sub-02\t6\t3\ttrain\tx.mp4\tn/a\tb\t0\ta deer
sub-02\t9\t3\ttest\ty.mp4\tn/a\tb\t0\ta cat
"""


def read_text_table(folder, content, **changes):
    entry = replace(MINE, n_train=2, n_test=1, **changes)
    path = entry.events_path(folder)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return events.read_events(entry, folder)


@pytest.mark.parametrize(
    "content, warns",
    [
        (TABLE, ""), ("\ufeff" + TABLE.replace("\n", "\r\n") + ",,,,,,\r\n", ""), (SEMICOLONS, ""), ("sep=;\n" + SEMICOLONS, ""),
        (SEMICOLONS.replace(";", "\t").encode("utf-16"), ""), (TABLE.replace(",", ", ").replace("deer,  ", "deer, "), ""),
        (TABLE.replace("caption", "caption,,", 1), ""), (TABLE.replace("run,on", "Run, On", 1), ""), (BIDS, "not read: response_time"),
        (TABLE.replace("b,6,3,train,x.mp4", "b,6,3,train,./films/../x.mp4"), ""), (TABLE.replace("b,6,3,train,x.mp4,0,", "b,6,3,train,x.mp4,0.001,"), ""),
        (TABLE.replace("x.mp4,3", "x.mp4,0.1"), "1 clips share frames with another, being 3 s long, such as lines 2 and 3 (start: 0.0 and 0.1)"),
        (TABLE.replace("9.5", "6.1"), "1 clips begin before the 3 s of another of their run are over, such as lines 2 and 3 (onset: 6.0 and 6.1)"),
        (TABLE.replace("b,6,3,train,x.mp4,0,a deer", "b,6,3,train,x.mp4,0,a stag"), "1 clips have another caption than before"),
    ],
)  # fmt: skip
def test_tables_as_people_write_them(tmp_path, content, warns, caplog):
    read = read_text_table(tmp_path, content)
    onset, start = (6.1 if "onset" in warns else 9.5), (0.1 if "start" in warns else 3)
    assert [(event.run, event.onset, event.split, event.clip) for event in read] == [
        ("a", 6, "train", ("x.mp4", 0)), ("a", onset, "train", ("x.mp4", 20 * start)), ("b", 6, "train", ("x.mp4", 0)), ("b", 9, "test", ("y.mp4", 0))
    ]  # fmt: skip
    assert [clip.caption for split in ("train", "test") for clip in events.clips_of(read, split)] == ["a deer", "a deer, running", "a cat"]
    assert {event.subject for event in read} == {2 if content is BIDS else None}
    assert warns in caplog.text and bool(warns) == bool(caplog.text)


def test_films_lie_below_stimuli_where_bids_has_them(tmp_path):
    (tmp_path / "mine/stimuli").mkdir(parents=True)
    (tmp_path / "mine/stimuli/x.mp4").touch()
    assert [event.film for event in read_text_table(tmp_path, BIDS)] == ["stimuli/x.mp4"] * 3 + ["y.mp4"]


@pytest.mark.parametrize(
    "content, says",
    [
        (TABLE.replace("a deer\na", '"a deer\na', 1), "line 2: a quotation mark is not closed on its line"),
        (TABLE.replace("a deer\na", '"a deer\na', 1).replace("a cat", 'a cat"'), "line 2: a quotation mark is not closed on its line"),
        (TABLE.replace('"', ""), "line 3 has 8 cells, not 7; put cells with commas in quotation marks"),
        (TABLE.replace("y.mp4,0", "x.mp4,0"), "line 5: the clip of x.mp4 from 0 s is in both splits, as in line 2"),
        (TABLE.replace("y.mp4,0", "./x.mp4,0"), "line 5: the clip of x.mp4 from 0 s is in both splits"),
        (TABLE.replace("y.mp4,0", "films\\..\\x.mp4,0.001"), "line 5: the clip of x.mp4 from 0.001 s is in both splits"),
        (
            TABLE.replace("y.mp4,0", "x.mp4,5"),
            "lines 3 and 5: the clips of x.mp4 from 3 s and 5 s overlap, and one is a train, one a test clip",
        ),
        (TABLE.replace("y.mp4,0", "link.mp4,0"), "line 5: the clip of x.mp4 from 0 s is in both splits"),
        (TABLE.replace("y.mp4,0", "copy.mp4,0"), "copies of one movie"),
        (TABLE.replace("x.mp4,3,", "copy.mp4,9,").replace("y.mp4,0", "copy.mp4,0"), "copies of one movie"),
        (TABLE.replace("9.5", "6.001"), "line 3: run a has an event at 6 s already, in line 2"),
        *(
            (TABLE.replace("9.5", bad), f"line 3: '{bad}' is no value for onset")
            for bad in ("1_0", "-inf", "inf", "nan", "1e400", "1e9", "0x1", "१", "")
        ),
        (SEMICOLONS.replace("b;9;", "b;9.25;"), "line 5: '9.25' is no value for onset; use a number of seconds, such as 1,5"),
        (TABLE.replace("9.5", '"9,5"'), "line 3: '9,5' is no value for onset"),
        (TABLE.replace("run,onset", "run,run"), "two columns named 'run'"),
        (TABLE.replace("start", "starts"), "has a column 'starts'; rename it to start"),
        (TABLE.replace("\na,6", "\n../../a,6"), "line 2: '../../a' is no value for run"),
        (TABLE.replace("a cat", "a \0cat"), "line 5, has the control character"),
        (TABLE.replace("a cat", "a größere").encode("latin-1"), "line 5, is not in UTF-8"),
        ("", "has no column split"),
        (TABLE.replace("onset", "onsets"), "no column onset"),
        (TABLE.replace("9.5", "soon"), "line 3: 'soon' is no value for onset; use a number of seconds, such as 1.5"),
        (TABLE.replace("b,9,3,test", "b,9,3,val"), "'val' is no value for split; use train or test"),
        (TABLE.replace("y.mp4", " "), "line 5: '' is no value for film"),
        (TABLE.replace("y.mp4,0", "y.mp4,-1"), "'-1' is no value for start; use a number of seconds from 0 to 1000000"),
        (TABLE.replace("9.5,3", "9.5,0"), "'0' is no value for duration; use a number of seconds from 2.975 to 1000000"),
        (TABLE.replace("run,onset", "subject,onset"), "has no column run"),
        (TABLE.replace("caption", "subject"), "is no value for subject; use one of 1, 2"),
        (TABLE.splitlines()[0], "has 0 different train clips, but n_train"),
        (TABLE.replace("x.mp4", "z.mp4", 1), "different train clips (line 2 names z.mp4, which is not there), but n_train"),
    ],
)
def test_tables_that_would_give_wrong_clips(tmp_path, content, says):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("x.mp4", "copy.mp4", "y.mp4"):
        (folder / name).write_text("another" if name == "y.mp4" else "the same")
    (folder / "link.mp4").symlink_to("x.mp4")
    with pytest.raises(UserError) as error:
        read_text_table(tmp_path, content)
    assert says in str(error.value) and "events.csv" in str(error.value) and "\n" not in str(error.value)


def test_subjects_with_their_own_times(tmp_path, monkeypatch, capsys):
    register(monkeypatch, n_train=2, n_test=1, events="events.tsv", n_vertices=4)
    columns = ["subject", "run", "onset", "split", "film"]
    rows = [[1, "a", 3, "train", "x"], [1, "a", 6, "train", "y"], [1, "a", 9, "test", "z"]]
    rows += [[2, "a", 3, "train", "y"], [2, "a", 6, "test", "z"], [2, "a", 9, "train", "x"]]
    entry = datasets.DATASETS["mine"]
    write_table(entry.events_path(tmp_path / "DATA"), rows, columns)
    series = {subject: np.random.default_rng(subject).normal(size=(14, 4)) for subject in (1, 2)}
    for subject in (1, 2):
        path = entry.series_path(tmp_path / "DATA", subject, "a")
        path.parent.mkdir()
        np.save(path, series[subject])
    run_script(STEP4, *flags(tmp_path, "--subj_ID", 1, 2))
    clean = fmri.zscore(fmri.detrend(series[2]))
    plain = np.array([clean[9:11].mean(0), clean[5:7].mean(0)])  # x from 13 s, y from 7 s on
    made = np.load(Layout(tmp_path / "out/mine").masked_fmri(2, "train", 4))
    np.testing.assert_allclose(made, (plain - plain.mean(0)) / plain.std(0), atol=1e-5)
    write_table(entry.events_path(tmp_path / "DATA"), rows[:-1], columns)
    assert "no event with x from 0 s for subject 2" in error_of(capsys, STEP4, *flags(tmp_path, "--subj_ID", 2, "--overwrite"))


def test_bad_series(small, capsys):
    def spoil(run, series, said):
        path = MINE.series_path(small / "DATA", 1, run)
        content = path.read_bytes()
        if series is None:
            path.unlink()
        elif isinstance(series, bytes):
            path.write_bytes(series)
        else:
            np.save(path, series)
        line = error_of(capsys, STEP4, *flags(small))
        assert f"sub1/{run}.npy" in line and said in line, line
        path.write_bytes(content)
        return content

    good = small_series("b")
    whole = spoil("b", None, "file not found")
    spoil("b", whole[:-8], "not a readable .npy array")
    spoil("b", good[:, :20], "has 20 voxels and a.npy has 24")
    spoil("b", good[:60], "has volumes 0 to 59, and the event of line")
    spoil("b", good[:, 0], "not (any, any)")
    spoil("b", good > 500, "values of type bool, not numbers")
    spoil("b", np.full_like(good, np.nan), "NaN or infinite values in every voxel")
    spoil("b", small_series("a"), "has the same values as a.npy")
    write_table(MINE.events_path(small / "DATA"), [["a", -6, *row[2:]] if i == 0 else row for i, row in enumerate(small_table())])
    assert "needs volumes -1 to 0" in error_of(capsys, STEP4, *flags(small, "--overwrite"))
    assert "mine has no subject 7; choose from 1, 2" in error_of(capsys, STEP4, *flags(small, "--subj_ID", 7))
    assert "Data_preprocess" in error_of(capsys, STEP4, "--dataset", "CC2017", "--out_root", small / "out")


@pytest.mark.parametrize(
    "shape, state, runs, said",
    [((600, VOLUMES), "wrong", "ab", "has 600 rows and 130 columns, and events until"), ((20, VOLUMES), "wrong", "ab", "has 20 rows and 130 columns"),
     ((500, N_VOXELS), "unusual", "abcd", "lasts 750 s (500 volumes), and its last event ends at")],
)  # fmt: skip
def test_series_that_are_turned_or_far_too_long(small, capsys, caplog, shape, state, runs, said):
    """All runs equally long, as nothing else shows then."""
    last = {run: max(row[1] + 3 for row in small_table() if row[0] == run) for run in "abcd"}
    for run in "abcd":
        np.save(MINE.series_path(small / "DATA", 1, run), np.random.default_rng(ord(run)).normal(500, 1, shape))
    for film, seconds in (("films/train.mp4", 120), ("films/test.mp4", 36)):
        video.write_mp4(MINE.film_path(small / "DATA", film), [np.zeros((16, 16, 3), np.uint8)] * seconds, 1)
    argv = ["--dataset", "mine", "--data_root", small / "DATA", "--workers", 1]
    with pytest.raises(SystemExit) if state == "wrong" else contextlib.nullcontext():
        run_script(load_script("Data_preprocess/check_data.py"), *argv, "--subj_ID", 1)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(state)]
    assert all(said in line and f"{last[run]:g} s" in line for line, run in zip(lines, runs, strict=False)) and len(lines) >= len(runs)
    if state == "wrong":
        line = error_of(capsys, STEP4, *flags(small))
        assert "sub1/a.npy" in line and said in line and "write it as (volumes, voxels)" in line
    else:
        run_script(STEP4, *flags(small))
        assert caplog.text.count(said) == 4


def test_a_subject_without_events(tmp_path, capsys, monkeypatch):
    register(monkeypatch, n_train=1, n_test=1)
    columns = ["subject", "run", "onset", "split", "film"]
    write_table(MINE.events_path(tmp_path / "DATA"), [[1, "a", 3, "train", "x"], [1, "a", 6, "test", "y"]], columns)
    said = "events.csv has no event of subject 2"
    assert said in error_of(capsys, STEP4, *flags(tmp_path, "--subj_ID", 2))
    fails(load_script("Data_preprocess/check_data.py"), "--dataset", "mine", "--data_root", tmp_path / "DATA", "--workers", 1, status=1)
    assert f"wrong    {tmp_path}/DATA/mine/{said}" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- clips


def frame_of(number):
    """A picture that says which frame of the film it is, in two grey levels."""
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[:16], frame[16:] = 20 + 16 * (number // 14), 20 + 16 * (number % 14)
    return frame


def read_number(frame):
    upper, lower = (float(frame[rows].mean()) for rows in (slice(2, 14), slice(18, 30)))
    return round((upper - 20) / 16) * 14 + round((lower - 20) / 16)


def test_clips_are_cut_and_conformed(tmp_path, capsys, monkeypatch):
    register(monkeypatch, n_train=3, n_test=1)
    entry, data = datasets.DATASETS["mine"], tmp_path / "DATA"
    video.write_mp4(entry.film_path(data, "film.mp4"), map(frame_of, range(190)), 25, crf=1)
    video.write_mp4(entry.film_path(data, "ready.mp4"), map(frame_of, range(32)), 10, crf=1)
    table = [
        ["train", "film.mp4", 4.6], ["train", "film.mp4", 0], ["train", "film.mp4", 1.52], ["test", "ready.mp4", 0],
        ["train", "film.mp4", 0],
    ]  # fmt: skip
    write_table(entry.events_path(data), table, ["split", "film", "start"])
    run_script(STEP1, *flags(tmp_path, workers=2))
    assert "mine train: 3 clips of 60 frames made, 3 expected" in capsys.readouterr().out
    layout = Layout(tmp_path / "out/mine")
    for split, name, start, rate in (("train", 1, 4.6, 25), ("train", 2, 0, 25), ("train", 3, 1.5, 25), ("test", 1, 0, 10)):
        frames = video.read_frames(layout.clip(split, f"{split}_{name}"))
        assert len(frames) == 60
        for k, frame in enumerate(frames):  # the film frame nearest in time; ties go to the earlier one
            nearest = min(range(190), key=lambda i: (round(abs(i / rate - start - k / 20), 9), i))
            assert read_number(frame) == nearest
    with open(layout.clip("train", "clips").with_suffix(".csv"), newline="") as handle:
        assert [row[:3] for row in csv.reader(handle)][1:3] == [["train_1", "film.mp4", "4.6"], ["train_2", "film.mp4", "0.0"]]
    clips = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.mp4")}
    layout.clip("train", "train_2").unlink()
    run_script(STEP1, *flags(tmp_path))
    remade = {path for path, when in clips.items() if path.stat().st_mtime_ns != when}
    assert remade == {layout.clip("train", "train_2")}
    register(monkeypatch, n_train=3, n_test=1, fps=21)
    assert "fps 20 -> 21" in error_of(capsys, STEP1, *flags(tmp_path))

    register(monkeypatch, n_train=3, n_test=1)
    table[0][2] = 6
    write_table(entry.events_path(data), table, ["split", "film", "start"])
    assert "events.csv has changed since" in error_of(capsys, STEP1, *flags(tmp_path))
    again = flags(tmp_path, "--overwrite")
    assert "film.mp4 lasts 7.60 s, and its last clip ends at 9.00 s" in error_of(capsys, STEP1, *again)
    entry.film_path(data, "ready.mp4").unlink()
    assert "ready.mp4" in error_of(capsys, STEP1, *again, "--split", "test")
    assert "this script is not for mine (only for CC2017, phantom)" in error_of(
        capsys, load_script("Data_preprocess/CC2017/step1_cut_video_clips.py"), *flags(tmp_path)
    )


def test_captions_that_step_1_found_in_the_event_table_need_no_model(tmp_path, monkeypatch, caplog):
    """Nor do they depend on one: the pipeline, which hands on its CLIP, finds them done."""
    caplog.set_level("INFO")
    register(monkeypatch, n_train=2, n_test=1)
    layout, captions = Layout(tmp_path / "out/mine"), {"train": ["a deer", "a deer, running"], "test": ["a cat"]}
    for split, of_clips in captions.items():
        rows = [[f"{split}_{i}", caption] for i, caption in enumerate(of_clips, 1)]
        write_table(layout.clip(split, "clips").with_suffix(".csv"), rows, ["clip", "caption"])
    script = load_script("Data_preprocess/CC2017/step3_video_captioning.py")
    run_script(script, *flags(tmp_path)[:6])
    assert {split: read_captions(layout.captions(split)) for split in captions} == captions
    run_script(script, *flags(tmp_path)[:6], "--clip_path", "another", "--precision", "fp16", "--seed", 43)
    assert caplog.text.count("already done") == 2


# ---------------------------------------------------------------------------------------------- the whole way

N_FILMS, PER_FILM, N_TEST, V, N_RESPONSIVE = 4, 45, 40, 120, 60
ANSWERED = {
    "shape": phantom_world.SHAPES, "colour": phantom_world.COLOURS, "background": phantom_world.BACKGROUNDS, "size": phantom_world.SIZES,
}  # fmt: skip
SMALL_TRAINING = ["--projector_dims", "128", "--epoch", "20", "--image_aug", "off"]
ADDED = {"train_semantic_decoder": SMALL_TRAINING}  # to the commands of the page


def response(seconds):
    """Haemodynamic response to 3 s of a clip, peak near 6 s."""
    return gamma.cdf(seconds, 6) - gamma.cdf(seconds - 3, 6)


def make_world(root, entry, seed=3):
    """Films, ready test clips, event table and series of voxels of which half answer to what is seen."""
    rng, rows = np.random.default_rng(seed), []
    scenes = {split: [phantom_world.random_scene(rng) for _ in range(n)] for split, n in (("train", N_FILMS * PER_FILM), ("test", N_TEST))}
    seen = {split: np.array([[getattr(s, name) == value for name, values in ANSWERED.items() for value in values] for s in scenes[split]], float)
            for split in scenes}  # fmt: skip
    for film in range(N_FILMS):
        parts = scenes["train"][film * PER_FILM : (film + 1) * PER_FILM]
        frames = (frame for scene in parts for frame in phantom_world.render(scene, range(0, 60, 4)))
        video.write_mp4(entry.film_path(root, f"film{film}.mp4"), frames, 5, crf=8)
    for i, scene in enumerate(scenes["test"]):
        video.write_mp4(entry.film_path(root, f"clips/{i}.mp4"), phantom_world.render(scene, range(0, 64, 4)), 5, crf=8)
    weights = rng.normal(size=(seen["train"].shape[1], N_RESPONSIVE))
    weights *= 1.2 / (seen["train"] @ weights).std(axis=0)  # all answer equally strongly
    for rep in (1, 2):
        shown = [(f"film{film}_{rep}", "train", range(film * PER_FILM, (film + 1) * PER_FILM)) for film in range(N_FILMS)]
        shown += [(f"test_{rep}", "test", rng.permutation(N_TEST))]
        for run, split, clips in shown:
            onsets = 6 + np.cumsum(rng.uniform(4, 5, len(clips)))
            time = 1.5 * np.arange(int((onsets[-1] + 15) / 1.5))
            drive = seen[split][list(clips)] @ weights
            series = 1000 + 3 * np.vander(time / time[-1], 3) @ rng.normal(size=(3, V)) + rng.normal(size=(len(time), V))
            series[:, :N_RESPONSIVE] += response(time[:, None] - onsets) @ (drive - drive.mean(0))
            path = entry.series_path(root, 1, run)
            path.parent.mkdir(exist_ok=True)
            np.save(path, series.astype(np.float32))
            for i, onset in zip(clips, onsets, strict=True):
                film, start = (f"film{i // PER_FILM}.mp4", 3 * (i % PER_FILM)) if split == "train" else (f"clips/{i}.mp4", 0)
                rows.append([run, f"{onset:.4f}", 3, split, film, start, scenes[split][i].caption])
    write_table(entry.events_path(root), rows, ["run", "onset", "duration", "split", "film", "start", "caption"])
    return [row[-1] for row in rows if row[0] == "test_1"]


@pytest.fixture(scope="module")
def whole_way(tmp_path_factory):
    """The commands of the page, one by one, in a folder that holds DATA/mine; their test captions and the output's layout."""
    folder = tmp_path_factory.mktemp("own")
    entry = replace(MINE, subjects=(1,), n_train=N_FILMS * PER_FILM, n_test=N_TEST, n_vertices=N_RESPONSIVE)
    captions = make_world(folder / "DATA", entry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.DATASETS, "mine", entry)
        patch.delenv("MINDANIMATOR_DATA", raising=False)
        patch.chdir(folder)
        for name in ("phantom", "configs"):
            (folder / name).symlink_to(ROOT / name)
        for script, flags in [command for block in code_blocks(PAGE, 'bash title="tested') for command in commands(block)]:
            name = Path(script).stem
            if name != "content_feature_extraction":  # for the other decoders
                run_script(load_script(script), *flags, *ADDED.get(name, []))
    return captions, Layout(folder / "outputs/mine")


def test_what_the_commands_leave(whole_way):
    captions, layout = whole_way
    assert read_captions(layout.captions("test"), N_TEST) == captions
    assert np.flatnonzero(np.load(layout.mask(1)) == 1).tolist() == list(range(N_RESPONSIVE))
    assert len(list((layout.root / "stimuli_frames/Train").glob("train_*/0000024.jpg"))) == N_FILMS * PER_FILM


def test_the_decoder_beats_its_control(whole_way):
    """Per test clip: cosine with its own caption's CLIP embedding, and rank of that caption among all of the test captions."""
    _, layout = whole_way
    fmri_rows = torch.from_numpy(np.load(layout.masked_fmri(1, "test", N_RESPONSIVE)))
    target = np.load(layout.text_embeddings_clip("test"))
    unit = target / np.linalg.norm(target, axis=1, keepdims=True)
    cosine, above = {}, {}
    for arm in ("full", "control"):
        model, _ = load_checkpoint(layout.checkpoints(1, arm, "semantic") / "last.safetensors")
        with torch.no_grad():
            found = model.eval()(fmri_rows)[0].numpy()
        similarity = found / np.linalg.norm(found, axis=1, keepdims=True) @ unit.T
        cosine[arm] = np.diag(similarity)
        other = ~np.isclose(unit @ unit.T, 1)  # captions that say something else
        above[arm] = ((similarity < np.diag(similarity)[:, None]) & other).sum(1) / other.sum(1)
    for what, scores in (("cosine", cosine), ("share of other captions ranked below", above)):
        difference = scores["full"] - scores["control"]
        standard_error = difference.std(ddof=1) / len(difference) ** 0.5
        means = f"{what}: full {scores['full'].mean():.3f}, control {scores['control'].mean():.3f}, difference {difference.mean() / standard_error:.1f} SE"
        print(means)
        assert difference.mean() > 4 * standard_error, means
    assert above["full"].mean() > 0.8 and abs(above["control"].mean() - 0.5) < 0.2


def test_check_data(small, capsys):
    script, entry = load_script("Data_preprocess/check_data.py"), MINE
    for film, seconds in (("films/train.mp4", 120), ("films/test.mp4", 36)):
        video.write_mp4(entry.film_path(small / "DATA", film), [np.zeros((16, 16, 3), np.uint8)] * seconds, 1)
    argv = ["--dataset", "mine", "--data_root", small / "DATA", "--workers", 1, "--subj_ID", 1]
    run_script(script, *argv)
    lines = capsys.readouterr().out.splitlines()
    assert "mine movies: 2 of 2 as expected" in lines and "mine subject 1: 4 of 4 as expected" in lines
    assert not any(line.startswith("mixed") for line in lines)
    entry.series_path(small / "DATA", 1, "a").unlink()
    np.save(entry.series_path(small / "DATA", 1, "b"), small_series("b")[:50])
    video.write_mp4(entry.film_path(small / "DATA", "films/test.mp4"), [np.zeros((16, 16, 3), np.uint8)] * 30, 1)
    fails(script, *argv, status=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["wrong", "missing", "wrong"]
    assert "lasts 30.00 s, not 36.00 s" in lines[0] and "has 50 volumes" in lines[2]
    assert lines[-1] == "not as expected; correct what is named above, or the entry of mine in common/datasets"
    entry.film_path(small / "DATA", "films/test.mp4").unlink()
    fails(script, *argv, status=1)
    table = entry.events_path(small / "DATA").read_text().splitlines()
    line = 1 + next(i for i, text in enumerate(table) if "films/test.mp4" in text)
    assert f"films/test.mp4; line {line} of the event table names it; copy or download" in capsys.readouterr().out
    entry.events_path(small / "DATA").unlink()
    fails(script, *argv)
    assert "write the event table" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, columns, factor, said, in_step_4",
    [
        ("events.csv", ["run", "onset_time"], 1, "no column 'onset' in {events}: runs were not looked at; only ready rows", "has no column onset"),
        ("events.csv", ["run", "onset"], 1000, "lasts 195 s (130 volumes), and its last event ends at", "are the onsets in seconds?"),
        ("events.tsv", ["run", "onset"], 1, "mine subject 1: 4 of 4 as expected", None),
    ],
)  # fmt: skip
def test_tables_that_check_data_looks_at(small, capsys, caplog, name, columns, factor, said, in_step_4):
    """Another name for the onset, onsets in ms, and a .tsv where the entry says .csv."""
    path, check = small / "DATA/mine" / name, load_script("Data_preprocess/check_data.py")
    (small / "DATA/mine/events.csv").unlink()
    write_table(path, [[row[0], factor * row[1], *row[2:]] for row in small_table()], [*columns, "split", "film", "start"])
    for film, seconds in (("films/train.mp4", 120), ("films/test.mp4", 36)):
        video.write_mp4(MINE.film_path(small / "DATA", film), [np.zeros((16, 16, 3), np.uint8)] * seconds, 1)
    with pytest.raises(SystemExit) if factor > 1 else contextlib.nullcontext():
        run_script(check, "--dataset", "mine", "--data_root", small / "DATA", "--workers", 1, "--subj_ID", 1)
    printed = capsys.readouterr().out + caplog.text
    assert said.format(events=path) in printed and "again" not in printed
    if in_step_4:
        assert in_step_4 in error_of(capsys, STEP4, *flags(small))
