"""CC2017 preprocessing through the scripts' mains, on a tiny tree of the real form: mp4 movies, CIFTI of 59412 vertices."""

import gzip
import os
import shutil
import subprocess
from contextlib import nullcontext
from dataclasses import replace

import cv2
import nibabel as nib
import numpy as np
import pytest
from scipy import stats
from tiny import error_of, fails, load_script, run_script

from common import datasets, video
from common.captions import read_captions, write_captions
from common.cortex import N_CORTEX, area_vertices
from common.files import UserError, card_path, load_array, read_json, sha256, write_text
from common.fmri import load_statistics, scale
from common.frames import read_clip
from common.layout import Layout
from Data_preprocess import cifti, cifti_writing, vertex_figures

N_CLIPS, N_VERTICES, VOLUMES = 8, 30, 13
GONE = 2**22 + 1  # no process has this number: it is larger than the largest
TINY = replace(
    datasets.CC2017, name="tiny", folder="tiny", n_train_runs=3, n_test_runs=2, clips_per_train_run=N_CLIPS, clips_per_test_run=N_CLIPS,
    n_train=3 * N_CLIPS, n_test=2 * N_CLIPS, n_vertices=N_VERTICES, test_repetitions=3, frame_size=32, clip_frames=10,
    frame_indices=(0, 4, 8), middle_frame=4, clip_seconds=1 / 3, excluded=frozenset({(3, "test2", 2)}), subjects=(1, 3),
)  # fmt: skip
CONSTANT, NAN, PLANTED = [5, 59411], [7], np.arange(100, 100 + 3 * N_VERTICES)


def frame_of(number, split):
    """A picture that says which frame of the movie it is, in two grey levels."""
    frame = np.zeros((40, 64, 3), np.uint8)
    frame[:20], frame[20:] = 20 + 20 * (number // 10), 20 + 20 * (number % 10)
    frame[:, 60:] = 250 if split == "train" else 120
    return frame


def read_number(frame):
    height, width = frame.shape[:2]
    upper, lower = (float(frame[rows, : width // 2].mean()) for rows in (slice(2, height // 2 - 2), slice(height // 2 + 2, -2)))
    return round((upper - 20) / 20) * 10 + round((lower - 20) / 20)


def series_of(subject, run, rep):
    """(volumes, vertices) with a few vertices that answer alike in all repetitions."""
    key = [subject, int(run[-1]), run.startswith("test")]
    rng, shared = np.random.default_rng([*key, rep]), np.random.default_rng(key)
    data = 100 + rng.normal(size=(VOLUMES, N_CORTEX)).astype(np.float32)
    data[:, PLANTED] += 2 * shared.normal(size=(VOLUMES, len(PLANTED)))
    data += np.linspace(0, 3, VOLUMES, dtype=np.float32)[:, None] ** 2
    data[:, CONSTANT], data[3, NAN] = 12.3, np.nan
    return data


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The raw tree; read only."""
    root = tmp_path_factory.mktemp("raw")
    for split in ("train", "test"):
        for run in TINY.runs(split):
            video.write_mp4(TINY.movie_path(root, run), [frame_of(k, split) for k in range(N_CLIPS * 10)], 30, crf=1)
            for subject in (1, 3):
                for rep in TINY.repetitions(subject, run):
                    cifti_writing.write_series(TINY.series_path(root, subject, run, rep), series_of(subject, run, rep), 2.0)
    return root


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "tiny", TINY)


@pytest.fixture()
def data(raw, tmp_path):
    """A tree of one's own: hard links; whoever changes a file replaces it."""
    shutil.copytree(raw, tmp_path / "data", copy_function=os.link)
    return tmp_path / "data"


def step(n):
    name = {1: "step1_cut_video_clips", 2: "step2_get_video_frames", 3: "step3_video_captioning", 4: "step4_fMRI_preparation"}[n]
    return load_script(f"Data_preprocess/CC2017/{name}.py")


def flags(data, out, *more, workers=1):
    work = ("--workers", workers) if workers else ()
    return ["--dataset", "tiny", "--data_root", data, "--out_root", out, *work, *more]


def tree(folder):
    """SHA-256 of all arrays, pictures and clips below a folder."""
    kinds = (".npy", ".jpg", ".png", ".mp4", ".h5")
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.suffix in kinds}


def change_byte(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def replace_file(path, content):
    path.unlink()
    path.write_bytes(content)


# ---------------------------------------------------------------------------------------------- steps 1 and 2


def test_clips_and_frames(data, tmp_path, capsys):
    out, layout = tmp_path / "out", Layout(tmp_path / "out" / "tiny")
    run_script(step(1), *flags(data, out, workers=2))
    assert "tiny train: 24 clips of 10 frames made, 24 expected" in capsys.readouterr().out
    for split, name, number in (("train", "seg1_1", 0), ("train", "seg3_8", 70), ("test", "test2_4", 30)):
        frames = video.read_frames(layout.clip(split, name))
        assert frames.shape == (10, 40, 64, 3)
        assert [read_number(frame) for frame in frames] == list(range(number, number + 10))
        assert abs(frames[0, :, 62:].mean() - (250 if split == "train" else 120)) < 6
    run_script(step(2), *flags(data, out, workers=2))
    assert "tiny test: 48 frames of 32 x 32 pixels made, 48 expected" in capsys.readouterr().out
    folder = layout.frames("test", "test2_4")
    assert sorted(path.name for path in folder.iterdir()) == ["0000000.jpg", "0000004.jpg", "0000008.jpg"]
    picture = cv2.imread(str(folder / "0000008.jpg"))
    assert picture.shape == (32, 32, 3) and read_number(picture) == 38
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    for n in (1, 2):
        run_script(step(n), *flags(data, out))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.*")} == before


def test_steps_1_and_2_resume(data, tmp_path, capsys):
    run_script(step(1), *flags(data, tmp_path / "whole"))
    run_script(step(2), *flags(data, tmp_path / "whole", "--format", "png"))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    layout = Layout(tmp_path / "cut" / "tiny")
    for split in ("train", "test"):
        for folder in (layout.clip(split, "x").parent, layout.frames(split, "x").parent):
            (folder / "metrics.json").unlink()
            (folder / "SHA256SUMS").unlink()
    kept = layout.clip("train", "seg1_1").stat().st_mtime_ns
    for name in ("seg1_3", "seg3_8"):
        layout.clip("train", name).unlink()
        shutil.rmtree(layout.frames("train", name))
    (layout.clip("train", f".partial-{GONE}-seg1_3")).write_bytes(b"half")
    layout.frames("train", f".partial-{GONE}-seg1_3").mkdir()
    run_script(step(1), *flags(data, tmp_path / "cut"))
    run_script(step(2), *flags(data, tmp_path / "cut", "--format", "png"))
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole") and len(tree(tmp_path / "cut")) == 40 + 40 * 3
    for folder in ("stimuli_clips/Train", "stimuli_frames/Test"):
        sums = [(tmp_path / which / "tiny" / folder / "SHA256SUMS").read_text() for which in ("cut", "whole")]
        assert sums[0] == sums[1] and sums[0].count("\n") == {"stimuli_clips/Train": 24, "stimuli_frames/Test": 16 * 3}[folder]
        subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path / "cut/tiny" / folder, check=True)
    assert layout.clip("train", "seg1_1").stat().st_mtime_ns == kept
    assert not list((tmp_path / "cut").rglob(".partial*"))
    assert "format png -> jpg" in error_of(capsys, step(2), *flags(data, tmp_path / "cut"))


def test_bad_movies(data, tmp_path, capsys):
    out = tmp_path / "out"
    movie = TINY.movie_path(data, "seg2")
    content = movie.read_bytes()
    replace_file(movie, content[: len(content) // 2])
    assert "seg2.mp4" in (line := error_of(capsys, step(1), *flags(data, out))) and "truncated" in line
    assert not list(out.rglob("*.mp4"))  # found before any work
    movie.unlink()
    assert "file not found" in error_of(capsys, step(1), *flags(data, out))
    video.write_mp4(movie, [frame_of(k, "train") for k in range(65)], 30)
    assert "seg2.mp4 lasts 2.17 s, and its last clip ends at 2.67 s" in error_of(capsys, step(1), *flags(data, out))
    run_script(step(1), *flags(data, out, "--drop_short"))
    assert "22 clips of 10 frames made, 24 expected" in capsys.readouterr().out
    run_script(step(2), *flags(data, out, "--split", "train"))
    assert "66 frames of 32 x 32 pixels made, 72 expected" in capsys.readouterr().out


def test_a_changed_clip_or_frame_is_named(data, tmp_path, capsys):
    argv, layout = flags(data, tmp_path / "out", "--split", "test"), Layout(tmp_path / "out/tiny")
    run_script(step(1), *argv)
    clip = layout.clip("test", "test1_2")
    change_byte(clip, -100)
    layout.clip("test", "test1_3").unlink()
    run_script(step(1), *argv)  # makes the other anew, and does not take the changed one for good
    line = error_of(capsys, step(2), *argv)
    assert "test1_2.mp4 does not match its checksum" in line and "run step 1 again" in line
    clip.unlink()
    run_script(step(1), *argv)
    run_script(step(2), *argv)
    frame = layout.frames("test", "test1_2") / "0000004.jpg"
    change_byte(frame, -100)
    for name in ("test1_1", "test1_2"):
        with pytest.raises(UserError, match="test1_2/0000004.jpg does not match its checksum") if name == "test1_2" else nullcontext():
            read_clip(layout.frames("test", name), TINY.frame_indices, 32)
    frame.unlink()
    run_script(step(2), *argv)
    read_clip(layout.frames("test", "test1_2"), TINY.frame_indices, 32)


# ---------------------------------------------------------------------------------------------- step 3


def test_ready_captions(data, tmp_path, capsys):
    out, lines = tmp_path / "out", [f"clip number {k}, ä" for k in range(3 * N_CLIPS)]
    (tmp_path / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    write_captions(tmp_path / "test.h5", "test", lines[: 2 * N_CLIPS])
    given = ["--captions_train", tmp_path / "train.txt", "--captions_test", tmp_path / "test.h5"]
    run_script(step(3), *flags(data, out, *given, workers=None))
    layout = Layout(out / "tiny")
    assert read_captions(layout.captions("train")) == lines
    assert read_captions(layout.captions("test")) == lines[: 2 * N_CLIPS]
    (tmp_path / "train.txt").write_text("\n".join(lines[1:]), encoding="utf-8")
    line = error_of(capsys, step(3), *flags(data, tmp_path / "other", *given, workers=None))
    assert "train.txt has 23 captions, not 24" in line
    assert not (tmp_path / "other/tiny/captions").exists()


# ---------------------------------------------------------------------------------------------- step 4


def plain_run(subject, run):
    """Vertex by vertex: volumes of the clips, polyfit, z-score, mean over repetitions; for a few vertices."""
    first = 2 if run == "test2" else 1
    cleaned = []
    for rep in TINY.repetitions(subject, run):
        part = series_of(subject, run, rep)[first : first + N_CLIPS]
        time = np.linspace(0, 1, N_CLIPS)
        columns = []
        for v in CHECKED:
            column = part[:, v].astype(float)
            column = column - np.polyval(np.polyfit(time, column, 4), time) if np.isfinite(column).all() else column
            columns.append((column - column.mean()) / column.std())
        cleaned.append(np.stack(columns, axis=1))
    return cleaned


CHECKED = np.concatenate([PLANTED, np.arange(20000, 20060), np.arange(59300, 59340)])


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.DATASETS, "tiny", TINY)
        patch.setattr(vertex_figures, "draw_cortex", lambda path, *_, **__: write_text(path, ""))  # seconds each; names count
        argv = flags(raw, out, "--n_voxels", 12, N_VERTICES, workers=2)
        run_script(step(4), *argv)
        run_script(step(4), *argv, "--subj_ID", 1, 3, "--no_figures")  # 1 is done already
    return out


@pytest.mark.parametrize("subject", [1, 3])
def test_averages_reliability_and_rows_are_the_plain_ones(prepared, subject):
    layout = Layout(prepared / "tiny")
    z = []
    for split in ("train", "test"):
        for run in TINY.runs(split):
            cleaned = plain_run(subject, run)
            assert len(cleaned) == {"train": 2, "test": 3}[split] - ((subject, run) == (3, "test2"))
            path = layout.fmri(subject, split) / "voxels_avg" / f"{run}.npy"
            average = load_array(path, shape=(N_CLIPS, N_CORTEX), dtype="float32", verify=True)
            np.testing.assert_allclose(average[:, CHECKED], np.mean(cleaned, axis=0), atol=1e-6 * 3)
            assert (average[:, CONSTANT + NAN] == 0).all()
            if split == "train":
                z.append([np.arctanh(np.corrcoef(*(rep[:, i] for rep in cleaned))[0, 1]) for i in range(len(CHECKED))])
    expected = stats.ttest_1samp(np.array(z), 0)
    folder = layout.mask(subject).parent
    np.testing.assert_allclose(np.load(folder / "t.npy")[CHECKED], expected.statistic, rtol=1e-5)
    p = np.load(folder / "p.npy")
    np.testing.assert_allclose(p[CHECKED], expected.pvalue, rtol=1e-5)
    assert np.flatnonzero(np.isnan(p)).tolist() == sorted(CONSTANT + NAN)

    mask = load_array(layout.mask(subject), shape=(N_CORTEX,), verify=True)
    ranked = np.argsort(np.where(np.isnan(p), 2, p), kind="stable")
    assert set(np.flatnonzero(mask)) == set(ranked[:N_VERTICES])
    np.testing.assert_array_equal(np.load(folder / f"mask_{N_VERTICES}.npy"), mask)
    assert set(np.flatnonzero(np.load(folder / "mask_12.npy"))) == set(ranked[:12])
    for split, name in (("train", "trn"), ("test", "test")):
        rows = np.concatenate([np.load(layout.fmri(subject, split) / "voxels_avg" / f"{run}.npy") for run in TINY.runs(split)])
        rows = rows[:, mask == 1].astype(float)
        made = load_array(layout.masked_fmri(subject, split, N_VERTICES), dtype="float32", verify=True)
        assert layout.masked_fmri(subject, split, N_VERTICES).name == f"masked{N_VERTICES}_{name}_data.npy"
        np.testing.assert_allclose(made, (rows - rows.mean(0)) / rows.std(0), atol=1e-5)
        mean, std = load_statistics(layout.statistics(subject, N_VERTICES), split, N_VERTICES)
        np.testing.assert_allclose([mean, std], [rows.mean(0), rows.std(0)], atol=1e-12)
        np.testing.assert_array_equal(scale(rows, mean, std), made)
        card = read_json(card_path(layout.masked_fmri(subject, split, N_VERTICES)))
        assert card["vertices"] == np.flatnonzero(mask).tolist() and {"rows", "units", "made_by", "sha256", "shape", "dtype"} <= card.keys()


def test_report(prepared):
    layout = Layout(prepared / "tiny")
    report = read_json(layout.fmri_report(3))
    assert report["offsets"] == {"seg1": 1, "seg2": 1, "seg3": 1, "test1": 1, "test2": 2}
    assert report["left_out"] == ["test2 repetition 2"] and report["runs"]["test2"]["repetitions"] == [1, 3]
    assert report["bad_vertices"] == {"in_any_series": 3, "in_all_series": 3, "selected_and_bad": 0}
    assert report["runs"]["seg1"]["constant"] == [2, 2] and report["runs"]["seg1"]["not_finite"] == [1, 1]
    assert report["shapes"]["masked12_test_data.npy"] == [2 * N_CLIPS, 12] and report["expected"] == {"train": 24, "test": 16}
    r = np.load(layout.mask(3).parent / "correlation.npy")
    selected = np.load(layout.mask(3)) == 1
    assert report["inter_repetition_correlation"]["selected"]["mean"] == pytest.approx(r[selected].mean())
    averages = [np.load(layout.fmri(3, "test") / "voxels_avg" / f"{run}.npy")[:, selected] for run in ("test1", "test2")]
    shares = [(average.astype(float).var(0), n) for average, n in zip(averages, (3, 2), strict=True)]
    ceiling = np.mean([share - (1 - share) / (n - 1) for share, n in shares], axis=0)
    assert report["noise_ceiling"]["selected"]["mean"] == pytest.approx(ceiling.mean(), abs=1e-6)
    figures = {path.name for path in (layout.fmri_report(1).parent / "figures").iterdir()}
    assert figures >= {"mask.png", "repetition_correlation.png", "noise_ceiling.png", "bad_vertices.png", "noise_ceiling_by_area.png"}


def test_other_masks_and_normalisation(data, tmp_path, capsys):
    first = ["--no_figures", "--subj_ID", 1]
    run_script(step(4), *flags(data, tmp_path / "roi", *first, "--roi", "V1", "MT", "--test_norm", "train"))
    layout = Layout(tmp_path / "roi/tiny")
    area = area_vertices(("V1", "MT"))
    assert np.flatnonzero(np.load(layout.mask(1))).tolist() == area.tolist()
    averages = [[np.load(layout.fmri(1, split) / f"voxels_avg/{run}.npy") for run in TINY.runs(split)] for split in ("train", "test")]
    train, test = (np.concatenate(runs)[:, area].astype(float) for runs in averages)
    made = np.load(layout.masked_fmri(1, "test", len(area)))
    np.testing.assert_allclose(made, (test - train.mean(0)) / train.std(0), atol=1e-5)
    statistics = [load_statistics(layout.statistics(1, len(area)), split) for split in ("train", "test")]
    np.testing.assert_array_equal(*statistics)

    mask = np.zeros(N_CORTEX, np.uint8)
    mask[[3, 5, 77]] = 1  # 5 is constant
    np.save(tmp_path / "mask.npy", mask)
    run_script(step(4), *flags(data, tmp_path / "own", *first, "--mask_from", tmp_path / "mask.npy"))
    made = np.load(Layout(tmp_path / "own/tiny").masked_fmri(1, "train", 3))
    assert (made[:, 1] == 0).all() and np.isfinite(made).all() and made[:, [0, 2]].std() > 0.9
    np.save(tmp_path / "short.npy", mask[:-1])
    assert "short.npy" in error_of(capsys, step(4), *flags(data, tmp_path / "x", *first, "--mask_from", tmp_path / "short.npy"))
    assert "V17" in error_of(capsys, step(4), *flags(data, tmp_path / "x", *first, "--roi", "V17"))
    assert "--n_voxels: 0 is out of range" in error_of(capsys, step(4), *flags(data, tmp_path / "x", *first, "--n_voxels", 9, 0))
    assert "59409 have a finite p" in error_of(capsys, step(4), *flags(data, tmp_path / "x", *first, "--n_voxels", N_CORTEX))
    assert "n_voxels None -> [9]" in error_of(capsys, step(4), *flags(data, tmp_path / "roi", *first, "--n_voxels", 9))


def test_the_whole_of_the_grayordinates(tmp_path, monkeypatch):
    """--space full keeps the subcortical voxels, which follow the cortex."""
    one = replace(TINY, n_train_runs=2, n_test_runs=1, n_train=16, n_test=8, test_repetitions=2)
    monkeypatch.setitem(datasets.DATASETS, "tiny", one)
    box = np.zeros((40, 40, 40), bool)
    box.ravel()[: cifti.N_GRAYORDINATES - N_CORTEX] = True
    voxels = nib.cifti2.BrainModelAxis.from_mask(box, name="thalamus_left", affine=np.eye(4))
    planted = cifti.N_GRAYORDINATES - 1 - np.arange(N_VERTICES)
    for run in ("seg1", "seg2", "test1"):
        shared = np.random.default_rng([ord(c) for c in run]).normal(size=(VOLUMES, N_VERTICES))
        for rep in (1, 2):
            data = np.random.default_rng([rep, ord(run[-1])]).normal(size=(VOLUMES, cifti.N_GRAYORDINATES)).astype(np.float32)
            data[:, planted] = shared + 0.001 * data[:, planted]
            cifti_writing.write_series(one.series_path(tmp_path, 1, run, rep), data, 2.0, voxels)
    run_script(step(4), *flags(tmp_path, tmp_path / "full", "--space", "full", "--no_figures"))
    mask = np.load(Layout(tmp_path / "full/tiny").mask(1))
    r = np.load(Layout(tmp_path / "full/tiny").mask(1).parent / "correlation.npy")
    assert mask.shape == r.shape == (91282,) and (r[planted] > 0.9).all()
    run_script(step(4), *flags(tmp_path, tmp_path / "cortex", "--no_figures"))
    assert np.load(Layout(tmp_path / "cortex/tiny").mask(1)).shape == (N_CORTEX,)


# ---------------------------------------------------------------------------------------------- step 4: resuming


def test_step_4_goes_on_where_it_was_killed(data, prepared, tmp_path, monkeypatch):
    out = tmp_path / "out"
    argv = flags(data, out, "--n_voxels", 12, N_VERTICES, "--no_figures")
    calls = []
    module = step(4)
    original = module.average_run

    def dies(run):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(run.name)
        original(run)

    monkeypatch.setattr(module, "average_run", dies)
    fails(module, *argv, status=130)
    assert len(calls) == 2 and not Layout(out / "tiny").mask(1).exists()
    # inside a run: a half-written average does not count
    (Layout(out / "tiny").fmri(1, "train") / "voxels_avg").mkdir(parents=True, exist_ok=True)
    (Layout(out / "tiny").fmri(1, "train") / f"voxels_avg/.partial-{GONE}-seg1.npy").write_bytes(b"half")
    again = []
    monkeypatch.setattr(module, "average_run", lambda run: again.append(run.name) or original(run))
    run_script(module, *argv)
    assert not set(again) & set(calls) and len(again) == 3
    one = {name: digest for name, digest in tree(prepared).items() if "/sub1/" in name and "figures" not in name}
    assert tree(out) == one and len(one) > 20
    assert not list(out.rglob(".partial*"))
    monkeypatch.setattr(module, "average_run", None)
    run_script(module, *argv)  # already done


def test_a_changed_series_is_taken_in_again(data, tmp_path):
    argv = flags(data, tmp_path / "out", "--no_figures")
    run_script(step(4), *argv)
    before = tree(tmp_path / "out")
    cifti_path = TINY.series_path(data, 1, "seg2", 1)
    cifti_path.unlink()
    cifti_writing.write_series(cifti_path, series_of(1, "seg2", 9), 2.0)
    run_script(step(4), *argv)
    changed = {name for name, digest in tree(tmp_path / "out").items() if before[name] != digest}
    assert any("seg2" in name for name in changed) and not any("voxels_avg/seg1" in name for name in changed)
    assert any("masked30_trn" in name for name in changed)


# ---------------------------------------------------------------------------------------------- step 4: bad input


def spoil(data, run, rep, change, subject=1):
    """Rewrite one series."""
    path = TINY.series_path(data, subject, run, rep)
    path.unlink()
    cifti_writing.write_series(path, change(series_of(subject, run, rep)), 2.0)


def all_nan(series):
    series[2] = np.nan
    return series


KINDS = ["short", "nan", "constant", "missing", "identical", "truncated", "space", "vertices", "no cifti", "subject"]


@pytest.mark.parametrize("kind", KINDS)
def test_bad_series(kind, data, tmp_path, capsys):
    path, subject = TINY.series_path(data, 1, "seg2", 2), 1
    content = path.read_bytes()
    if kind == "short":
        spoil(data, "seg2", 2, lambda series: series[:N_CLIPS])
        expected = "has 8 volumes, and at least 9 are needed"
    elif kind == "nan":
        spoil(data, "seg2", 2, all_nan)
        expected = "NaN or infinite values in every vertex"
    elif kind == "constant":
        spoil(data, "seg2", 2, lambda series: np.ones_like(series))
        expected = "constant values in every vertex"
    elif kind == "missing":
        path.unlink()
        expected = "file not found"
    elif kind == "identical":
        path.unlink()
        os.link(TINY.series_path(data, 1, "seg2", 1), path)
        expected = "has the values of repetition 1"
    elif kind == "truncated":
        replace_file(path, content[: len(content) - 1000])
        expected = "is truncated"
    elif kind == "space":
        vertices = nib.cifti2.BrainModelAxis.from_surface(np.arange(10242), 10242, name="CortexLeft")
        image = nib.Cifti2Image(np.zeros((VOLUMES, 10242), np.float32), header=(nib.cifti2.SeriesAxis(0, 2, VOLUMES), vertices))
        image.nifti_header.set_intent("ConnDenseSeries")
        path.unlink()
        image.to_filename(path)
        expected = "has 10242 vertices of the left cortex, on a mesh of 10242"
    elif kind == "vertices":
        at = content.index(b"VertexIndices") + 30  # one vertex number becomes another
        replace_file(path, content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        expected = "other vertices of the left cortex"
    elif kind == "no cifti":
        replace_file(path, b"nothing of the kind" * 100)
        expected = "not a readable CIFTI series"
    else:
        subject, expected = 7, "tiny has no subject 7; choose from 1, 3"
    line = error_of(capsys, step(4), *flags(data, tmp_path / "out", "--no_figures", "--subj_ID", subject, workers=2))
    assert expected in line
    assert kind == "subject" or "seg2_2" in line
    assert not list((tmp_path / "out").rglob("masked*"))
    if kind == "short":  # nothing is damaged: with the right file it goes on
        path.unlink()
        path.write_bytes(content)
        run_script(step(4), *flags(data, tmp_path / "out", "--no_figures"))


def altered(path, *changes):
    """Replace bytes of a series by as many others."""
    content = path.read_bytes()
    for before, after in changes:
        assert content.count(before) == 1 and len(before) == len(after)
        content = content.replace(before, after)
    replace_file(path, content)


def test_the_time_between_volumes_is_checked(data, tmp_path, capsys, caplog):
    argv, path = flags(data, tmp_path / "out", "--no_figures"), TINY.series_path(data, 1, "seg2", 2)
    altered(path, (b'SeriesStep="2.0"', b'SeriesStep="0.2"'))
    line = error_of(capsys, step(4), *argv)
    assert "seg2_2" in line and "0.2 s between volumes in its header, not 2 s" in line and "--ignore_header_tr" in line
    run_script(step(4), *argv, "--ignore_header_tr")
    assert "headers say 0.2 s" in caplog.text
    run_script(step(4), *argv)  # done
    series = [
        TINY.series_path(data, 1, run, rep) for split in ("train", "test") for run in TINY.runs(split) for rep in TINY.repetitions(1, run)
    ]
    path.unlink()
    os.link(TINY.series_path(data, 1, "seg2", 1), path)
    replace_file(path, path.read_bytes())
    for unit in ((b'SeriesStep="2.0"', b'SeriesStep="0.2"'), (b'SeriesExponent="0"', b'SeriesExponent="1"')):
        for one in series:
            altered(one, unit)
    assert {cifti.open_series(one).tr for one in series} == {2.0}  # in tens of seconds: the same time
    for one in series:
        altered(one, (b'SeriesStep="0.2"', b'SeriesStep="0.0"'))
    cifti.open_series(path).check_tr(2.0)  # the file does not say


def test_what_nibabel_reads_is_read(data, tmp_path):
    path, series = TINY.series_path(data, 1, "seg1", 1), series_of(1, "seg1", 1)
    (tmp_path / "a.dtseries.nii.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    (tmp_path / "b.dtseries.nii").write_bytes(path.read_bytes() + b"stray bytes")
    image = nib.load(path)
    header = image.nifti_header.copy()
    header["intent_code"] = 3000
    scaled = nib.Cifti2Image(np.nan_to_num(series), image.header, header)
    scaled.set_data_dtype(np.int16)
    scaled.to_filename(tmp_path / "c.dtseries.nii")
    for name in ("a.dtseries.nii.gz", "b.dtseries.nii"):
        np.testing.assert_array_equal(cifti.open_series(tmp_path / name).read(1, N_CLIPS), series[1 : 1 + N_CLIPS])
    read = cifti.open_series(tmp_path / "c.dtseries.nii")
    assert read.image.get_data_dtype() == np.int16 and read.tr == 2
    np.testing.assert_allclose(read.read(), np.nan_to_num(series), atol=0.01)  # of a range of 120 in 2^16 steps
    np.testing.assert_allclose(read.read_vertices(np.array([3, 40000])), read.read()[:, [3, 40000]].T, atol=1e-5)
    path.unlink()
    (tmp_path / "a.dtseries.nii.gz").rename(f"{path}.gz")
    run_script(step(4), *flags(data, tmp_path / "out", "--no_figures"))


def test_other_files_are_called_what_they_are(tmp_path):
    volume, cortical = np.zeros((4, 5, 6, 7), np.float32), np.zeros((1, N_CORTEX), np.float32)
    images = {
        "a.nii": (nib.Nifti1Image(volume, np.eye(4)), "is a NIfTI volume of 4 x 5 x 6 x 7"),
        "b.nii": (nib.Nifti2Image(volume, np.eye(4)), "is a NIfTI volume of 4 x 5 x 6 x 7"),
        "c.dscalar.nii": (
            nib.Cifti2Image(cortical, header=(nib.cifti2.ScalarAxis(["x"]), cifti_writing.cortex_axis())),
            r"map of values \(dscalar\)",
        ),
    }
    for name, (image, what) in images.items():
        nib.save(image, tmp_path / name)
        with pytest.raises(UserError, match=what):
            cifti.open_series(tmp_path / name)


def merge(data, archives):
    """Unpack archives into one tree instead of one each."""
    for archive in archives:
        whole = data / "tiny" / archive / "video_fmri_dataset"
        for path in [path for path in whole.rglob("*") if path.is_file()]:
            target = data / "tiny/video_fmri_dataset" / path.relative_to(whole)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        shutil.rmtree(whole.parent)


@pytest.mark.parametrize("top", ["tiny/video_fmri_dataset", "video_fmri_dataset"])
def test_one_tree_for_all_archives(data, prepared, tmp_path, capsys, top):
    merge(data, ["Stimuli", "Subject01", "Subject03"])
    if top != "tiny/video_fmri_dataset":
        (data / "tiny/video_fmri_dataset").rename(data / top)
    run_script(load_script("Data_preprocess/check_data.py"), *flags(data, tmp_path)[:4])
    printed = capsys.readouterr().out
    assert "tiny movies: 5 of 5" in printed and "tiny subject 3: 11 of 11" in printed and "mixed" not in printed
    run_script(step(1), *flags(data, tmp_path / "out", "--split", "test"))
    assert Layout(tmp_path / "out/tiny").clip("test", "test2_8").exists()
    run_script(step(4), *flags(data, tmp_path / "out", "--n_voxels", 12, N_VERTICES, "--no_figures", "--subj_ID", 3))
    made, before = tree(tmp_path / "out"), tree(prepared)
    assert {name: digest for name, digest in made.items() if "/sub3/" in name} == {
        name: digest for name, digest in before.items() if "/sub3/" in name and "figures" not in name
    }


def test_check_data_names_what_is_mixed_and_what_is_there_twice(data, tmp_path, capsys):
    script, argv = load_script("Data_preprocess/check_data.py"), flags(data, tmp_path)[:4]
    run_script(script, *argv)
    assert "mixed" not in capsys.readouterr().out
    merge(data, ["Stimuli", "Subject03"])
    twice = {TINY.series_path(data, 3, "seg1", 1): TINY.series_path(data, 1, "seg1", 1)}
    twice[TINY.series_path(data, 3, "test1", 2)] = TINY.series_path(data, 3, "test1", 1)
    for copy, original in twice.items():
        copy.unlink()
        shutil.copy(original, copy)
    run_script(script, *argv)  # they are there, so that the status is 0
    lines = capsys.readouterr().out.splitlines()
    merged, own = data / "tiny/video_fmri_dataset", data / "tiny/Subject01/video_fmri_dataset"
    assert [line for line in lines if line.startswith("mixed")] == [f"mixed    movies, subject 3 in {merged}; subject 1 in {own}"]
    for (copy, original), which in zip(twice.items(), ("subject 1 and subject 3", "subject 3"), strict=True):
        assert f"warning  {original} and {copy} hold the same series ({which}); copy or download it again" in lines
    assert sum(line.startswith("warning") for line in lines) == 2

    other = data / "tiny/Subject03/video_fmri_dataset" / copy.relative_to(merged)
    other.parent.mkdir(parents=True)
    shutil.copy(copy, other)
    run_script(script, *argv)  # two copies of one file do no harm
    change_byte(other, -1)
    capsys.readouterr()
    fails(script, *argv)
    assert f"error: {other} and {copy} are of one name and differ; delete the wrong one" in capsys.readouterr().err


def test_check_data_knows_every_data_set(tmp_path, capsys):
    script = load_script("Data_preprocess/check_data.py")
    known = {"CC2017": (1, 23, 86), "HCP": (100610, 4, 4), "Algonauts2021": (1, 1000, 9), "phantom": (1, 20, 56)}
    for name, (subject, *counts) in known.items():
        fails(script, "--dataset", name, "--data_root", tmp_path, "--subj_ID", subject, "--workers", 1, status=1)
        out = capsys.readouterr().out
        assert all(f": 0 of {count} as expected" in out for count in counts), name
