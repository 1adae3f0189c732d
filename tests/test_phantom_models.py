"""The phantom's shipped models: sizes, and two classifiers that name what fresh pictures and clips show."""

import numpy as np
import pytest
import tiny
import torch
from scipy.special import softmax

from common.files import read_json
from Data_preprocess.Phantom import step3_train_models
from Evaluation_Metrics import towers
from Evaluation_Metrics.n_way import clip_accuracy, true_classes
from phantom import checks, measures, training
from phantom import world as phantom_world
from phantom.world import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, random_scene, render

MODELS = tiny.ROOT / "phantom" / "models"
EIGHT = range(0, 64, 8)


def fresh(n, seed):
    """Scenes of a seed that no training and no film has, and their clips as a movie holds them."""
    rng = np.random.default_rng([seed, 99])
    scenes = [random_scene(rng) for _ in range(n)]
    return scenes, np.array([[phantom_world.halve_chroma(picture) for picture in render(scene, EIGHT)] for scene in scenes])


@pytest.fixture(scope="module")
def stills():
    """240 scenes, one frame each, and the image classifier's scores and class names."""
    scenes, clips = fresh(240, 1)
    moments = np.arange(240) % 8
    classifier = towers.ImageClassifier(MODELS / "image_classifier")
    return scenes, classifier(clips[np.arange(240), moments][:, None])[:, 0], list(classifier.model.config.id2label.values())


@pytest.fixture(scope="module")
def films():
    scenes, clips = fresh(160, 2)
    classifier = towers.ClipClassifier(MODELS / "clip_classifier")
    return scenes, classifier(clips), list(classifier.models[8].config.id2label.values())


def right(scenes, scores, names, factor, words):
    """Share of pictures whose most probable value of a factor, over all class names with its word, is the scene's."""
    probability = softmax(scores, axis=-1)
    values = list(words)
    share = np.array([probability[:, [words[value] in name for name in names]].sum(1) for value in values])
    return np.mean([values[guess] == getattr(scene, factor) for guess, scene in zip(share.argmax(0), scenes, strict=True)])


def own_words(values, before="", after=""):
    return {value: f"{before}{value}{after}" for value in values}


# ---------------------------------------------------------------------------------------------- what ships


def test_all_models_fit_into_25_megabytes():
    sizes = {path: path.stat().st_size for path in MODELS.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 25e6
    assert {path.suffix for path, size in sizes.items() if size > 2e6} == {".safetensors"}


# ---------------------------------------------------------------------------------------------- what they name


@pytest.mark.parametrize(
    "kind, factor, words, least",
    [
        ("stills", "colour", own_words(COLOURS, after=" "), 0.9), ("stills", "background", BACKGROUNDS, 0.95),
        ("stills", "shape", own_words(SHAPES, " ", " "), 0.4), ("films", "direction", own_words(DIRECTIONS, "moving ", " "), 0.9),
        ("films", "background", BACKGROUNDS, 0.95), ("films", "shape", own_words(SHAPES, after=" "), 0.4),
    ],
)  # fmt: skip
def test_fresh_pictures_are_named(kind, factor, words, least, request):
    scenes, scores, names = request.getfixturevalue(kind)
    assert right(scenes, scores, names, factor, words) >= least
    shuffled = list(np.random.default_rng(0).permutation(np.array(scenes, dtype=object)))
    chance = 1 / len(words)
    assert right(shuffled, scores, names, factor, words) < chance + 4 * np.sqrt(chance * (1 - chance) / len(scenes))


# ---------------------------------------------------------------------------------------------- through the scripts


def test_training_makes_what_ships(tmp_path, monkeypatch):
    """A few steps: the same files, classes and shapes."""
    through = training.through_latents
    monkeypatch.setattr(training, "through_latents", lambda clips, vae: torch.cat([through(clips[:2], vae), clips[2:]]))  # the longest part
    (tmp_path / "sd").symlink_to(MODELS / "sd")
    names, few = ("image_classifier", "clip_classifier"), ("--image_classifier_steps", 3, "--clip_classifier_steps", 3)
    tiny.run_script(
        step3_train_models,
        *map(str, ["--models_dir", tmp_path, "--models", *names, *few, "--classifier_bank", 32, "--classifier_test", 32]),
    )
    for name in names:
        assert {path.name for path in (tmp_path / name).iterdir()} == {path.name for path in (MODELS / name).iterdir()}
        made, ships = (read_json(folder / name / "config.json") for folder in (tmp_path, MODELS))
        assert made == ships
        made, ships = (read_json(folder / name / "training.json")[name] for folder in (tmp_path, MODELS))
        assert made.keys() == ships.keys() and made["accuracy"].keys() == ships["accuracy"].keys()


def test_factors_are_read_as_sums_over_classes():
    names = phantom_world.image_class_names()
    scores = np.random.default_rng(5).normal(0, 3, (6, 8, 96))
    found = measures.read_factors(scores)
    for clip in range(6):
        total = {}
        for frame in scores[clip]:
            probability = np.exp(frame) / np.exp(frame).sum()
            for name, p in zip(names, probability, strict=True):
                colour, shape, place = name.split(" ", 2)
                for key in (("colour", colour), ("shape", shape), ("background", place)):
                    total[key] = total.get(key, 0) + p
        for factor, values in (("colour", list(COLOURS)), ("shape", SHAPES), ("background", list(BACKGROUNDS.values()))):
            assert found[factor][clip] == np.argmax([total[factor, value] for value in values])


def claims_of_scores(scores, scenes):
    accuracy = {name: clip_accuracy(s, true_classes(scores["truth"]), n_way=2) for name, s in scores.items() if name != "truth"}
    return checks.two_way(accuracy) + checks.legible(measures.read_right(scores, scenes))


def test_checks_of_two_way_and_legible_can_miss():
    """Scores that know the truth hold; the control's in their place miss."""
    scenes, _ = fresh(40, 6)
    names = phantom_world.image_class_names()
    known = np.zeros((40, 8, 96))
    for i, scene in enumerate(scenes):
        known[i, :, names.index(f"{scene.colour} {scene.shape} {BACKGROUNDS[scene.background]}")] = 9
    random, slight = np.random.default_rng(0).normal(0, 9, (2, *known.shape))
    scores = {"full": known, "control": random, "oracle": known, "truth": known + 0.01 * slight}
    rows = claims_of_scores(scores, scenes)
    assert [row["claim"] for row in rows] == ["semantics", "legible", "legible"] and all(row["held"] for row in rows)
    assert [row["chance"] for row in rows] == [3 / 4, 1 / 6, 1 / 4] and rows[1]["value"] == rows[2]["value"] == 1
    assert rows[1]["control"] < 0.5 and all(row["margin"] > 0 for row in rows)
    rows = claims_of_scores({**scores, "full": random, "control": known}, scenes)
    assert not any(row["held"] for row in rows) and all(row["margin"] < 0 for row in rows)


# ---------------------------------------------------------------------------------------------- claims


def test_margins_are_distances_in_standard_errors():
    hits = np.r_[np.ones(57), np.zeros(3)]
    p = 59 / 64  # two right and two wrong ones added
    assert checks.share_error(hits) == pytest.approx(np.sqrt(p * (1 - p) / 64))
    row = checks.share_row("legible", "", hits, 0.9, control=0, compared_with="nothing")
    assert row["held"] and row["value"] == 0.95 and row["margin"] == pytest.approx(0.05 / checks.share_error(hits))
    assert 0 < checks.share_error(np.ones(60)) < 0.03  # all right: not 0

    better, worse = np.random.default_rng(0).normal((4, 0), 1, (50, 2)).T
    se = np.std(better - worse, ddof=1) / np.sqrt(50)
    row = checks.difference_row(
        "structure", "", {"full": better, "control": worse}, "control", least_errors=4, least=3.0, compared_with="nothing"
    )
    gain = np.mean(better - worse)
    assert row["held"] and row["margin"] == pytest.approx(min((gain - 3) / se, gain / se - 4))


def test_claims_that_need_an_arm_that_was_not_run_are_left_out():
    rng = np.random.default_rng(0)
    full, still = rng.uniform(0, 1, (2, 30))
    alone = {"full": full}
    rows = checks.semantics(alone, n_gallery=50) + checks.two_way(alone) + checks.structure({"PSNR": alone, "SSIM": alone})
    rows += checks.motion(
        alone | {"still": still + 1}, alone | {"still": still + 1}, right={"full": full > 0}, right_before={"full": full > 0}
    )
    rows += checks.ceiling(alone, alone, alone)
    assert [row["statement"] for row in rows] == [
        "top 10 at least 2.5 times chance", "EPE before stage 2 below the still's", "EPE after stage 2 below the still's",
        "direction of the mean flow right in the reconstruction",
    ]  # fmt: skip
    assert all(row["compared_with"] and row["note"] and row["held"] for row in rows)


def test_factors_are_decoded_at_the_lag_that_has_them():
    """Series that hold the factors decode them, noise does not; clips without a volume are left out."""
    scenes, rng = [random_scene(np.random.default_rng([7, i])) for i in range(240)], np.random.default_rng(0)
    both = {"train": scenes[:200], "test": scenes[200:]}
    code = rng.normal(size=(28, 300))
    train, test = ((measures.one_hot(these)[0] @ code) * 3 + rng.normal(size=(len(these), 300)) for these in both.values())
    test[-1] = np.nan
    right, noise = (
        measures.decode_factors(train, test, scenes=both),
        measures.decode_factors(rng.normal(size=train.shape), test, scenes=both),
    )
    assert np.isnan(right[-1]) and np.isfinite(right[:-1]).all()
    rows = checks.alignment({"test1": np.array([noise, right])}, lags=(-1, 0), chance=measures.commonest_share(scenes))
    assert rows[0]["held"] and rows[0]["value"] > 0.9 and rows[0]["margin"] > 2
    assert not checks.alignment({"test1": np.array([right, noise])}, lags=(-1, 0), chance=0.3)[0]["held"]
