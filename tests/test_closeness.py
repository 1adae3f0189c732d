"""The closeness audit: neighbours and lines against numpy's, shares, combinations held out of the phantom's training."""

import contextlib
import csv
import hashlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from test_brain_score import DATA, house  # noqa: F401 -- fixture
from tiny import error_of, run_script

from common import datasets
from common.files import UserError, read_json, save_array, write_json
from common.layout import Layout
from Evaluation_Metrics import closeness, evaluate
from Evaluation_Metrics.closeness import compare_held_out, held_out, nearest, regress, share_of, words_of_held_out
from Evaluation_Metrics.results import VERSION, read_evaluation

RNG = np.random.default_rng


@pytest.mark.parametrize("centred", [False, True])
def test_nearest_is_the_most_alike_row(centred):
    rng = RNG(0)
    queries, gallery = rng.standard_normal((5, 7)) + 1, rng.standard_normal((9, 7))
    queries[2] = 3 * gallery[4]
    rows, distances = nearest(queries, gallery, centred)
    for i in range(5):
        like = [
            np.corrcoef(queries[i], g)[0, 1] if centred else queries[i] @ g / np.linalg.norm(queries[i]) / np.linalg.norm(g)
            for g in gallery
        ]
        assert rows[i] == np.argmax(like) and distances[i] == pytest.approx(1 - max(like))
    assert rows[2] == 4 and distances[2] == pytest.approx(0, abs=1e-12)
    for wrong in (gallery[:, :5], np.full((2, 7), np.nan)):
        with pytest.raises(ValueError, match="one width|NaN"):
            nearest(queries, wrong)


def test_line_and_its_interval():
    rng = RNG(1)
    x = rng.random(200)
    y = 2 - 3 * x + 0.5 * rng.standard_normal(200)
    y[7] = np.nan
    known = np.isfinite(y)
    line = regress(x, y, RNG(0))
    slope, intercept = np.polyfit(x[known], y[known], 1)
    assert line["slope"] == pytest.approx(slope) and line["intercept"] == pytest.approx(intercept) and line["n"] == 199
    x, y = x[known] - x[known].mean(), y[known]
    se = np.sqrt((x**2 * (y - y.mean() - slope * x) ** 2).sum()) / (x**2).sum()  # White's
    assert line["low"] == pytest.approx(slope - 1.96 * se, abs=0.4 * se) and line["high"] == pytest.approx(slope + 1.96 * se, abs=0.4 * se)
    assert regress(np.ones(9), np.arange(9.0), RNG(0)) is None


def test_share_counts_from_the_trivial_value_and_needs_a_step():
    method, trivial = np.full(20, 0.8) + 0.01 * RNG(0).standard_normal(20), np.full(20, 0.2)
    assert share_of(method, np.full(20, 0.5), trivial) == pytest.approx(0.3 / (method.mean() - 0.2))
    assert share_of(trivial + RNG(1).standard_normal(20), method, trivial) is None


def test_held_out_combinations_are_found_and_compared(tmp_path):
    path = tmp_path / "truth.json"
    entry = SimpleNamespace(truth_path=lambda root: path)
    assert held_out(entry, "", [1, 2]) is None
    scenes = [{"scene": {"shape": shape, "direction": "up"}} for shape in ("star", "circle", "star")]
    write_json(path, {"train": scenes, "test": scenes})
    assert held_out(entry, "", [1, 2]) is None
    write_json(path, {"train": scenes[1:2], "test": scenes})
    np.testing.assert_array_equal(held_out(entry, "", [1, 2, 3]), [True, False, True])
    values, apart = np.array([1.0, 1, 3, 3, np.nan]), np.array([True, True, False, False, True])
    found = compare_held_out(values, np.array([0.5, 0.75, 9, 9, 9]), apart, RNG(0))
    assert (found["held_out"], found["others"], found["low"], found["high"], found["n"]) == (1, 3, -2, -2, 2)
    assert (found["retrieved"], found["beyond_low"], found["beyond_high"], found["beaten"]) == (0.625, 0.25, 0.5, True)
    assert compare_held_out(values, np.array([0.5, 0.75, 9, 9, 9]), apart, RNG(0), lower=True)["beaten"] is False
    assert compare_held_out(values, np.array([0.5, 1.5, 9, 9, 9]), apart, RNG(0))["beaten"] is None
    (line,) = words_of_held_out({"SSIM": {"held_out": found}, "EPE": {"held_out": None}})
    assert line.startswith("SSIM: held-out combinations 1.000, others 3.000") and line.endswith(
        "0.625 on the held-out ones: retrieval is beaten"
    )


def test_the_decoder_is_the_one_that_made_the_reconstructions(tmp_path):
    layout, args = Layout(tmp_path), SimpleNamespace(subj_ID=1, name="control_seed43", semantic_model_path=None)
    path = tmp_path / "semantic.safetensors"
    path.write_bytes(b"weights")
    manifest = {"name": args.name, "clips": {}, "folders": {}, "settings": {}, "arm": "control"}
    decoder = {"semantic": {"file": str(path), "sha256": hashlib.sha256(b"weights").hexdigest()}}
    write_json(layout.recons(1, args.name) / "manifest.json", manifest | {"checkpoints": decoder})
    assert closeness.find_decoder(args, layout) == (path, "control")
    path.write_bytes(b"others")
    with pytest.raises(UserError, match="has changed since .*control_seed43 was reconstructed"):
        closeness.find_decoder(args, layout)
    write_json(layout.recons(1, args.name) / "manifest.json", manifest)
    with pytest.raises(UserError, match="does not say which semantic decoder made it"):
        closeness.find_decoder(args, layout)
    args.semantic_model_path = path
    assert closeness.find_decoder(args, layout) == (path, "control")


def test_scores_of_other_clips_are_put_in_place():
    found = closeness.onto_clips([4, 2, 9], np.array([2, 4]), {"SSIM": np.array([0.2, 0.4])})
    np.testing.assert_array_equal(found["SSIM"], [0.4, 0.2, np.nan])


@pytest.mark.parametrize(
    "other, what",
    [({}, None), ({"truth": {"path": "mine.npy", "sha256": "0"}}, "ground truth mine.npy, now gt.npy"), ({"protocol_version": "9.1"}, "version of the protocol 9, now"),
     ({"models": {"clip": {"source": "b", "sha256": "3"}}}, "clip model b, now a"), ({"models": {}}, None), ({"reads": {"borders": True}}, None)],
)  # fmt: skip
def test_an_evaluation_of_another_truth_or_by_other_models_is_refused(other, what):
    scored = {"truth": {"path": "gt.npy", "sha256": "1"}, "models": {"clip": {"source": "a", "sha256": "2"}}, "clips": {"numbers": "1-3"}}
    facts = {"dataset": "phantom", "subject": 1, "protocol_version": VERSION} | scored | {"clips": {"numbers": "1-9"}}
    with pytest.raises(UserError, match=f"full was not scored .*{what}") if what else contextlib.nullcontext():
        closeness.check_alike("metrics/full", facts | other, scored)


def test_audit_of_reconstructions_that_copy(house, monkeypatch, capsys):  # noqa: F811
    layout, flags = house
    flags = [flag for flag in flags if flag not in ("--n_bootstraps", "100")]
    rng, n = RNG(0), {"train": 24, "test": 10}
    for split, size in n.items():
        for path in (layout.text_embeddings_clip(split), layout.image_embeddings_clip(split)):
            save_array(path, rng.standard_normal((size, 10)).astype(np.float32), rows="clips", units="none", made_by="test")
    embedding = np.load(layout.image_embeddings_clip("train"))[[3] * 10]
    monkeypatch.setattr(closeness, "decoded_embedding", lambda *args: embedding)
    monkeypatch.setattr(closeness, "find_decoder", lambda args, place: (layout.ground_truth, "full"))
    monkeypatch.setattr(evaluate, "draw_distributions", lambda *_: None)  # takes longer than the scores
    monkeypatch.setitem(datasets.DATASETS, "phantom", replace(DATA, models={}))  # classifiers as well
    assert "run Evaluation_Metrics/evaluate.py first" in error_of(capsys, closeness, *flags[:4])
    run_script(evaluate, *flags, "--workers", "1")
    audit = [flag for i, flag in enumerate(flags) if flag != "--sd_path" and flags[i - 1] != "--sd_path"]
    run_script(closeness, *audit, "--workers", "1")
    out = layout.metrics(1, "full") / "closeness"
    rows = read_json(out / "metrics.json")["audit"]
    with open(out / "closeness.csv", newline="") as handle:
        table = list(csv.DictReader(handle))
    assert [float(row["nearest training clip, decoded"]) for row in table] == [4] * 10 and len(table) == 10
    assert rows["SSIM"]["means"]["full"] == pytest.approx(1) and rows["SSIM"]["beyond_decoded"]["low"] > 0
    assert rows["SSIM"]["shares"]["nearest training clip, decoded"] < 0.6 and rows["SSIM"]["held_out"] is None
    assert read_evaluation(out / "metrics.json")["method"] == "full"  # which the report reads beside other protocols
    assert (out / "closeness.png").exists() and "share, decoded" in (out / "table.md").read_text()
    save_array(layout.image_embeddings_clip("train"), np.zeros((24, 9), np.float32) + 1, rows="clips", units="none", made_by="test")
    assert "has 10 numbers" in error_of(capsys, closeness, *audit, "--overwrite")


def test_the_phantom_holds_out_what_it_is_told():
    from Data_preprocess.Phantom.step1_make_stimuli import draw_scenes

    entry = datasets.PHANTOM
    plain, without = draw_scenes(entry, 0), draw_scenes(entry, 0, [("star", "up"), ("circle", "left")])
    assert plain["test"] == without["test"]
    pairs = {(scene.shape, scene.direction) for scene in without["train"]}
    assert len(pairs) == 14 and not pairs & {("star", "up"), ("circle", "left")} and len(without["train"]) == entry.n_train
