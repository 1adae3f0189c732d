"""HCP 7T movie: counts and indices of the real entry; the steps on a small tree of the real form, against plain loops."""

import gzip
import os
import re
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import error_of, load_script, run_chain, run_script

from common import cortex, datasets, video
from common.arms import load_fmri
from common.captions import read_captions
from common.cortex import N_CORTEX, N_MESH, mesh_vertices
from common.datasets import HCP
from common.files import card_path, load_array, read_json
from common.fmri import load_statistics
from common.frames import read_clip
from common.layout import Layout
from Data_preprocess import cifti_writing
from Evaluation_Metrics.results import read_per_clip
from models.checkpoints import load_checkpoint
from phantom import world
from phantom.features import load_scenes
from phantom.measures import caption_ranks, decode_factors

# ---------------------------------------------------------------------------------------------- the real entry


@pytest.mark.parametrize(
    "movie, clips, first, last, seconds, volumes",
    [
        (1, 728, 26, 899, {204: 230, 205: 289, 420: 504, 421: 531, 595: 740, 652: 824}, 904),
        (2, 792, 26, 896, {219: 245, 220: 272, 473: 551, 716: 821}, 901),
        (3, 745, 26, 893, {173: 227, 349: 431, 533: 655, 669: 818}, 898),
        (4, 775, 26, 879, {226: 278, 450: 528, 699: 804}, 884),
    ],
)
def test_excerpts(movie, clips, first, last, seconds, volumes):
    starts = HCP.clip_start_seconds(movie)
    plain = [second for start, end in HCP.excerpts[movie - 1] for second in range(int(start / 24), int(end / 24))]
    assert starts.tolist() == plain and len(starts) == clips and (starts[0], starts[-1]) == (first, last)
    assert {clip: starts[clip] for clip in seconds} == seconds
    assert (HCP.volume_indices(movie) == np.array(plain) + 4).all() and HCP.volume_indices(movie)[-1] + 1 == volumes
    assert HCP.run_volumes[movie - 1] >= volumes


def test_clips_of_the_whole_data_set():
    assert sum(len(HCP.clip_start_seconds(movie)) for movie in (1, 2, 3, 4)) == 3040 == HCP.n_train + HCP.n_test
    assert (HCP.clip_names("train")[0], HCP.clip_names("train")[-1], HCP.clip_names("test")[-1]) == ("clip_1", "clip_2736", "clip_3040")
    assert [HCP.clip_names("test")[0]] == ["clip_2737"] and HCP.frame_indices == (0, 3, 6, 9, 12, 15, 18, 21)


SIZES = {  # spec: right, left
    "V1": (787, 831), "V2": (601, 619), "V3": (347, 337), "V4": (300, 361), "V3A": (147, 151), "V3B": (73, 77), "LO1": (43, 37),
    "LO2": (31, 52), "MST": (76, 73), "MT": (42, 58), "TPOJ1": (297, 181), "TPOJ2": (143, 156),
}  # fmt: skip


def test_visual_vertices_by_name():
    """From the packaged file by plain loops, in the order of the cortex, left before right."""
    with np.load(cortex.data_folder() / "mmp_1.0.npz") as atlas:
        name_of = dict(zip(atlas["ids"].tolist(), atlas["labels"].tolist(), strict=True))
        numbers = atlas["map_all"][:N_CORTEX].tolist()
    wanted = {f"{side}_{area}": 0 for area in SIZES for side in "RL"}
    plain = []
    for vertex, number in enumerate(numbers):
        if name_of.get(number) in wanted:
            assert (name_of[number][0] == "L") == (vertex < 29696)
            wanted[name_of[number]] += 1
            plain.append(vertex)
    assert {area: (wanted[f"R_{area}"], wanted[f"L_{area}"]) for area in SIZES} == SIZES
    vertices = HCP.roi_vertices()
    assert vertices.tolist() == plain and len(vertices) == HCP.n_vertices == 5820 and vertices.dtype.kind == "i"


# ---------------------------------------------------------------------------------------------- a small tree

TINY = replace(
    HCP, name="tiny", subjects=(100610, 102816), n_train=7, n_test=4, frame_size=48, uncropped_size=48, crop=40, run_volumes=(14, 12, 11, 10),
    excerpts=(((24, 72), (96, 120)), ((48, 96),), ((0, 24), (72, 120)), ((24, 96),)),
)  # fmt: skip
SECONDS = ([1, 2, 4], [2, 3], [0, 3, 4], [1, 2, 3])
NEEDED = (9, 8, 9, 8)
VISUAL = HCP.roi_vertices()
CONSTANT, NAN, UNUSED = VISUAL[5], VISUAL[[7, 5000]], VISUAL[9]  # a NaN in a volume that no clip has does not count
STEPS = ("step1_cut_video_clips", "step2_get_video_frames", "step3_center_crop", "step4_video_captioning", "step5_fMRI_preparation")


def step(n):
    return load_script(f"Data_preprocess/HCP/{STEPS[n - 1]}.py")


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "tiny", TINY)


def run_path(root, number, kind="_Atlas_hp2000_clean", subject=100610):
    run = TINY.runs[number - 1]
    return root / "package" / str(subject) / "MNINonLinear" / "Results" / run / f"{run}{kind}.dtseries.nii"


def write_run(path, data, tr=1.0):
    """A dense series; what there is beyond the cortex are voxels of the thalamus."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    n, other = data.shape[1] - N_CORTEX, None
    if n:
        other = nib.cifti2.BrainModelAxis.from_mask(np.ones((n, 1, 1), bool), name="thalamus_left", affine=np.eye(4))
    cifti_writing.write_series(path, data, tr, other)


def series_of(subject, number, columns=N_CORTEX):
    data = np.random.default_rng([subject, number]).normal(1000, 5, (TINY.run_volumes[number - 1], columns)).astype(np.float32)
    data[:, CONSTANT], data[7, NAN[0]] = 500, np.nan
    data[6 if number == 1 else 7, NAN[1]] = np.inf if number == 1 else 3.0
    data[9, UNUSED] = np.nan
    return data


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The raw tree; read only. Movie 2 lies elsewhere and is linked, run 3 has other grayordinates too, run 4 is compressed."""
    root, away = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("away")
    for number, movie in enumerate(TINY.movies, 1):
        frames = [np.full((64, 96, 3), 30 * number, np.uint8) for _ in range(5 * 24 + 7)]
        for k, frame in enumerate(frames):  # the centre says which frame of the movie it is
            frame[8:56, 16:80], frame[16:32, 28:68], frame[32:48, 28:68] = (200, 60, 20), 20 * (k // 12), 20 * (k % 12)
        video.write_mp4((away if number == 2 else root / "Stimuli/a/b") / f"{movie}.mp4", frames, 24, crf=1)
    (root / "linked").symlink_to(away, target_is_directory=True)
    (root / "Stimuli/back").symlink_to("..", target_is_directory=True)
    for subject in TINY.subjects:
        for number in range(1, 5):
            write_run(run_path(root, number, subject=subject), series_of(subject, number, N_CORTEX + 20 * (number == 3)))
    packed = run_path(root, 4)
    packed.with_name(f"{packed.name}.gz").write_bytes(gzip.compress(packed.read_bytes(), 1))
    packed.unlink()
    return root


@pytest.fixture
def data(raw, tmp_path):
    """A tree of one's own: hard links; whoever changes a file replaces it."""
    shutil.copytree(raw, tmp_path / "data", copy_function=os.link, symlinks=True)
    return tmp_path / "data"


def flags(data, out, *more, workers=1):
    return ["--dataset", "tiny", "--data_root", data, "--out_root", out, *(["--workers", workers] if workers else []), *more]


# ---------------------------------------------------------------------------------------------- fMRI


def plain_responses(root, subject):
    """The rows before scaling, by nibabel's image class and loops: (clips, 5820)."""
    visual, rows = [vertex for vertex, name in enumerate(cortex.area_labels()) if name[2:] in SIZES], []
    for number, seconds in enumerate(SECONDS, 1):
        path = run_path(root, number, subject=subject)
        packed = path.with_name(f"{path.name}.gz")
        image = nib.load(path) if path.exists() else nib.Cifti2Image.from_bytes(gzip.decompress(packed.read_bytes()))
        values, columns = image.get_fdata(), {}
        for structure, part, _ in image.header.get_axis(1).iter_structures():
            columns[structure] = list(range(*part.indices(values.shape[1])))
        in_order = columns["CIFTI_STRUCTURE_CORTEX_LEFT"] + columns["CIFTI_STRUCTURE_CORTEX_RIGHT"]
        rows += [[values[second + 4, in_order[vertex]] for vertex in visual] for second in seconds]
    return np.array(rows)


def plain_scaled(responses):
    scaled = np.zeros_like(responses)
    for v in range(responses.shape[1]):
        column = responses[:, v]
        if np.isfinite(column).all() and column.min() < column.max():
            scaled[:, v] = (column - column.min()) / (column.max() - column.min())
    return scaled


@pytest.fixture(scope="module")
def plain(raw):
    """What must come out of the raw tree, {participant: (clips, 5820)}."""
    return {subject: plain_scaled(plain_responses(raw, subject)) for subject in TINY.subjects}


def test_arrays_are_the_plain_ones(data, plain, tmp_path, capsys, caplog):
    out, layout = tmp_path / "out", Layout(tmp_path / "out/tiny")
    run_script(step(5), *flags(data, out, "--no_figures", "--subj_ID", 100610, 102816, workers=2))
    printed = capsys.readouterr().out
    assert (
        "tiny subject 100610: series of kind Atlas_hp2000_clean\n" in printed
        and "test clips 8-11" in printed
        and "not published" in printed
    )
    assert "3 clips, volumes 5 to 8 of 14" in printed and "V1 787/831" in printed
    for subject in TINY.subjects:
        folder = layout.fmri_report(subject).parent
        made = load_array(folder / "preprocessed_fMRI.npy", shape=(11, 5820), dtype="float32", verify=True)
        np.testing.assert_allclose(made, plain[subject], atol=1e-6)
        assert (made[:, np.searchsorted(VISUAL, [CONSTANT, *NAN])] == 0).all() and np.ptp(made[:, np.searchsorted(VISUAL, UNUSED)]) == 1
        for split, rows in (("train", slice(7)), ("test", slice(7, 11))):
            part = load_array(layout.masked_fmri(subject, split, 5820), dtype="float32", verify=True)
            assert (part == made[rows]).all() and read_json(card_path(layout.masked_fmri(subject, split, 5820)))[
                "vertices"
            ] == VISUAL.tolist()
        assert np.flatnonzero(np.load(layout.mask(subject))).tolist() == VISUAL.tolist()
        lowest, span = load_statistics(layout.statistics(subject, 5820), "test", 5820)
        assert span[np.searchsorted(VISUAL, CONSTANT)] == 0 and 900 < lowest[0] < 1000
    report = read_json(layout.fmri_report(100610))
    assert report["bad_vertices"] == {"not_finite": 2, "constant": 1} and report["areas"]["MT"] == {"right": 42, "left": 58}
    assert [run["last_volume"] + 1 for run in report["runs"].values()] == list(NEEDED) and report["series"] == "_Atlas_hp2000_clean"
    with caplog.at_level("INFO"):
        run_script(step(5), *flags(data, out, "--subj_ID", 100610))
    assert "already done" in caplog.text
    write_run(run_path(data, 1), series_of(1, 1))
    assert "has changed since the results" in error_of(capsys, step(5), *flags(data, out, "--subj_ID", 100610))


@pytest.mark.parametrize(
    "kinds, flag, found",
    [
        ((("_Atlas", "_Atlas_hp2000_clean", "_Atlas_MSMAll_hp2000_clean"),) * 4, (), "hp2000_clean; --series for Atlas or Atlas_MSMAll_hp2000_clean"),
        ((("_Atlas", "_Atlas_MSMAll_hp2000_clean"),) * 4, (), "Atlas_MSMAll_hp2000_clean; --series for Atlas"),
        ((("_Atlas", "_Atlas_odd"),) * 4, ("--series", "_Atlas_odd.dtseries.nii"), "Atlas_odd"),
        ((("_Atlas_odd",),) * 4, (), "Atlas_odd"),
        ((("_Atlas_odd", "_Atlas_even"),) * 4, (), "error: .*several kinds .*choose one with --series"),
        ((("_Atlas", "_Atlas_hp2000_clean"),) * 3 + (("_Atlas",),), (), "error: .*MOVIE1_7T_AP_Atlas_hp2000_clean.* and .*different kinds"),
        ((("_Atlas", "_Atlas_hp2000_clean"),) * 3 + (("_Atlas",),), ("--series", "Atlas"), "Atlas\n"),
        ((("_Atlas",),) * 3 + (("_Atlas_hp2000_clean",),), ("--series", "Atlas"), "error: .*MOVIE4_7T_AP has no series .*_Atlas.dtseries"),
    ],
)  # fmt: skip
def test_one_kind_of_series(raw, tmp_path, capsys, kinds, flag, found):
    root = tmp_path / "data"
    for number, of_run in enumerate(kinds, 1):
        for kind in of_run:
            path = run_path(root, number, kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(run_path(raw, number, subject=102816), path)
    argv = flags(root, tmp_path / "out", "--subj_ID", 100610, "--no_figures", *flag)
    if found.startswith("error"):
        assert re.match(found, error_of(capsys, step(5), *argv))
    else:
        run_script(step(5), *argv)
        assert f"of kind {found}" in (text := capsys.readouterr().out) or f"of kind Atlas_{found}" in text


def spoil(data, what):
    """Damage the tree in one way."""
    path = run_path(data, 1)
    if what == "short":
        write_run(path, series_of(100610, 1)[:8])
        write_run(run_path(data, 3), series_of(100610, 3)[:5])
    elif what == "tr":
        write_run(path, series_of(100610, 1), tr=0.72)
    elif what == "one run":
        path.unlink()
    elif what == "participant":
        shutil.rmtree(data / "package/100610")
    elif what == "twice":
        shutil.copytree(path.parent, data / "old/100610" / path.parent.name)
    elif what == "NaN":
        write_run(path, np.full((14, N_CORTEX), np.nan))
    elif what == "cut off":
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[:-9])


@pytest.mark.parametrize(
    "what, words",
    [
        ("short", ("MOVIE1_7T_AP_Atlas_hp2000_clean.dtseries.nii has 8 volumes of 9", "MOVIE3_7T_PA_Atlas_hp2000_clean.dtseries.nii has 5 volumes of 9")),
        ("tr", ("0.72 s between volumes in its header, not 1 s", "--ignore_header_tr")),
        ("one run", ("no series of run tfMRI_MOVIE1_7T_AP of participant 100610",)),
        ("participant", ("no series of participant 100610", "docs/hcp.md")),
        ("twice", ("lies in", "old/100610", "keep one")),
        ("NaN", ("MOVIE1", "NaN or infinite values in every visual vertex")),
        ("cut off", ("MOVIE1", "truncated")),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_run_is_said(data, tmp_path, capsys, caplog, what, words):
    spoil(data, what)
    argv = flags(data, tmp_path / "out", "--subj_ID", 100610, "--no_figures")
    line = error_of(capsys, step(5), *argv)
    assert all(word in line for word in words), line
    assert not (tmp_path / "out/tiny/fMRI_in_fslr/sub100610/preprocessed_fMRI.npy").exists()
    if what == "tr":
        run_script(step(5), *argv, "--ignore_header_tr")
        assert "the header of tfMRI_MOVIE1_7T_AP says 0.72 s between volumes; 1.0 s is used" in caplog.text


def test_a_participant_that_the_data_set_lacks(data, tmp_path, capsys):
    assert "tiny has no subject 999999; choose from 100610, 102816" in error_of(
        capsys, step(5), *flags(data, tmp_path, "--subj_ID", 999999)
    )


# ---------------------------------------------------------------------------------------------- arrays that somebody has made


@pytest.fixture(scope="module")
def whole(raw):
    """All volumes of the four runs, list of (volumes, 59412)."""
    paths = [run_path(raw, number, subject=102816) for number in range(1, 5)]
    return [nib.load(path).get_fdata(dtype=np.float32)[:, :N_CORTEX] for path in paths]


FORMS = {
    "clips": lambda runs: np.concatenate([run[np.array(seconds) + 4] for run, seconds in zip(runs, SECONDS, strict=True)]),
    "all volumes": np.concatenate,
    "needed volumes": lambda runs: np.concatenate([run[:n] for run, n in zip(runs, NEEDED, strict=True)]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("columns", [5820, N_CORTEX])
def test_ready_arrays(raw, whole, plain, tmp_path, form, columns):
    array = FORMS[form](whole)
    np.save(tmp_path / "ready.npy", array[:, VISUAL] if columns == 5820 else array)
    run_script(step(5), *flags(raw, tmp_path / "out", "--subj_ID", 102816, "--no_figures", "--preprocessed", tmp_path / "ready.npy"))
    layout = Layout(tmp_path / "out/tiny")
    made = np.load(layout.fmri_report(102816).with_name("preprocessed_fMRI.npy"))
    np.testing.assert_allclose(made, plain[102816], atol=1e-6)
    assert (np.load(layout.masked_fmri(102816, "test", 5820)) == made[7:]).all()
    if (form, columns) == ("clips", 5820):  # what is scaled already stays as it is
        np.save(tmp_path / "scaled.npy", made)
        run_script(step(5), *flags(raw, tmp_path / "o2", "--subj_ID", 102816, "--no_figures", "--preprocessed", tmp_path / "scaled.npy"))
        assert (np.load(tmp_path / "o2/tiny/fMRI_in_fslr/sub102816/preprocessed_fMRI.npy") == made).all()


@pytest.mark.parametrize(
    "array, more, words",
    [
        (
            np.zeros((5820, 11)),
            (),
            "shape (5820, 11); give 11 rows (clips) or 34 or 47 (all volumes of the runs), and 5820 or 59412 columns",
        ),
        (np.zeros((12, 5820)), (), "shape (12, 5820)"),
        (np.zeros((11, 91282)), (), "shape (11, 91282)"),
        (np.zeros(11), (), "shape (11,)"),
        (np.zeros((11, 5820)), (), "constant values in every visual vertex"),
        (np.full((11, 5820), "a"), (), "not real numbers"),
        (None, (), "file not found"),
        (np.zeros((11, 5820)), ("--subj_ID", 100610, 102816), "of one participant"),
        (np.zeros((11, 5820)), ("--series", "Atlas"), "no --series"),
    ],
)
def test_ready_arrays_of_another_form(raw, tmp_path, capsys, array, more, words):
    if array is not None:
        np.save(tmp_path / "ready.npy", array)
    argv = flags(raw, tmp_path / "out", "--subj_ID", 100610, "--preprocessed", tmp_path / "ready.npy", *more)
    assert words in error_of(capsys, step(5), *argv)


# ---------------------------------------------------------------------------------------------- parcellations


def write_parcellation(path, numbers, sides=("left", "right"), vertices=None, mesh=N_MESH, wrong=None):
    """A CIFTI label file of the MMP areas, `numbers` -> name; of the cortical vertices or those given."""
    names = cortex.area_labels()
    key_of = {name: number for number, name in numbers.items()}
    keys, models = [], None
    for side, standard, part in zip(("left", "right"), mesh_vertices(), (slice(0, 29696), slice(29696, None)), strict=True):
        if side not in sides:
            continue
        at = standard if vertices is None else vertices(standard)
        values = np.zeros(N_MESH, int)
        values[standard] = [key_of.get(name, 0) for name in names[part]]
        keys.append(values[at] if mesh == N_MESH else np.zeros(len(at), int))
        model = nib.cifti2.BrainModelAxis.from_surface(at, mesh, name=f"Cortex{side.capitalize()}")
        models = model if models is None else models + model
    table = {0: ("???", (0, 0, 0, 0)), **{number: (wrong or f"{name}_ROI", (1, 0, 0, 1)) for number, name in numbers.items()}}
    axes = nib.cifti2.LabelAxis(["map"], [table]), models
    nib.save(nib.Cifti2Image(np.concatenate(keys)[None].astype(np.float32), axes), path)


def numbering(first):
    areas = sorted({name[2:] for name in cortex.area_labels() if name})
    return {number: f"{side}_{area}" for number, (side, area) in enumerate(((s, a) for s in first for a in areas), 1)}


@pytest.mark.parametrize("first, whole_mesh, ending", [("LR", True, ""), ("RL", False, ".gz")])
def test_vertices_go_by_name_whatever_the_numbering(raw, tmp_path, first, whole_mesh, ending):
    path = tmp_path / "mmp.dlabel.nii"
    write_parcellation(path, numbering(first), vertices=(lambda standard: np.arange(N_MESH)) if whole_mesh else None)
    if ending:
        path = path.with_name(path.name + ending)
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes(), 1))
    run_script(step(5), *flags(raw, tmp_path / "out", "--subj_ID", 102816, "--no_figures", "--parcellation", path))
    assert np.flatnonzero(np.load(Layout(tmp_path / "out/tiny").mask(102816))).tolist() == VISUAL.tolist()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"vertices": lambda standard: standard[:-5]}, "labels of 29691 vertices of the left cortex, on a mesh of 32492, where fs_LR 32k has 29696"),
        ({"vertices": lambda standard: np.arange(10242), "mesh": 10242}, "labels of 10242 vertices of the left cortex, on a mesh of 10242"),
        ({"sides": ("left",)}, "labels of 0 vertices of the right cortex"),
        ({"wrong": "L_V1_ROI"}, "no such MMP area"),
        (None, "not a readable CIFTI label file"),
        ("nothing", "file not found"),
    ],
)  # fmt: skip
def test_another_parcellation(raw, tmp_path, capsys, options, words):
    path = tmp_path / "other.dlabel.nii"
    if options is None:
        shutil.copy(run_path(raw, 1), path)
    elif options != "nothing":
        write_parcellation(path, numbering("RL"), **options)
    assert words in error_of(capsys, step(5), *flags(raw, tmp_path / "out", "--subj_ID", 100610, "--parcellation", path))


# ---------------------------------------------------------------------------------------------- clips, frames, captions


def number_of(frame):
    """Which frame of its movie a frame is, by the greys above and below its centre."""
    height, width = frame.shape[:2]
    middle = slice(width // 2 - 8, width // 2 + 8)
    above, below = (
        round(float(frame[rows, middle].mean()) / 20)
        for rows in (slice(height // 2 - 6, height // 2 - 2), slice(height // 2 + 2, height // 2 + 6))
    )
    return 12 * above + below


def test_clips_frames_and_crops(data, tmp_path, capsys):
    out, layout = tmp_path / "out", Layout(tmp_path / "out/tiny")
    run_script(step(1), *flags(data, out, workers=2))
    printed = capsys.readouterr().out
    assert "tiny train: 7 clips of 24 frames made, 7 expected" in printed and "3 + 2 + 3 + 3 = 11 clips" in printed
    seconds = [second for of_movie in SECONDS for second in of_movie]
    for number, second in enumerate(seconds, 1):
        frames = video.read_frames(layout.clip("train" if number <= 7 else "test", f"clip_{number}"))
        assert frames.shape == (24, 64, 96, 3)
        assert [number_of(frame) for frame in frames] == list(range(24 * second, 24 * second + 24))
    run_script(step(2), *flags(data, out))
    run_script(step(3), *flags(data, out, "--format", "png"))
    assert "tiny test: 32 frames of 48 x 48 pixels made, 32 expected" in capsys.readouterr().out
    frames = read_clip(layout.frames("test", "clip_9"), TINY.frame_indices, 48)
    assert [number_of(frame) for frame in frames] == list(range(24, 48, 3))
    original = video.read_frames(layout.clip("test", "clip_9"), [6])[0]
    small = cv2.resize(original, (48, 48), interpolation=cv2.INTER_AREA)
    assert (frames[2] == cv2.resize(small[4:44, 4:44], (48, 48), interpolation=cv2.INTER_LINEAR)).all()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    for n in (1, 2):
        run_script(step(n), *flags(data, out))
    run_script(step(3), *flags(data, out, "--format", "png"))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "what, words",
    [
        ("rate", "23.976 frames a second, not 24"), ("short", "lasts 2.00 s, and its last clip ends at 5.00 s"), ("gone", "file not found"),
        ("twice", "keep one of them below --data_root"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_movie_is_said(data, tmp_path, capsys, what, words):
    path = data / "Stimuli/a/b" / f"{TINY.movies[0]}.mp4"
    if what == "twice":
        shutil.copy(path, data / path.name)
    path.unlink()
    if what == "twice":
        video.write_mp4(path, np.zeros((12, 16, 16, 3), np.uint8), 24)
    elif what != "gone":
        n, rate = (48, 24) if what == "short" else (140, Fraction(24000, 1001))
        video.write_mp4(path, np.zeros((n, 16, 16, 3), np.uint8), rate)
    line = error_of(capsys, step(1), *flags(data, tmp_path / "out"))
    assert words in line and path.name in line


def test_other_test_clips_hold_for_all_steps(data, tmp_path, capsys):
    out, layout = tmp_path / "out", Layout(tmp_path / "out/tiny")
    run_script(step(1), *flags(data, out, "--test_clips", "1-2,6", "9"))
    assert "test clips 1-2,6,9" in capsys.readouterr().out
    assert sorted(path.stem for path in layout.clip("test", "any").parent.glob("*.mp4")) == ["clip_1", "clip_2", "clip_6", "clip_9"]
    (tmp_path / "all.txt").write_text("".join(f"caption {i}\n" for i in range(1, 12)))
    run_script(step(4), *flags(data, out, "--captions", tmp_path / "all.txt", workers=None))
    run_script(step(5), *flags(data, out, "--subj_ID", 100610, "--no_figures"))
    assert read_captions(layout.captions("test")) == [f"caption {i}" for i in (1, 2, 6, 9)]
    assert read_captions(layout.captions("train").with_name("Video_Captions.h5")) == [f"caption {i}" for i in range(1, 12)]
    with h5py.File(layout.captions("train").with_name("Video_Captions.h5")) as file:
        assert list(file) == ["Captions"]
    made = np.load(layout.fmri_report(100610).with_name("preprocessed_fMRI.npy"))
    assert (np.load(layout.masked_fmri(100610, "test", 5820)) == made[[0, 1, 5, 8]]).all()
    assert (np.load(layout.masked_fmri(100610, "train", 5820)) == made[[2, 3, 4, 6, 7, 9, 10]]).all()
    assert "--overwrite" in error_of(capsys, step(1), *flags(data, out, "--test_clips", "1-4"))
    (tmp_path / "short.txt").write_text("one\ntwo\n")
    assert "has 2 captions, not 11" in error_of(
        capsys, step(4), *flags(data, out, "--captions", tmp_path / "short.txt", "--overwrite", workers=None)
    )


# ---------------------------------------------------------------------------------------------- the whole chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Folder with data/ and outputs/ of the phantom in HCP's tree; MINDANIMATOR_PHANTOM_HCP_RUN names a finished one."""
    if "MINDANIMATOR_PHANTOM_HCP_RUN" in os.environ:
        return Path(os.environ["MINDANIMATOR_PHANTOM_HCP_RUN"])
    folder = tmp_path_factory.mktemp("chain")
    run_chain("phantom-hcp", folder)
    return folder


def above(better, worse, errors=3):
    """Assert that a paired difference over clips exceeds some standard errors."""
    gain = np.asarray(better, float) - np.asarray(worse, float)
    gain = gain[np.isfinite(gain)]
    se = gain.std(ddof=1) / len(gain) ** 0.5
    print(f"{np.mean(better):.3f} above {np.mean(worse):.3f} by {gain.mean() / se:.1f} SE")
    assert gain.mean() > errors * se


@pytest.mark.slow
def test_the_volume_four_seconds_later_answers(chain):
    """Factors are decoded best at the documented lag, from the raw series by nibabel and the crop-free truth."""
    entry, shares = datasets.DATASETS["phantom-hcp"], {}
    scenes = [scene for split in ("train", "test") for scene in load_scenes(entry.truth_path(chain / "data"), split)]
    runs = [nib.load(next((chain / "data/phantom-hcp/1").rglob(f"{run}_*.dtseries.nii"))).get_fdata() for run in entry.runs]
    for lag in (2, 3, 4, 5, 6):
        rows = np.concatenate([run[entry.clip_start_seconds(n) + lag][:, VISUAL] for n, run in enumerate(runs, 1)])
        standard, n = (rows - rows.mean(0)) / rows.std(0), entry.n_train
        shares[lag] = decode_factors(standard[:n], standard[n:], scenes={"train": scenes[:n], "test": scenes[n:]}).mean()
    print(shares)
    assert max(shares, key=shares.get) == 4 and shares[4] > 0.2 + max(share for lag, share in shares.items() if lag != 4)


@pytest.mark.slow
def test_the_phantom_is_decoded_better_than_its_control(chain):
    entry, layout = datasets.DATASETS["phantom-hcp"], Layout(chain / "outputs/phantom-hcp")
    ranks, text = {}, np.load(layout.text_embeddings_clip("test"))
    captions = [scene.caption for scene in load_scenes(entry.truth_path(chain / "data"), "test")]
    for arm in ("full", "control"):
        fmri = torch.from_numpy(load_fmri(layout, entry, 1, "test", arm, chain / "data", 42))
        model, _ = load_checkpoint(layout.checkpoints(1, arm, "semantic") / "last.safetensors")
        with torch.no_grad():
            ranks[arm], n_gallery = caption_ranks(model.eval()(fmri)[0].numpy(), text, captions)
    above(ranks["full"] <= 10, ranks["control"] <= 10)
    assert (ranks["full"] <= 10).mean() > 2.5 * 10 / n_gallery
    full, control = (read_per_clip(layout.metrics(1, arm) / "per_clip.npz")[1] for arm in ("full", "control"))
    for column in ("2-way-I", "2-way-V", "VIFI-score", "PSNR"):
        above(full[column], control[column])


@pytest.mark.slow
def test_frames_of_the_phantom_are_its_scenes(chain):
    """Cutting, cropping and scaling give back the pictures that were drawn, clip for clip."""
    entry, layout = datasets.DATASETS["phantom-hcp"], Layout(chain / "outputs/phantom-hcp")
    scenes = load_scenes(entry.truth_path(chain / "data"), "test")
    truth = np.load(layout.ground_truth)
    for clip in (0, 17, 35):
        drawn = world.render(scenes[clip], range(0, 64, 8)).astype(float)
        errors = [np.abs(truth[other].astype(float) - drawn).mean() for other in range(len(truth))]
        assert int(np.argmin(errors)) == clip and errors[clip] < 6
