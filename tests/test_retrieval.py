"""Retrieval: ranks against closed cases and a plain loop, training of the baselines, both scripts end to end on something small."""

import csv
import json
from dataclasses import replace
from itertools import permutations

import browser
import numpy as np
import pytest
import torch
from tiny import CARD, N_TRAIN, N_VERTICES, SMALL, fails, load_script, make_clip, make_features, run_script

from common.captions import write_captions
from common.datasets import DATASETS
from common.files import load_array, save_array
from Evaluation_Metrics.ranking import Gallery
from models.checkpoints import load_checkpoint, save_checkpoint
from models.retrieval_decoder import LinearDecoder, RetrievalDecoder
from Retrieval.retrieval import chance_ranks, ranks, score, top_k_accuracy
from Retrieval.ridge import PENALTIES, fit_ridge

SMALL_SET, LARGE_SET, TRAIN = (load_script(f"Retrieval/{name}.py") for name in ("small_set", "Large_set", "train_retrieval_decoder"))


# ---------------------------------------------------------------------------------------------- ranks


def plain_ranks(queries, gallery, labels):
    """One cosine at a time."""
    strict, loose = [], []
    for query, label in zip(queries.astype(np.float64), labels, strict=True):
        cosines = [query @ row / np.sqrt((query @ query) * (row @ row)) for row in gallery.astype(np.float64)]
        own = cosines[label]
        strict.append(1 + sum(c > own + 1e-12 for c in cosines))
        loose.append(sum(c >= own - 1e-12 for c in cosines))
    return np.array(strict), np.array(loose)


def test_ranks_equal_a_plain_loop_ties_included(monkeypatch):
    rng = np.random.default_rng(0)
    distinct = rng.standard_normal((40, 12)).astype(np.float32)
    gallery, labels = distinct[rng.integers(40, size=90)], rng.integers(90, size=30)
    queries = gallery[labels] + rng.standard_normal((30, 12)).astype(np.float32)
    strict, loose = plain_ranks(queries, gallery, labels)
    assert (loose > strict).any()
    for chunk in (2**24, 100):
        monkeypatch.setattr("Evaluation_Metrics.ranking.CHUNK", chunk)
        np.testing.assert_array_equal(ranks(queries, gallery, labels, "released"), strict)
        np.testing.assert_array_equal(ranks(queries, gallery, labels), (strict + loose) / 2)
    accuracy = top_k_accuracy(queries, gallery, labels, (1, 10, 90))
    assert accuracy == {1: np.mean(strict <= 1), 10: np.mean(strict <= 10), 90: 1.0}


def test_closed_cases():
    eye = np.eye(6)
    assert top_k_accuracy(eye * [[1], [2], [3], [4], [5], [6]], eye, np.arange(6), [1]) == {1: 1.0}  # length does not matter
    np.testing.assert_array_equal(ranks(-eye, eye, np.arange(6)), 6)  # the opposite comes last
    same = np.ones((5, 3))
    np.testing.assert_array_equal(ranks(same[:1], same, [3]), 3)
    np.testing.assert_array_equal(ranks(same[:1], same, [3], ties="released"), 1)
    rows, cosines = Gallery(eye).nearest(np.array([[3.0, 0, 4, 0, 0, 0]]), 3)
    np.testing.assert_array_equal(rows, [[2, 0, 1]])
    np.testing.assert_allclose(cosines, [[0.8, 0.6, 0]], atol=1e-15)


@pytest.mark.parametrize(
    "queries, gallery, labels, words",
    [
        (np.ones((2, 4)), np.ones((3, 5)), [0, 1], "4 features and the gallery has 5"),
        (np.ones((2, 4)), np.vstack([np.ones((2, 4)), np.zeros((2, 4))]), [0, 1], "the gallery: row 2 is zero, like 1 others"),
        (np.full((1, 4), np.nan), np.ones((3, 4)), [0], "the queries: row 0 is not finite"),
        (np.ones((2, 4)), np.ones((3, 4)), [0, 3], "0...2"),
        (np.ones((2, 4)), np.ones((3, 4)), [0.0, 1.0], "labels"),
        (np.ones(4), np.ones((3, 4)), [0, 0, 0, 0], "dimensions"),
    ],
)
def test_what_cannot_be_ranked_is_named(queries, gallery, labels, words):
    with pytest.raises(ValueError, match=words.replace("...", r"\.\.\.")):
        ranks(queries, gallery, labels)


def test_k_above_the_gallery_and_unknown_ties():
    with pytest.raises(ValueError, match="k = 4"):
        top_k_accuracy(np.eye(3), np.eye(3), [0, 1, 2], [1, 4])
    with pytest.raises(ValueError, match="ties"):
        ranks(np.eye(3), np.eye(3), [0, 1, 2], "first")


def test_chance_is_k_over_the_pool_without_ties_and_more_with():
    rng = np.random.default_rng(1)
    few = Gallery(np.random.default_rng(0).standard_normal((50, 4)))  # 12 queries: not every place is asked for
    of = chance_ranks(few, np.arange(12), "released", rng)
    assert [np.mean(of <= k) for k in (1, 10)] == pytest.approx([1 / 50, 10 / 50], abs=1e-12) and of.mean() == pytest.approx(25.5)
    twice = Gallery(np.repeat(np.eye(25), 2, axis=0))  # each entry has an equal one: the first of 25 pairs
    assert np.mean(chance_ranks(twice, np.arange(50), "released", rng) <= 1) == pytest.approx(1 / 25, abs=1e-12)
    assert chance_ranks(twice, np.arange(50), "average", rng).mean() == pytest.approx(25.5)


def test_chance_among_some_that_are_equal():
    """Against all orders of three groups of 1, 2 and 3 equal entries."""
    rows, counts = np.repeat(np.eye(3), (1, 2, 3), axis=0), np.array([1, 2, 3])
    of = [1 + sum(counts[other] for other in order[: order.index(group)]) for order in permutations(range(3)) for group in (0, 1, 1, 2, 2, 2)]
    found = chance_ranks(Gallery(rows), np.arange(6), "released", np.random.default_rng(0))
    assert [np.mean(found <= k) for k in range(1, 7)] == pytest.approx([np.mean(np.array(of) <= k) for k in range(1, 7)], abs=0.03)


def test_scores_and_their_intervals():
    of = np.array([1, 1, 2, 4, 20.0])
    found = score(of, 20, (1, 10), np.random.default_rng(0))
    assert found["accuracy"] == {1: 0.4, 10: 0.8} and found["median_rank"] == 2 and found["mean_rank"] == 5.6
    assert found["mean_reciprocal_rank"] == pytest.approx((1 + 1 + 0.5 + 0.25 + 0.05) / 5)
    z, n, p = 1.959964, 5, 0.4
    middle, half = (p + z**2 / (2 * n)) / (1 + z**2 / n), z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert found["accuracy_interval"][1] == pytest.approx([middle - half, middle + half], abs=1e-6)
    assert score(np.ones(5), 20, (1,), np.random.default_rng(0))["accuracy_interval"][1] == pytest.approx([1 / (1 + z**2 / n), 1], abs=1e-6)
    for name in ("mean_rank", "median_rank", "mean_reciprocal_rank"):
        low, high = found[f"{name}_interval"]
        assert low <= found[name] <= high


# ---------------------------------------------------------------------------------------------- ridge


def test_ridge_is_the_closed_form_with_the_penalties_that_it_reports():
    rng = np.random.default_rng(0)
    fmri, truth = rng.standard_normal((60, 80)).astype(np.float32) + 2, rng.standard_normal((80, 3))
    target = (fmri @ truth + 5 * rng.standard_normal((60, 3)) + 7).astype(np.float32)
    model, penalties = fit_ridge(fmri, target)
    assert isinstance(model, LinearDecoder) and np.isclose(penalties[:, None], PENALTIES).any(1).all()
    x, y = fmri - fmri.mean(0, dtype=np.float64), target - target.mean(0, dtype=np.float64)
    for column, penalty in enumerate(penalties):
        weights = np.linalg.solve(x.T @ x + penalty * np.eye(80), x.T @ y[:, column])
        expected = x @ weights + target[:, column].mean(dtype=np.float64)
        np.testing.assert_allclose(model(torch.from_numpy(fmri))[:, column].detach(), expected, rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------------------------------------- the scripts

N, D = 12, 10
WORLD = replace(SMALL, n_test=N, clips_per_test_run=N // 2)


@pytest.fixture(autouse=True)
def world(monkeypatch):
    monkeypatch.setitem(DATASETS, "phantom", WORLD)


@pytest.fixture
def features(tmp_path):
    """A data set whose first D vertices of the test fMRI are the text features; captions 0 and 4 are equal, so are their features."""
    layout = make_features(tmp_path / "outputs")
    rng = np.random.default_rng(5)
    captions = [f"caption {i}" for i in range(N)]
    captions[4] = captions[0]
    write_captions(layout.captions("test"), "test", captions)
    text = rng.standard_normal((N, D)).astype(np.float32)
    text[4] = text[0]
    fmri = np.concatenate([text, rng.standard_normal((N, N_VERTICES - D)).astype(np.float32)], axis=1)
    text[4] *= 1 + 1e-6  # as another batch of the encoder would have it
    arrays = {layout.text_embeddings_clip("test"): text, layout.image_embeddings_clip("test"): rng.standard_normal((N, D))}
    for path, array in {**arrays, layout.masked_fmri(1, "test", N_VERTICES): fmri}.items():
        save_array(path, array.astype(np.float32), **CARD)
    return layout


def put_decoder(layout, arm, weight, folder="retrieval", **facts):
    model = LinearDecoder(N_VERTICES, D)
    with torch.no_grad():
        model.linear.weight.copy_(torch.as_tensor(weight))
        model.linear.bias.zero_()
    for epoch in ("epoch_2", "last"):
        save_checkpoint(layout.checkpoints(1, arm, folder) / f"{epoch}.safetensors", model, epoch=2, finished=True, **facts)


@pytest.fixture
def decoded(features):
    """The data set with a decoder that passes the features through, and a control that decodes noise."""
    put_decoder(features, "full", np.eye(D, N_VERTICES))
    put_decoder(features, "control", np.random.default_rng(3).standard_normal((D, N_VERTICES)))
    return features


def command(layout, *more):
    return ["--dataset", "phantom", "--out_root", layout.root.parent, "--k", 1, 2, 10, *more]


def read(folder):
    with open(folder / "ranks.csv", newline="") as handle:
        return json.loads((folder / "metrics.json").read_text()), list(csv.DictReader(handle))


def test_identity_gives_all_in_both_directions(decoded, capsys):
    run_script(SMALL_SET, *command(decoded))
    said = capsys.readouterr().out
    facts, rows = read(decoded.retrieval(1) / "small_set")
    for direction in ("video from fMRI", "fMRI from video"):
        assert facts["directions"][direction]["arms"]["full"]["accuracy"] == {"1": 1.0, "2": 1.0, "10": 1.0}
        assert facts["directions"][direction]["arms"]["control"]["accuracy"]["1"] < 0.5
    assert facts["accuracy"] == {"1": 1.0, "2": 1.0, "10": 1.0} and facts["pool"] == N and facts["clips"] == N and facts["phantom"]
    assert facts["chance"]["1"] > 1 / N and facts["repeated_captions"] == 2
    assert "2 of 12 captions stand more than once" in said and "pool 12" in said and "seed 42" in said and "phantom" in said
    assert [row["retrieved 1"] for row in rows][:4] == WORLD.clip_names("test")[:4] and rows[0]["rank, video from fMRI, full"] == "1"
    page = (decoded.retrieval(1) / "small_set" / "gallery.html").read_text()
    assert page.count("<video") + page.count("no movie at hand") == (N + 3) * 6 and "Phantom" in page


@pytest.mark.skipif(browser.BINARY is None, reason="no Chromium on the path")
def test_the_page_holds_the_movies_that_are_near(decoded, tmp_path):
    run_script(SMALL_SET, *command(decoded))
    with browser.Browser(tmp_path / "profile", tmp_path) as page:
        page.open(decoded.retrieval(1) / "small_set" / "gallery.html", height=400)
        last = f"document.querySelector('#clip{N} .row')"
        page.value("document.querySelector('#typical .row').scrollIntoView(), 1")
        page.wait("!!document.querySelector('.row figure')")
        assert page.value("document.querySelectorAll('figure.found').length") < (N + 3) * 6 and not page.value(
            f"{last}.querySelector('figure')"
        )
        page.value(f"{last}.scrollIntoView(), 1")
        page.wait(f"{last}.querySelectorAll('figure').length === 6 && !document.querySelector('#typical figure')")
        assert page.value("document.querySelector('#typical .row').offsetHeight") > 100  # it keeps its place


def test_ties_average_and_image_target_have_folders_of_their_own(decoded):
    run_script(SMALL_SET, *command(decoded, "--ties", "average"))
    facts, rows = read(decoded.retrieval(1) / "small_set_average")
    assert rows[4]["rank, video from fMRI, full"] == "1.5" and facts["chance"]["1"] < 1 / N
    run_script(SMALL_SET, *command(decoded, "--target", "image"))
    facts, _ = read(decoded.retrieval(1) / "small_set_image")
    assert facts["target"] == "image" and facts["repeated_captions"] == 0 and facts["chance"]["1"] == pytest.approx(1 / N, abs=1e-12)


def test_large_set_takes_data_sets_and_files(decoded, tmp_path):
    run_script(LARGE_SET, *command(decoded, "--target", "text"))
    facts, _ = read(decoded.retrieval(1) / "Large_set_text")
    assert facts["pool"] == N + N_TRAIN and list(facts["directions"]) == ["video from fMRI"]
    np.save(tmp_path / "more.npy", load_array(decoded.text_embeddings_clip("test"))[[7]])  # equal to clip 8: they tie
    flags = ("--distractors", tmp_path / "more.npy", "phantom:train", "--target", "text", "--ties", "average", "--out", tmp_path / "out")
    run_script(LARGE_SET, *command(decoded, *flags))
    facts, rows = read(tmp_path / "out")
    assert facts["pool"] == N + 1 + N_TRAIN and rows[7]["rank, video from fMRI, full"] == "1.5" and rows[7]["retrieved 2"] == "more 1"


@pytest.mark.parametrize(
    "change, flags, words",
    [
        ("width", (), "features of different widths"),
        ("nan", (), "NaN or infinite"),
        ("zero", (), "row 3 is zero"),
        ("none", ("--distractors", "nowhere"), "--distractors nowhere is neither"),
        ("none", ("--ckpt", "7"), "epoch_7.safetensors; run Retrieval/train_retrieval_decoder.py"),
        ("none", ("--method", "mlp_mse"), "--method mlp_mse"),
        ("none", ("--solver", "ridge"), "linear_mse"),
    ],
)
def test_bad_galleries_and_flags_are_one_sentence(decoded, tmp_path, capsys, change, flags, words):
    rows = np.random.default_rng(0).standard_normal((8, D + (change == "width"))).astype(np.float32)
    rows[3] = {"nan": np.nan, "zero": 0}.get(change, rows[3])
    np.save(tmp_path / "rows.npy", rows)
    flags = flags if "--distractors" in flags else ("--distractors", tmp_path / "rows.npy", *flags)
    fails(LARGE_SET, *command(decoded, *flags))
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_k_above_the_clips_is_left_out_and_said(decoded, caplog):
    caplog.set_level("INFO")
    run_script(SMALL_SET, *command(decoded, "--k", 1, 500))
    assert "k = 500, more than the 12 clips" in caplog.text
    assert list(read(decoded.retrieval(1) / "small_set")[0]["accuracy"]) == ["1"]


def test_unfinished_decoder_is_refused_unless_asked_for(features, capsys):
    model = RetrievalDecoder(N_VERTICES, D)
    save_checkpoint(features.checkpoints(1, "full", "retrieval") / "epoch_2.safetensors", model, epoch=2, finished=False)
    fails(SMALL_SET, *command(features))
    assert "not finished" in capsys.readouterr().err
    run_script(SMALL_SET, *command(features, "--allow_unfinished"))


def test_released_weights_and_fmri_load(features, tmp_path):
    torch.manual_seed(0)
    model, root = RetrievalDecoder(N_VERTICES, D).eval(), tmp_path / "Mind_Animator_data"
    weights = root / "Model_checkpoints/Retrieval_task/sub1_40.pth"
    fmri = root / f"Testset_of_Preprocessed_datasets/phantom/fMRI_data/sub1/Test/masked{N_VERTICES}_test_data.npy"
    for path in (weights, fmri):
        path.parent.mkdir(parents=True)
    torch.save(model.state_dict(), weights)
    rows = np.random.default_rng(1).standard_normal((N, N_VERTICES)).astype(np.float32)
    np.save(fmri, rows)
    run_script(SMALL_SET, *command(features, "--released_root", root, "--target", "image"))
    _, lines = read(features.retrieval(1) / "small_set_released_image")
    with torch.no_grad():
        strict, _ = plain_ranks(model(torch.from_numpy(rows)).numpy(), load_array(features.image_embeddings_clip("test")), range(N))
    assert [int(line["rank, video from fMRI, full"]) for line in lines] == strict.tolist()


@pytest.mark.parametrize(
    "flags, kind",
    [(("linear_mse",), LinearDecoder), (("mlp_mse",), RetrievalDecoder), (("linear_mse", "--solver", "ridge"), LinearDecoder)],
)
def test_baselines_train_and_are_searched_with(flags, kind, features, tmp_path):
    clip = make_clip(tmp_path / "clip")
    training = [
        "--dataset", "phantom", "--out_root", features.root.parent, "--n_val", 6, "--batch_size", 8, "--epoch", 2, "--clip_path", clip,
    ]  # fmt: skip
    run_script(TRAIN, *training, "--device", "cpu", "--method", *flags)
    name = "_".join(["retrieval", *(word for word in flags if not word.startswith("--"))])
    model, record = load_checkpoint(features.checkpoints(1, "full", name) / "last.safetensors")
    assert type(model) is kind and record["finished"]
    metrics = json.loads((features.checkpoints(1, "full", name) / "metrics.json").read_text())
    image = load_array(features.image_embeddings_clip("train"))[-6:]
    fmri = torch.from_numpy(load_array(features.masked_fmri(1, "train", N_VERTICES))[-6:])
    with torch.no_grad():
        assert metrics["validation"]["total"] == pytest.approx(float(((model.eval()(fmri).numpy() - image) ** 2).mean()), rel=1e-5)
    run_script(SMALL_SET, *command(features, "--method", *flags))
    assert (features.retrieval(1) / name.replace("retrieval", "small_set") / "metrics.json").exists()
