"""check_data on trees that hold files: HCP, Algonauts 2021, the authors' download; and pickles that are not what they seem."""

import os
import pickle
import shutil
import zipfile
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from test_checkpoints import build
from tiny import load_script, read_here, run_script

from common import datasets
from common.cortex import N_CORTEX
from common.files import UserError, save_array
from common.video import write_mp4
from Data_preprocess import cifti_writing, pickles
from Data_preprocess.pickles import read_arrays
from models.checkpoints import KINDS
from Reconstruction.outputs import gif_bytes

SCRIPT = load_script("Data_preprocess/check_data.py")


def check(capsys, *argv):
    """(exit status, lines) of check_data."""
    capsys.readouterr()
    try:
        run_script(SCRIPT, "--workers", 1, *argv)
        status = 0
    except SystemExit as stopped:
        status = stopped.code
    out = capsys.readouterr()
    assert "Traceback" not in out.err
    return status, out.out.splitlines()


def odd_lines(lines):
    return [line for line in lines if line.split()[0] in ("missing", "wrong")]


def film(path, seconds, fps=Fraction(24)):
    write_mp4(path, np.zeros((round(seconds * fps), 16, 16, 3), np.uint8), fps)


def cut(path, n_bytes):
    path.write_bytes(path.read_bytes()[:-n_bytes])


# ---------------------------------------------------------------------------------------------- HCP

SMALL_HCP = replace(datasets.HCP, excerpts=(((24, 96), (120, 144)),) * 4, subjects=(100610, 102816))  # seconds 1, 2, 3, 5: volumes up to 9


@pytest.fixture
def hcp(tmp_path, monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "HCP", SMALL_HCP)
    root = tmp_path / "data"
    for movie in SMALL_HCP.movies:
        film(root / "stimuli" / f"{movie}.mp4", 6)
    rng = np.random.default_rng(0)
    for participant in SMALL_HCP.subjects:
        for run in SMALL_HCP.runs:
            path = root / str(participant) / "MNINonLinear/Results" / run / f"{run}_Atlas.dtseries.nii"
            cifti_writing.write_series(path, rng.standard_normal((10, N_CORTEX), dtype=np.float32), 1.0)
    return root


def test_hcp(hcp, capsys):
    argv = ["--dataset", "HCP", "--data_root", hcp]
    status, lines = check(capsys, *argv)
    assert status == 0 and not odd_lines(lines)
    assert {"HCP movies: 4 of 4 as expected", "HCP subject 100610: 4 of 4 as expected"} <= set(lines)

    series = {
        (participant, number): hcp / str(participant) / "MNINonLinear/Results" / run / f"{run}_Atlas.dtseries.nii"
        for participant in SMALL_HCP.subjects
        for number, run in enumerate(SMALL_HCP.runs, 1)
    }
    movies = [hcp / "stimuli" / f"{movie}.mp4" for movie in SMALL_HCP.movies]
    film(movies[0], 5)
    cut(movies[1], 100)
    movies[2].unlink()
    film(movies[3], 6, Fraction(24000, 1001))
    cifti_writing.write_series(series[100610, 1], np.random.default_rng(1).standard_normal((9, N_CORTEX)), 1.0)
    cut(series[100610, 2], 4)
    series[100610, 3].unlink()
    cifti_writing.write_series(series[100610, 4], np.random.default_rng(1).standard_normal((10, N_CORTEX)), 0.72)
    status, lines = check(capsys, *argv)
    found = odd_lines(lines)
    assert status == 1 and len(found) == 8
    for name, words in (
        (movies[0], "lasts 5.00 s, not 6.00 s"), (movies[1], "truncated"), (movies[2], "missing"), (movies[3], "23.976 frames a second, not 24"),
        (series[100610, 1], "has 9 volumes, fewer than the 10"), (series[100610, 2], "truncated"),
        (series[100610, 3].parent, "missing"), (series[100610, 4], "0.72 s between volumes in its header, not 1 s"),
    ):  # fmt: skip
        assert [line for line in found if name.name in line and words in line], (name, words)
    assert "HCP movies: 0 of 4 as expected" in lines and "HCP subject 100610: 0 of 4 as expected" in lines


def test_hcps_cleaned_series_goes_first(hcp, capsys):
    run = SMALL_HCP.runs[0]
    folder = hcp / "100610" / "MNINonLinear/Results" / run
    (folder / f"{run}_Atlas_hp2000_clean.dtseries.nii").write_bytes(b"broken")
    status, lines = check(capsys, "--dataset", "HCP", "--data_root", hcp, "--subj_ID", 100610)
    broken, mixed = odd_lines(lines)
    assert status == 1 and "hp2000_clean" in broken and "different kinds of series" in mixed


# ---------------------------------------------------------------------------------------------- Algonauts 2021

SMALL_ALGONAUTS = replace(datasets.ALGONAUTS, n_train=4, n_test=2, subjects=(1, 2))


@pytest.fixture
def algonauts(tmp_path, monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "Algonauts2021", SMALL_ALGONAUTS)
    monkeypatch.setattr(pickles, "read_apart", read_here)
    root = tmp_path / "data"
    for number in range(1, 7):
        film(root / "algonauts" / "AlgonautsVideos268_All_30fpsmax" / f"{number:04d}_a.mp4", 3)
    rng = np.random.default_rng(0)
    for subject in (1, 2):
        folder = root / "participants_data_v2021/mini_track" / f"sub{subject:02d}"
        folder.mkdir(parents=True)
        for n, roi in enumerate(SMALL_ALGONAUTS.rois, 3):
            (folder / f"{roi}.pkl").write_bytes(pickle.dumps({"train": rng.standard_normal((6, 3, n))}, protocol=n % 6))
    return root


class Malicious:
    def __reduce__(self):
        return os.mkdir, (os.environ["WHERE"],)


def test_algonauts(algonauts, capsys, monkeypatch, tmp_path):
    argv = ["--dataset", "Algonauts2021", "--data_root", algonauts]
    status, lines = check(capsys, *argv, "--list")
    assert status == 0 and not odd_lines(lines)
    assert any("responses of shape (6, 3, 4)" in line for line in lines)
    folder = algonauts / "participants_data_v2021/mini_track/sub02"
    monkeypatch.setenv("WHERE", str(tmp_path / "run"))
    spoiled = {
        "V1": (None, "missing"), "V2": (pickle.dumps({"train": np.zeros((6, 2, 4))}), "shape (6, 2, 4), not (6, 3, any)"),
        "V3": (pickle.dumps({"train": np.zeros((5, 3, 4))}), "shape (5, 3, 4), not (6, 3, any)"),
        "V4": (pickle.dumps({"test": np.zeros((6, 3, 4))}), "no array 'train'"),
        "LOC": ((folder / "LOC.pkl").read_bytes()[:-20], "damaged"), "EBA": (b"", "damaged"),
        "FFA": (pickle.dumps({"train": Malicious()}), "other objects"),
        "STS": (pickle.dumps({"train": np.array([Malicious()], dtype=object)}), "other objects"),
        "PPA": (pickle.dumps([1, 2]), "not hold a dict of arrays"),
    }  # fmt: skip
    for roi, (content, _) in spoiled.items():
        (folder / f"{roi}.pkl").unlink()
        if content is not None:
            (folder / f"{roi}.pkl").write_bytes(content)
    videos = algonauts / "algonauts" / "AlgonautsVideos268_All_30fpsmax"
    (videos / "0003_a.mp4").unlink()
    film(videos / "0004_a.mp4", 0.25)
    status, lines = check(capsys, *argv)
    found = odd_lines(lines)
    assert status == 1 and len(found) == 11 and not (tmp_path / "run").exists()
    for roi, (_, words) in spoiled.items():
        assert [line for line in found if f"sub02/{roi}.pkl" in line and words in line], (roi, found)
    assert [line for line in found if "0003_" in line] and [
        line for line in found if "0004_a.mp4" in line and "has 6 frames, fewer than the 8" in line
    ]
    assert "Algonauts2021 subject 1: 9 of 9 as expected" in lines and "Algonauts2021 subject 2: 0 of 9 as expected" in lines


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["float64", "float32", "int16", "uint8", "bool"])
def test_pickled_arrays_come_back(tmp_path, protocol, dtype):
    array = (np.random.default_rng(0).standard_normal((4, 3, 5)) * 9).astype(dtype)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"train": array, "turned": array.T, "one": array[1:2]}, protocol=protocol))
    found = pickles.unpickle(tmp_path / "a.pkl")
    for name, expected in {"train": array, "turned": array.T, "one": array[1:2]}.items():
        assert found[name].dtype == dtype
        np.testing.assert_array_equal(found[name], expected)


@pytest.mark.parametrize(
    "call", [b"cos\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n(S'1'\ntR.", b"cnumpy\nload\n(S'x'\ntR.", b"c_codecs\ndecode\n(S'x'\ntR."]
)
def test_no_function_is_called(tmp_path, call):
    (tmp_path / "a.pkl").write_bytes(call)
    with pytest.raises(UserError, match="other objects"):
        read_arrays(tmp_path / "a.pkl")


# ---------------------------------------------------------------------------------------------- the authors' download

N_VERTICES = 6  # as the small decoders of test_checkpoints take
SMALL_CC2017 = replace(datasets.CC2017, n_test_runs=1, clips_per_test_run=3, n_test=3, n_vertices=N_VERTICES, subjects=(1, 2))


@pytest.fixture
def released(tmp_path, models, monkeypatch):
    """The published tree with tiny models, subject 1 complete, subject 2 without its own files."""
    monkeypatch.setitem(datasets.DATASETS, "CC2017", SMALL_CC2017)
    root = tmp_path / "Mind_Animator_data"
    test_set = root / "Testset_of_Preprocessed_datasets/CC2017"
    for name in SMALL_CC2017.clip_names("test"):
        film(test_set / "stimuli_clips/Test" / f"{name}.mp4", 2, Fraction(30))
    card = {"rows": "", "units": "", "made_by": ""}
    save_array(test_set / "fMRI_data/sub1/activated_mask/mask_correct.npy", np.ones(N_CORTEX, np.uint8), **card)
    save_array(test_set / f"fMRI_data/sub1/Test/masked{N_VERTICES}_test_data.npy", np.zeros((3, N_VERTICES), np.float32), **card)
    shutil.copytree(models[0], root / "Model_checkpoints/Stable_diffusion_ckpt")
    names = {
        "SemanticDecoder": "Reconstruction_task/sub1/semantic_30.pth", "StructureDecoder": "Reconstruction_task/sub1/structure_75.pth",
        "ConsistencyMotionGenerator": "Reconstruction_task/sub1/motion_70.pth", "RetrievalDecoder": "Retrieval_task/sub1_40.pth",
    }  # fmt: skip
    for kind, name in names.items():
        path = root / "Model_checkpoints" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        model = (
            KINDS[kind](in_dim=6, hidden_dim=8, n_blocks=1, n_tokens=3, token_dim=12, projector_dims=(7, 9))
            if kind == "SemanticDecoder"
            else build(kind)
        )
        torch.save(model.state_dict(), path)
    (root / "Reconstruction_results/CC2017").mkdir(parents=True)
    with zipfile.ZipFile(root / "Reconstruction_results/CC2017/reconstruction_results_sub1.zip", "w") as file:
        for number in (1, 2, 3):
            file.writestr(f"results/test{number}.gif", gif_bytes(np.zeros((8, 8, 8, 3), np.uint8)))
    return root


def test_the_authors_download(released, capsys):
    argv = ["--dataset", "CC2017", "--released_root", released]
    status, lines = check(capsys, *argv, "--subj_ID", 1, "--list")
    assert status == 0, lines
    assert {"CC2017 test clips: 3 of 3 as expected", "CC2017 Stable Diffusion: 5 of 5 as expected"} <= set(lines)
    assert "CC2017 subject 1: 7 of 7 as expected" in lines
    for file in ("semantic_30.pth", "structure_75.pth", "motion_70.pth", "sub1_40.pth"):  # which was taken for what
        assert any(file in line for line in lines)

    status, lines = check(capsys, *argv, "--subj_ID", 2)
    assert status == 1 and "CC2017 subject 2: 0 of 7 as expected" in lines
    assert {line.split()[0] for line in odd_lines(lines)} == {"missing"}

    test_set = released / "Testset_of_Preprocessed_datasets/CC2017"
    cut(test_set / "stimuli_clips/Test/test1_2.mp4", 90)
    os.truncate(test_set / "fMRI_data/sub1/activated_mask/mask_correct.npy", 1000)
    np.save(test_set / f"fMRI_data/sub1/Test/masked{N_VERTICES}_test_data.npy", np.zeros((2, N_VERTICES), np.float32))
    shutil.rmtree(released / "Model_checkpoints/Stable_diffusion_ckpt/vae")
    (released / "Model_checkpoints/Stable_diffusion_ckpt/text_encoder/model.safetensors").unlink()
    cut(released / "Model_checkpoints/Retrieval_task/sub1_40.pth", 100)
    cut(released / "Reconstruction_results/CC2017/reconstruction_results_sub1.zip", 30)
    status, lines = check(capsys, *argv, "--subj_ID", 1)
    found = odd_lines(lines)
    assert status == 1 and len(found) == 7, found
    for words in ("test1_2.mp4", "mask_correct.npy", "shape (2, 6)", "ckpt/vae", "text_encoder", "Retrieval_task", "sub1.zip"):
        assert [line for line in found if words in line], words
