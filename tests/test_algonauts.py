"""Algonauts 2021 through the scripts' mains, on a small tree of the real form: numbered mp4 videos, pickles of ROIs."""

import os
import pickle
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from tiny import error_of, load_script, read_here, run_chain, run_script

from common import datasets, video
from common.arms import load_fmri
from common.captions import read_captions
from common.files import card_path, load_array, read_json
from common.fmri import load_statistics, scale
from common.frames import read_clip
from common.layout import Layout
from Data_preprocess import pickles
from Evaluation_Metrics.results import read_per_clip

N, VIDEOS = 6, "AlgonautsVideos268_All_30fpsmax"
SMALL = replace(datasets.ALGONAUTS, name="small", n_train=4, n_test=2, subjects=(1, 2), frame_size=32)
WIDTHS = {roi: 3 + i for i, roi in enumerate(SMALL.rois)} | {"WB": 70}
CONSTANT, NAN = ("V2", 1), ("EBA", 4)  # the first in the training videos alone
STEPS = [f"Data_preprocess/Algonauts2021/step{n}_{name}.py" for n, name in enumerate(
    ("cut_video_clips", "get_video_frames", "video_captioning", "fMRI_preparation"), 1)]  # fmt: skip


def responses_of(subject, roi):
    """(videos, repetitions, voxels), with a constant voxel and a NaN."""
    rng = np.random.default_rng([subject, *map(ord, roi)])
    responses = 2 + rng.normal(size=(N, 1, WIDTHS[roi])) + 0.5 * rng.normal(size=(N, 3, WIDTHS[roi]))
    if roi == CONSTANT[0]:
        responses[:4, :, CONSTANT[1]] = 0.1
    if roi == NAN[0]:
        responses[5, 2, NAN[1]] = np.nan
    return responses


def pickled(responses, python2=False):
    """Bytes of a pickle of responses; as Python 2 and numpy 1 wrote it: protocol 2, the bytes as a string, numpy.core."""
    if not python2:
        return pickle.dumps({"train": responses}, protocol=4)
    shape = b"".join(b"M" + n.to_bytes(2, "little") for n in responses.shape)
    content = np.ascontiguousarray(responses, "<f8").tobytes()
    return (
        b"\x80\x02}U\x05traincnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + shape + b"\x87"
        b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + len(content).to_bytes(4, "little") + content + b"tbs."
    )  # fmt: skip


def draw(number, frame, height, width):
    """A picture whose left half says which video it is of and whose right half which frame."""
    picture = np.full((height, width, 3), 30 + 25 * number, np.uint8)
    picture[:, width // 2 :] = 30 + 15 * (frame % 14)
    return picture


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The raw tree, deep down and partly behind links; read only."""
    root = tmp_path_factory.mktemp("raw")
    for number in range(1, N + 3):  # the last two have no responses
        height, width, rate, n = 40 + 8 * number, 64, (Fraction(30), Fraction(25), Fraction(30000, 1001))[number % 3], 8 + 5 * number
        path = root / "elsewhere" / f"{number:04d}_{100 - number}-x.mp4"
        video.write_mp4(path, [draw(number, k, height, width) for k in range(n)], rate, crf=1)
    (root / "data/stimuli").mkdir(parents=True)
    (root / "data/stimuli" / VIDEOS).symlink_to(root / "elsewhere")
    for subject in SMALL.subjects:
        for track, rois in SMALL.tracks.items():
            folder = root / "data/deep/participants_data_v2021" / track / f"sub{subject:02d}"
            folder.mkdir(parents=True)
            for roi in rois:
                (folder / f"{roi}.pkl").write_bytes(pickled(responses_of(subject, roi), python2=roi in ("V1", "STS")))
    return root / "data"


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "small", SMALL)
    monkeypatch.setattr(pickles, "read_apart", read_here)


@pytest.fixture
def data(raw, tmp_path):
    """A tree of one's own; whoever changes a file replaces it."""
    shutil.copytree(raw, tmp_path / "data", copy_function=os.link)
    return tmp_path / "data"


def flags(data, out, *more):
    return ["--dataset", "small", "--data_root", data, "--out_root", out, *more]


def step(n):
    return load_script(STEPS[n - 1])


def run_step(n, data, out, *more):
    run_script(step(n), *flags(data, out, *more))


def plain_rows(subject, rois, train, test):
    """Voxel by voxel: mean over repetitions, minus the training mean, by the population deviation; (train rows, test rows)."""
    rows = {"train": [], "test": []}
    for roi in rois:
        responses = responses_of(subject, roi)
        for v in range(WIDTHS[roi]):
            means = [sum(float(responses[i, r, v]) for r in range(3)) / 3 for i in range(N)]
            mean = sum(means[i] for i in train) / len(train)
            deviation = (sum((means[i] - mean) ** 2 for i in train) / len(train)) ** 0.5
            dead = np.isnan(means).any() or deviation < 1e-12
            for split, of_split in (("train", train), ("test", test)):
                rows[split].append([0.0 if dead else (means[i] - mean) / deviation for i in of_split])
    return np.array(rows["train"]).T, np.array(rows["test"]).T


# ---------------------------------------------------------------------------------------------- the whole way


def test_clips_frames_and_captions(raw, tmp_path, capsys):
    data, out, layout = raw, tmp_path / "out", Layout(tmp_path / "out/small")
    captions = [f"video {number}, ä" for number in range(1, N + 1)]
    (tmp_path / "all.txt").write_text("\n".join(captions), encoding="utf-8")
    run_step(1, data, out)
    assert "small: 4 training clips, test clips 5-6; which ones the paper tested on is not published" in capsys.readouterr().out
    run_step(2, data, out, "--format", "png", "--workers", 1)
    run_step(3, data, out, "--captions", tmp_path / "all.txt")
    for split, numbers in (("train", [1, 2, 3, 4]), ("test", [5, 6])):
        assert read_captions(layout.captions(split)) == [captions[n - 1] for n in numbers]
        for number in numbers:
            clip = layout.clip(split, f"clip_{number}")
            assert clip.read_bytes() == next((raw / "stimuli" / VIDEOS).glob(f"{number:04d}_*.mp4")).read_bytes()
            pictures = read_clip(layout.frames(split, f"clip_{number}"), range(8), 32)
            for frame, picture in enumerate(pictures):
                np.testing.assert_allclose(picture[4:-4, 4:12].mean(), 30 + 25 * number, atol=3)
                np.testing.assert_allclose(picture[4:-4, 20:28].mean(), 30 + 15 * frame, atol=3)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    for n, more in ((1, ()), (2, ("--format", "png")), (3, ("--captions", tmp_path / "all.txt"))):
        run_step(n, data, out, *more)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.*")} == before
    (tmp_path / "all.txt").write_text("\n".join(captions[:-1]), encoding="utf-8")
    assert "all.txt has 5 captions, not 6" in error_of(
        capsys, step(3), *flags(data, tmp_path / "other", "--captions", tmp_path / "all.txt")
    )


@pytest.mark.parametrize(
    "subjects, track, test_clips", [((1, 2), "mini_track", None), ((1,), "full_track", None), ((1,), "mini_track", "1,3-4")]
)
def test_rows_are_the_plain_ones(raw, tmp_path, capsys, subjects, track, test_clips):
    out, layout, rois = tmp_path / "out", Layout(tmp_path / "out/small"), SMALL.tracks[track]
    run_step(
        4, raw, out, "--subj_ID", *(f"sub{subject:02d}" for subject in subjects), "--track", track,
        *(("--test_clips", test_clips) if test_clips else ()),
    )  # fmt: skip
    said = capsys.readouterr().out
    test = [0, 2, 3] if test_clips else [4, 5]
    train = [i for i in range(N) if i not in test]
    assert f"test clips {test_clips or '5-6'};" in said
    v = sum(WIDTHS[roi] for roi in rois)
    for subject in subjects:
        expected = dict(zip(("train", "test"), plain_rows(subject, rois, train, test), strict=True))
        columns, end = read_json(layout.roi_columns(subject)), 0
        assert list(columns) == list(rois)
        for roi in rois:
            assert columns[roi] == [end, end := end + WIDTHS[roi]]
        assert end == v
        for split, name in (("train", "trn"), ("test", "test")):
            path = layout.fmri(subject, split) / f"masked{v}_{name}_data.npy"
            made = load_array(path, dtype="float32", shape=expected[split].shape, verify=True)
            np.testing.assert_allclose(made, expected[split], atol=1e-5)
            assert read_json(card_path(path))["roi_columns"] == columns
        report = read_json(layout.fmri_report(subject))
        dead = {"constant": 1, "not_finite": 1} if track == "mini_track" and not test_clips else {"constant": 0, "not_finite": 1}
        if track == "mini_track":
            assert {key: report["bad_vertices"][key] for key in dead} == dead
            assert (expected["test"][:, columns["EBA"][0] + NAN[1]] == 0).all()
            assert report["rois"]["FFA"]["sha256"] and report["rois"]["V2"]["constant"] == dead["constant"]
        assert not layout.mask(subject).exists() and report["tested_clips"] == (test_clips or "5-6")
        r = [np.corrcoef(responses_of(subject, "WB")[train][:, :, v].T)[np.triu_indices(3, 1)].mean() for v in range(WIDTHS["WB"])]
        if track == "full_track":
            assert report["inter_repetition_correlation"]["all"]["mean"] == pytest.approx(np.mean(r))
    # what follows finds the rows by themselves, and takes the same split
    dataset = datasets.get_dataset("small")
    fmri = load_fmri(layout, dataset, 1, "test", "full", raw, 0)
    assert fmri.shape == (len(test), v) and dataset.clip_names("test") == [f"clip_{i + 1}" for i in test]
    mean, std = load_statistics(layout.statistics(1, 0), "test", v)
    average = np.concatenate([responses_of(1, roi).mean(1) for roi in rois], axis=1)[test]
    np.testing.assert_allclose(scale(np.nan_to_num(average), mean, std), fmri, atol=1e-5)


def test_the_pipeline_passes_captions_and_the_split_on(raw, tmp_path):
    layout, captions = Layout(tmp_path / "out/small"), tmp_path / "all.csv"
    captions.write_text("clip,caption\n" + "".join(f"clip_{number},video {number}\n" for number in (3, 1, 2, 6, 5, 4)))
    more = ("--stages", "preprocess", "--captions", captions, "--test_clips", "2,5", "--track", "full_track", "--workers", 1)
    run_script(load_script("run_pipeline.py"), *flags(raw, tmp_path / "out", *more))
    assert read_captions(layout.captions("test")) == ["video 2", "video 5"]
    assert {path.stem for path in layout.clip("test", "x").parent.glob("*.mp4")} == {"clip_2", "clip_5"}
    made = np.load(layout.masked_fmri(1, "test", 0))
    np.testing.assert_allclose(made, plain_rows(1, ("WB",), [0, 2, 3, 5], [1, 4])[1], atol=1e-5)


# ---------------------------------------------------------------------------------------------- mistakes


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("run",)


def spoil(path, content):
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize(
    "fault, words",
    [
        ("absent", "file not found"),
        ("gap", "/**/0003_*.mp4 and 1 more missing of the first 6 videos"),
        ("twice", "have the same number; keep one of them below --data_root"),
        ("short", "has 5 frames, fewer than the 8"),
        ("cut", "truncated"),
    ],
)
def test_videos_with_a_fault(data, tmp_path, capsys, fault, words):
    videos = {int(path.name[:4]): path for path in data.rglob("*.mp4")}
    if fault == "absent":
        shutil.rmtree(data / "stimuli")
    elif fault == "gap":
        videos[3].unlink(), videos[6].unlink()
    elif fault == "twice":
        (data / "0002_other.mp4").write_bytes(videos[2].read_bytes())
    elif fault == "short":
        videos[6].unlink()
        video.write_mp4(videos[6], [draw(6, k, 16, 16) for k in range(5)], 30)
    else:
        spoil(videos[2], videos[2].read_bytes()[:-90])
    line = error_of(capsys, step(1), *flags(data, tmp_path / "out"))
    assert words in line and str(data) in line


@pytest.mark.parametrize(
    "roi, content, words",
    [
        ("FFA", None, "/deep/participants_data_v2021/mini_track/sub02 lacks FFA.pkl of subject 2; copy or download it again"),
        ("V3", pickled(np.ones((N, 2, 4))), "V3.pkl has responses of shape (6, 2, 4), not (6, 3, any)"),
        ("V1", pickled(np.ones((N, 12))), "V1.pkl has responses of shape (6, 12), not (6, 3, any)"),
        ("EBA", pickle.dumps({"train": Malicious()}), "EBA.pkl is damaged, or holds other objects than arrays (posix.mkdir)"),
        ("EBA", b"cos\nsystem\n(S'touch run'\ntR.", "EBA.pkl is damaged, or holds other objects than arrays (os.system)"),
        ("LOC", pickled(np.ones((N, 3, 4)), python2=True)[:-40], "LOC.pkl is damaged"),
        ("STS", pickled(np.full((N, 3, 4), np.nan)), "STS.pkl has NaN or infinite values in every voxel"),
        ("STS", pickled(np.full((N, 3, 4), 0.1)), "STS.pkl has constant values in every voxel"),
    ],
)
def test_responses_with_a_fault(data, tmp_path, capsys, monkeypatch, roi, content, words):
    """Named in a sentence, and nothing in a pickle is run."""
    monkeypatch.chdir(tmp_path)
    spoil(data / "deep/participants_data_v2021/mini_track/sub02" / f"{roi}.pkl", content)
    assert words in error_of(capsys, step(4), *flags(data, tmp_path / "out", "--subj_ID", 2))
    assert not (tmp_path / "run").exists() and not list((tmp_path / "out").rglob("*.npy"))


def test_other_mistakes(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert "small has no subject 3; choose from 1, 2" in error_of(capsys, step(4), *flags(data, out, "--subj_ID", 3))
    for given, words in (("0", "'0' is no clip number"), ("6-7", "small has 6 clips"), ("1-6", "small has 6 clips")):
        line = error_of(capsys, step(4), *flags(data, out, "--test_clips", given))
        assert line.startswith(f"error: --test_clips {given}: ") and words in line
    (data / "copy").mkdir()
    shutil.copytree(data / "deep/participants_data_v2021/mini_track/sub01", data / "copy/mini_track/sub01")
    assert "V1.pkl lies in" in error_of(capsys, step(4), *flags(data, out)) and not out.exists()
    shutil.rmtree(data / "deep/participants_data_v2021/mini_track/sub02")
    assert f"{data}/mini_track/sub02 lacks V1.pkl, V2.pkl, V3.pkl" in error_of(capsys, step(4), *flags(data, out, "--subj_ID", 2))


def test_another_split_or_track_needs_overwrite(data, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    out, layout = tmp_path / "out", Layout(tmp_path / "out/small")
    run_step(1, data, out)
    for _ in range(2):
        run_step(4, data, out)
    assert caplog.text.count("already done") == 1
    for n, more, words in (
        (1, ("--test_clips", "1-2"), "has results with the test clips 5-6"),
        (4, ("--test_clips", "1-2"), "has results with the test clips 5-6"),
        (4, ("--track", "full_track"), "track mini_track -> full_track"),
    ):
        line = error_of(capsys, step(n), *flags(data, out, *more))
        assert words in line and "--overwrite" in line
    run_step(1, data, out, "--test_clips", "1-2", "--overwrite")
    assert sorted(path.name for path in layout.clip("test", "x").parent.glob("*.mp4")) == ["clip_1.mp4", "clip_2.mp4"]
    line = error_of(capsys, step(4), *flags(data, out))
    assert "tested_clips 5-6 -> 1-2" in line
    run_step(4, data, out, "--track", "full_track", "--overwrite")
    assert [path.name for path in layout.fmri(1, "test").glob("*.npy")] == [f"masked{WIDTHS['WB']}_test_data.npy"]
    assert read_json(layout.roi_columns(1)) == {"WB": [0, WIDTHS["WB"]]}


# ---------------------------------------------------------------------------------------------- the phantom


@pytest.mark.slow
def test_the_phantom_goes_from_raw_files_to_metrics(tmp_path):
    """Two minutes on two idle cores; what is decoded is better than what the control decodes, by 3 standard errors."""
    folder = Path(os.environ.get("MINDANIMATOR_PHANTOM_ALGONAUTS_RUN", tmp_path))
    if folder == tmp_path:
        run_chain("phantom-algonauts", folder)
    layout, dataset = Layout(folder / "outputs/phantom-algonauts"), datasets.get_dataset("phantom-algonauts")
    columns = read_json(layout.roi_columns(1))
    v = columns["PPA"][1]
    assert list(columns) == list(dataset.rois) and layout.masked_fmri(1, "test", 0).name == f"masked{v}_test_data.npy"
    assert read_json(layout.fmri_report(1))["bad_vertices"]["constant"] == 9
    assert np.load(layout.ground_truth).shape == (dataset.n_test, 8, 64, 64, 3)
    full, control = (read_per_clip(layout.metrics(1, name) / "per_clip.npz")[1] for name in ("full", "control"))
    for column, sign in {"PSNR": 1, "SSIM": 1, "VIFI-score": 1, "2-way-I": 1, "2-way-V": 1, "EPE": -1}.items():
        difference = sign * (full[column] - control[column])
        assert difference.mean() > 3 * difference.std(ddof=1) / len(difference) ** 0.5, column
    assert full["PSNR"].mean() > control["PSNR"].mean() + 2
    assert "Phantom." in layout.subject_report(1).read_text()
