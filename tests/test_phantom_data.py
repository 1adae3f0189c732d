"""The phantom's world, what its brain answers to, and the data set that steps 1 and 2 write."""

from collections import Counter
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import tiny
from scipy.stats import gamma

from common import cortex, datasets
from common.arms import load_fmri
from common.files import UserError, read_json, write_json
from common.layout import Layout
from common.video import read_frames
from Data_preprocess.phantom_movies import truth
from phantom import brain as phantom_brain
from phantom import features as phantom_features
from phantom import world as phantom_world
from phantom.world import Scene, object_centre, random_scene, render

STEP1 = tiny.load_script("Data_preprocess/Phantom/step1_make_stimuli.py")
STEP2 = tiny.load_script("Data_preprocess/Phantom/step2_make_fmri.py")
EIGHT = range(0, 64, 8)
SCENE = Scene("circle", "pink", "waves", "large", 1, 1, "right", 2.0, (3.2, 17.9))
DIRECTIONS = {"right": (1, 0), "down": (0, 1), "left": (-1, 0), "up": (0, -1)}


def scenes(n, seed=0):
    rng = np.random.default_rng(seed)
    return [random_scene(rng) for _ in range(n)]


# ---------------------------------------------------------------------------------------------- the world


def test_factors_are_uniform_and_independent():
    drawn = scenes(4000)
    factors = {"shape": 4, "colour": 6, "background": 4, "size": 2, "column": 3, "row": 3, "direction": 4, "speed": 2}
    for name, n in factors.items():
        counts = Counter(getattr(scene, name) for scene in drawn)
        assert len(counts) == n
        assert max(abs(count / 4000 - 1 / n) for count in counts.values()) < 4 * np.sqrt((1 - 1 / n) / n / 4000), name
    for first, second in (("column", "direction"), ("row", "direction"), ("direction", "speed"), ("colour", "direction")):
        together = Counter((getattr(scene, first), getattr(scene, second)) for scene in drawn)
        n = factors[first] * factors[second]
        assert max(abs(count / 4000 - 1 / n) for count in together.values()) < 4 * np.sqrt(1 / n / 4000), (first, second)


def test_caption_tells_neither_position_nor_motion():
    assert SCENE.caption == "a large pink circle over the sea waves"
    elsewhere = replace(SCENE, column=0, row=2, direction="up", speed=3.5, phase=(0.0, 0.0))
    assert elsewhere.caption == SCENE.caption
    captions = {scene.caption for scene in scenes(3000)}
    assert len(captions) == 4 * 6 * 4 * 2
    words = {word for caption in captions for word in caption.split()}
    assert words == set(phantom_world.vocabulary()) and not words & set("left right up down fast slow top corner centre".split())


def centroid(picture, colour):
    """Mean position of the pixels that are near a colour, weighted by how near, as (x, y) with pixel centres at .5."""
    distance = np.linalg.norm(picture.astype(float) - phantom_world.COLOURS[colour], axis=-1)
    weight = np.clip(1 - distance / 60, 0, None)
    y, x = np.mgrid[:64, :64] + 0.5
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", ["circle", "square", "triangle", "star"])
def test_the_object_moves_by_its_velocity(direction, shape):
    for speed in (2.0, 3.5):
        scene = replace(SCENE, shape=shape, direction=direction, speed=speed)
        seen = np.array([centroid(picture, "pink") for picture in render(scene, range(0, 33, 8))])
        steps = np.arange(5)[:, None] * speed * np.array(DIRECTIONS[direction])
        assert np.abs(seen - seen[0] - steps).max() < 0.4  # the mask of a slanted edge jumps by half pixels
        assert np.allclose(object_centre(scene, range(0, 33, 8)), 32 + steps)
        if shape in ("circle", "square"):  # the others are not symmetrical about their centres
            assert np.abs(seen[0] - 32).max() < 0.2


@pytest.mark.parametrize("background", phantom_world.BACKGROUNDS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_background_pans_at_six_tenths(background, direction):
    """20 frames at 2 px per 8 frames: the object goes 5 px, the background 3."""
    scene = replace(SCENE, background=background, direction=direction, column=0, row=0, size="small")
    first, later = render(scene, [0, 20]).astype(int)
    dx, dy = (3 * d for d in DIRECTIONS[direction])
    away = np.s_[44:60, 44:60]
    moved = np.roll(first, (dy, dx), axis=(0, 1))[away]
    assert np.array_equal(later[away], moved)
    assert np.abs(later[away] - first[away]).mean() > 1  # it does move


# ---------------------------------------------------------------------------------------------- features


def test_structure_is_the_layout_of_the_first_frame():
    base, faster = SCENE, replace(SCENE, direction="up", speed=3.5)
    moved, recoloured = replace(SCENE, column=2), replace(SCENE, colour="green")
    rows = phantom_features.structure_features([base, faster, moved, recoloured])
    assert rows.shape == (4, 64 + 2 * 16 + 9)
    assert np.array_equal(rows[0], rows[1])  # motion leaves no trace in it
    assert np.abs(rows[0] - rows[2]).max() > 0.1 and np.abs(rows[0, 64:96] - rows[3, 64:96]).max() > 0.05
    assert np.array_equal(rows[0, 96:], rows[3, 96:])  # position has nothing to do with colour
    luma = (render(base, [0])[0] @ np.array([0.299, 0.587, 0.114])).reshape(8, 8, 8, 8).mean((1, 3)) / 255
    assert np.abs(rows[0, :64] - luma.ravel()).max() < 0.004
    places = [replace(SCENE, column=c, row=r) for r in range(3) for c in range(3)]
    assert phantom_features.structure_features(places)[:, 96:].argmax(1).tolist() == list(range(9))
    for scene in places:
        seen = centroid(render(scene, [0])[0], "pink")
        assert np.abs(seen - (20 + 12 * scene.column, 20 + 12 * scene.row)).max() < 0.2


def test_motion_features_are_of_motion_alone():
    kinds = [replace(SCENE, direction=d, speed=s) for d in DIRECTIONS for s in (2.0, 3.5)]
    rows = phantom_features.motion_features(kinds)
    assert rows.shape == (8, 16) and np.linalg.matrix_rank(rows) == 8
    other = [replace(scene, shape="star", colour="red", background="bricks", column=0, phase=(0.0, 0.0)) for scene in kinds]
    assert np.array_equal(rows, phantom_features.motion_features(other))
    preferred = [rows[i].argmax() for i in range(8)]  # direction k * 45 degrees, then speed
    assert preferred == [0, 1, 4, 5, 8, 9, 12, 13]
    assert np.allclose(rows.max(1), 1)


# ---------------------------------------------------------------------------------------------- steps 1 and 2


def shrink(monkeypatch, scenes_per_run, **changes):
    n = scenes_per_run
    entry = replace(
        datasets.PHANTOM, n_train_runs=2, clips_per_train_run=n, n_train=2 * n, n_test_runs=2, clips_per_test_run=n, n_test=2 * n, **changes
    )
    monkeypatch.setitem(datasets.DATASETS, "phantom", entry)
    return entry


def contents(folder, pattern):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob(pattern))}


def test_step1_writes_movies_and_truth(tmp_path, monkeypatch):
    entry = shrink(monkeypatch, 4)
    tiny.run_script(STEP1, "--data_root", tmp_path, "--workers", 1)
    truth = read_json(tmp_path / "phantom/phantom_truth.json")
    assert truth["phantom"] is True and truth["seed"] == 42
    for split, runs in (("train", ("seg1", "seg2")), ("test", ("test1", "test2"))):
        assert [clip["clip"] for clip in truth[split]] == [f"{run}_{j}" for run in runs for j in range(1, 5)]
        told = phantom_features.load_scenes(entry.truth_path(tmp_path), split)
        assert [scene.caption for scene in told] == [clip["caption"] for clip in truth[split]]
        for number, run in enumerate(runs):
            movie = read_frames(entry.movie_path(tmp_path, run))
            assert movie.shape == (4 * 60, 64, 64, 3)
            drawn = np.concatenate([render(scene, range(60)) for scene in told[number * 4 : number * 4 + 4]])
            error = movie.astype(float) - drawn
            assert 10 * np.log10(255**2 / (error**2).mean()) > 24  # 4:2:0 colour loses most of it
            luma = error @ np.array([0.299, 0.587, 0.114])
            assert 10 * np.log10(255**2 / (luma**2).mean()) > 34
    scenes_of = {split: phantom_features.load_scenes(entry.truth_path(tmp_path), split) for split in ("train", "test")}
    assert not {(s.phase, s.shape) for s in scenes_of["train"]} & {(s.phase, s.shape) for s in scenes_of["test"]}


def test_step1_same_seed_same_bytes_stopped_or_not(tmp_path, monkeypatch, caplog):
    shrink(monkeypatch, 2)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    tiny.run_script(STEP1, "--data_root", whole, "--workers", 2, "--seed", 7)
    films = contents(whole / "phantom/CC2017_Purdue", "*.mp4")
    assert len(films) == 4 and len(set(films.values())) == 4

    tiny.run_script(STEP1, "--data_root", stopped, "--workers", 1)
    assert contents(stopped / "phantom/CC2017_Purdue", "*.mp4") != films
    tiny.fails(STEP1, "--data_root", stopped, "--workers", 1, "--seed", 7)  # another seed is another data set
    caplog.set_level("INFO")
    tiny.run_script(STEP1, "--data_root", stopped, "--workers", 1)
    assert "already done" in caplog.text

    # made anew with another seed, broken off at the third movie, and gone on with
    write = STEP1.write_mp4

    def breaks(path, *rest, **options):
        if path.name == "test1.mp4":
            raise RuntimeError("stopped")
        write(path, *rest, **options)

    monkeypatch.setattr(STEP1, "write_mp4", breaks)
    with pytest.raises(RuntimeError):
        tiny.run_script(STEP1, "--data_root", stopped, "--workers", 1, "--seed", 7, "--overwrite")
    monkeypatch.setattr(STEP1, "write_mp4", write)
    tiny.run_script(STEP1, "--data_root", stopped, "--workers", 1, "--seed", 7)
    assert contents(stopped / "phantom/CC2017_Purdue", "*.mp4") == films
    assert contents(stopped, "phantom_truth.json") == contents(whole, "phantom_truth.json")


N = 24  # scenes a run
AREAS = {
    "structure": ("V1", "V2", "V3", "V4"), "motion": ("V3A", "V3B", "MST", "MT"), "semantics": ("LO1", "LO2", "TPOJ1", "TPOJ2"),
}  # fmt: skip


@pytest.fixture(scope="module")
def brain(tmp_path_factory):
    """Subjects 1 and 3 with two repetitions of everything, of which subject 3 lacks the second of test2."""
    folder = tmp_path_factory.mktemp("brain")
    with pytest.MonkeyPatch.context() as patch:
        entry = shrink(patch, N, test_repetitions=2, excluded=frozenset({(3, "test2", 2)}))
        write_json(entry.truth_path(folder), truth(entry, STEP1.draw_scenes(entry, 42), 42))
        tiny.run_script(STEP2, "--data_root", folder, "--subj_ID", 1, 3, "--workers", 1)
        scenes = {split: phantom_features.load_scenes(entry.truth_path(folder), split) for split in ("train", "test")}
        groups = phantom_features.feature_groups(scenes, entry.models["clip"])
    return folder, entry, groups


def read(brain, subject, run, rep):
    return nib.load(brain[1].series_path(brain[0], subject, run, rep)).get_fdata(dtype=np.float32)


def cleaned(series):
    """Without its 4th-order trend and scale, by a polynomial fit."""
    time = np.linspace(-1, 1, len(series))
    series = series - np.polynomial.polynomial.polyval(time, np.polynomial.polynomial.polyfit(time, series, 4)).T
    return series / np.maximum(series.std(0), 1e-6)


def correlation(a, b):
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))


def planted_vertices(areas):
    return np.concatenate([cortex.area_vertices([area]) for area in areas])


def test_features_are_standardised_on_the_training_scenes(brain):
    _, _, groups = brain
    assert {name: group["train"].shape for name, group in groups.items()} == {
        "structure": (2 * N, 105), "motion": (2 * N, 16), "semantics": (2 * N, 48),
    }  # fmt: skip
    for group in groups.values():
        assert np.abs(group["train"].mean(0)).max() < 1e-9
        assert np.all(np.isclose(group["train"].std(0), 1) | (group["train"].std(0) == 0))
        assert group["test"].shape == group["train"].shape and np.abs(group["test"].mean(0)).max() > 0.05


def test_step2_files_and_the_missing_repetition(brain):
    folder, entry, _ = brain
    for subject, missing in ((1, set()), (3, {("test2", 2)})):
        there = {(run, rep) for run in ("seg1", "seg2", "test1", "test2") for rep in (1, 2)} - missing
        found = sorted((folder / f"phantom/CC2017_Purdue/Subject0{subject}").rglob("*.nii"))
        assert [path.name for path in found] == sorted(f"{run}_{rep}_Atlas.dtseries.nii" for run, rep in there)
    image = nib.load(entry.series_path(folder, 1, "seg1", 1))
    assert image.shape == (N + 5, 59412) and image.header.get_axis(0).step == 2.0
    structures = [(name, len(model)) for name, _, model in image.header.get_axis(1).iter_structures()]
    assert structures == [("CIFTI_STRUCTURE_CORTEX_LEFT", 29696), ("CIFTI_STRUCTURE_CORTEX_RIGHT", 29716)]


def test_broken_vertices_are_constant_or_nan_and_lie_elsewhere(brain):
    series, told = read(brain, 1, "seg2", 1), read_json(brain[0] / "phantom/phantom_vertices_sub1.json")
    assert np.flatnonzero(np.isnan(series).any(0)).tolist() == told["nan"] and len(told["nan"]) == 12
    assert np.flatnonzero(series.std(0) == 0).tolist() == told["constant"] and len(told["constant"]) == 12
    responsive = {name: sorted(planted_vertices(areas)) for name, areas in AREAS.items()}
    assert {name: told[name] for name in AREAS} == responsive
    assert not set(told["nan"] + told["constant"]) & {vertex for vertices in responsive.values() for vertex in vertices}


def test_only_the_planted_areas_repeat_themselves(brain):
    first, second = (cleaned(np.nan_to_num(read(brain, 1, "seg1", rep))) for rep in (1, 2))
    rest = np.setdiff1d(np.arange(59412), planted_vertices(cortex.VISUAL_AREAS))
    rest = rest[first.std(0)[rest] > 0.5]  # not the broken ones
    assert abs(correlation(first[:, rest], second[:, rest]).mean()) < 0.02
    for areas in AREAS.values():
        vertices = planted_vertices(areas)
        assert 0.2 < correlation(first[:, vertices], second[:, vertices]).mean() < 0.4
    assert len(rest) == 59412 - 5820 - 24


@pytest.mark.parametrize("run, offset", [("seg1", 1), ("seg2", 1), ("test1", 1), ("test2", 2)])
def test_the_response_lies_at_the_documented_volume(brain, run, offset):
    """Drive and series of every vertex, at lags about the documented volume; the weights are the subject's own."""
    _, _, groups = brain
    planted, _, _ = phantom_brain.draw_vertices(groups, 1, 42)
    series = cleaned(np.mean([np.nan_to_num(read(brain, 1, run, rep)) for rep in (1, 2)], axis=0))
    split, number = ("train" if run.startswith("seg") else "test"), int(run[-1]) - 1
    for name, vertices, weights in planted:
        drive = groups[name][split][number * N : (number + 1) * N] @ weights
        answering = drive.std(0) > 0
        by_lag = {}
        for lag in (-1, 0, 1, 2):
            part = series[offset + lag : offset + lag + N][:, vertices[answering]]
            by_lag[lag] = np.nanmean(correlation(part, drive[: len(part), answering]))
        assert max(by_lag, key=by_lag.get) == 0 and by_lag[0] > 0.45, (name, by_lag)
        assert by_lag[0] > max(by_lag[lag] for lag in (-1, 1, 2)) + 0.2, (name, by_lag)


def test_step2_again_and_with_more_processes(brain, tmp_path, monkeypatch, caplog):
    folder, entry, _ = brain
    monkeypatch.setitem(datasets.DATASETS, "phantom", entry)
    caplog.set_level("INFO")
    tiny.run_script(STEP2, "--data_root", folder, "--subj_ID", 1, "--workers", 1)
    assert "already done" in caplog.text
    tiny.fails(STEP2, "--data_root", folder, "--subj_ID", 1, "--reliability", 0.5)
    (tmp_path / "phantom").mkdir()
    entry.truth_path(tmp_path).write_bytes(entry.truth_path(folder).read_bytes())
    tiny.run_script(STEP2, "--data_root", tmp_path, "--subj_ID", 3, "--workers", 2)
    of_three = contents(folder / "phantom/CC2017_Purdue/Subject03", "*.nii")
    assert len(of_three) == 7 and contents(tmp_path / "phantom/CC2017_Purdue/Subject03", "*.nii") == of_three


def test_the_oracle_arm_reads_the_true_features(brain, tmp_path, monkeypatch):
    folder, entry, groups = brain
    monkeypatch.setitem(datasets.DATASETS, "phantom", entry)
    paths = [entry.oracle_path(folder, split) for split in ("train", "test")]
    for split in ("train", "test"):
        fmri = load_fmri(Layout(tmp_path), entry, 1, split, "oracle", folder, 42)
        beside = np.concatenate([groups[name][split] for name in ("structure", "motion", "semantics")], axis=1)
        assert fmri.dtype == np.float32 and fmri.shape == (2 * N, 169) and np.array_equal(fmri, beside.astype(np.float32))
    times = [path.stat().st_mtime_ns for path in paths]
    tiny.run_script(STEP2, "--data_root", folder, "--subj_ID", 1, 3, "--workers", 1)
    assert [path.stat().st_mtime_ns for path in paths] == times  # they are those of these scenes
    before = paths[0].read_bytes()
    paths[0].unlink()  # a phantom of before there were such files
    with pytest.raises(UserError, match=r"true_features_train.npy; run Data_preprocess/Phantom/step2_make_fmri.py again"):
        load_fmri(Layout(tmp_path), entry, 1, "train", "oracle", folder, 42)
    tiny.run_script(STEP2, "--data_root", folder, "--subj_ID", 1, "--workers", 1)
    assert paths[0].read_bytes() == before
    with pytest.raises(UserError, match="CC2017 does not have"):
        load_fmri(Layout(tmp_path), datasets.CC2017, 1, "train", "oracle", folder, 42)


# ---------------------------------------------------------------------------------------------- haemodynamics


def scene_response(peak, under, tr=2.0, n=16):
    """Response to a scene of length TR at 0, 1, 2, ... TRs after its onset: the integral by small steps, sum 1."""
    step = 0.001
    time = (np.arange(round(n * tr / step)) + 0.5) * step
    hrf = gamma.pdf(time, peak[0], scale=peak[1]) - gamma.pdf(time, under[0], scale=under[1]) / 6
    seen = np.array([0.0] + [hrf[round((k - 1) * tr / step) : round(k * tr / step)].sum() * step for k in range(1, n)])
    return seen / (1 - 1 / 6)


@pytest.mark.parametrize("name, peak, under", [("phantom", (10, 1 / 3), (20, 1 / 3)), ("canonical", (6, 1), (16, 1))])
def test_response_weights(name, peak, under):
    weights = phantom_brain.response_weights(name, 2.0)
    assert np.abs(weights - scene_response(peak, under)).max() < 1e-5
    assert abs(weights.sum() - 1) < 0.01 and weights[0] == 0
    assert weights.argmax() == {"phantom": 2, "canonical": 3}[name]
    if name == "phantom":  # volumes before, at and after the documented one, as designed: sharp
        assert np.abs(weights[1:4] - (0.09, 0.80, 0.22)).max() < 0.015


def test_noise_is_autocorrelated_over_a_trend():
    series = cleaned(phantom_brain.noise(400, np.random.default_rng(0))[:, :2000])
    assert abs(correlation(series[:-1], series[1:]).mean() - 0.4) < 0.02
    raw = phantom_brain.noise(400, np.random.default_rng(0))[:, :2000]
    time = np.linspace(-1, 1, 400)
    left = raw - np.polynomial.polynomial.polyval(time, np.polynomial.polynomial.polyfit(time, raw, 4)).T
    assert abs(left.std() - 1) < 0.03 and raw.std() > 2
