"""Comparison of two methods and the paper's tables, from made evaluations with known values."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from common import cli, datasets
from common.files import UserError, read_json, save_array, write_json
from common.readers import FolderClips, format_clips
from Evaluation_Metrics import bootstrap_with_wilcoxon, compare, paper_tables, report, tables
from Evaluation_Metrics.pairs import Pairs
from Evaluation_Metrics.results import differing, scored_facts

COLUMNS = ["2-way-I", "SSIM", "EPE"]


def made_evaluation(folder, method, shift=0.0, clips=range(1, 31), seed=0, recons=None, baselines=(), **facts):
    """What evaluate.py leaves, with values drawn around known means; `facts` go into metrics.json."""
    rng = np.random.default_rng(seed)
    clips = np.array(clips)
    values = {column: rng.normal(mean + shift, 0.05, len(clips)) for column, mean in zip(COLUMNS, (0.8, 0.3, 5.0), strict=True)}
    folder.mkdir(parents=True)
    np.savez(folder / "per_clip.npz", clip=clips, **values)
    for baseline in baselines:
        (folder / "baselines").mkdir(exist_ok=True)
        np.savez(folder / "baselines" / f"{baseline}.npz", clip=clips, **{column: v - 0.2 for column, v in values.items()})
    form = {"n_frames": 8, "size": 16}
    default = {
        "dataset": "CC2017", "phantom": False, "subject": 1, "method": method, "protocol": "paper", "protocol_version": 1,
        "truth": {"path": "gt.npy", "sha256": "1" * 64}, "models": {"image": {"source": "vit", "sha256": "2" * 64}},
        "clips": {"wanted": len(clips), "scored": len(clips), "missing": [], "numbers": format_clips(clips.tolist())},
        "columns": COLUMNS, "chance": {"2-way-I": 0.75},
        "reads": {"recons": str(recons), "layout": "ours", "gt": str(folder / "gt.npy"), "form": form},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(default | facts))
    return values


PHANTOM = {"dataset": "phantom", "phantom": True}


@pytest.fixture(autouse=True)
def few_test_clips(monkeypatch):
    for name in ("CC2017", "HCP", "Algonauts2021", "phantom"):
        monkeypatch.setitem(datasets.DATASETS, name, replace(datasets.DATASETS[name], n_test=30, test_clips=()))


def run(script, *argv):
    script.main(cli.parse(script.get_parser, [str(a) for a in argv], script.__name__.split(".")[-1]))


# ---------------------------------------------------------------------------------------------- compare


def test_compare_pairs_by_clip_number(tmp_path, capsys):
    """B scored other clips and lies 0.1 below: the interval holds the true difference of the common clips."""
    a = made_evaluation(tmp_path / "a", "mine", 0.1)
    made_evaluation(tmp_path / "b", "yours", clips=range(1, 31))
    shuffled = np.load(tmp_path / "b" / "per_clip.npz")
    keep = np.arange(29, 4, -1)  # clips 30 down to 6
    np.savez(tmp_path / "b" / "per_clip.npz", **{key: shuffled[key][keep] for key in shuffled.files})
    run(compare, tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    out = capsys.readouterr().out
    assert out.count("25 clips in common; 5 in A alone, 0 in B alone") == 1 and "no gallery: file not found: None; name" in out
    assert "CC2017 subject 1: mine against yours" in out and "| SSIM | 25 |" in out
    with open(tmp_path / "out" / "comparison.csv") as handle:
        rows = {row["metric"]: row for row in csv.DictReader(handle)}
    for column in COLUMNS:
        row = rows[column]
        assert float(row["difference"]) == pytest.approx(0.1) and float(row["a"]) == pytest.approx(a[column][5:].mean())
        assert row["better"] == ("B" if column == "EPE" else "A")  # a larger end-point error is worse
    with open(tmp_path / "out" / "differences.csv") as handle:
        table = list(csv.DictReader(handle))
    assert [int(row["clip"]) for row in table] == list(range(6, 31)) and float(table[3]["SSIM"]) == pytest.approx(0.1)


def test_the_spread_between_samples_stands_in_comparison_and_tables(tmp_path, capsys):
    samples = {"samples": {"SSIM": {"between_samples": 0.0123, "between_clips": 0.1, "n_samples": 3}}}
    for name in ("full", "other"):
        made_evaluation(tmp_path / "sub1" / name, name, **samples)
    run(compare, *(tmp_path / "sub1" / name for name in ("full", "other")), "--out", tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("| SSIM |")][0].endswith("| A 0.0123, B 0.0123 |")
    assert [line for line in lines if line.startswith("| 2-way-I |")][0].endswith("| – |") and any(
        "| std between samples |" in line for line in lines
    )
    run(paper_tables, "--results", tmp_path, "--dataset", "CC2017", "--names", "full", "--out", tmp_path / "tables")
    assert (
        "Mean over 3 samples of a clip, between which the standard deviation is SSIM 0.0123." in (tmp_path / "tables/main.md").read_text()
    )


def test_compare_finds_no_difference_where_there_is_none(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    noise = rng.normal(size=200)
    table = compare.compare_columns({"SSIM": (x, x + noise - noise.mean()), "same": (x, x), "gap": (x * np.nan, x)}, 0)
    assert [row["metric"] for row in table] == ["SSIM", "same"]
    assert table[0]["better"] is None and table[0]["low"] < 0 < table[0]["high"]
    assert table[1]["difference"] == 0 and table[1]["p"] is None
    (one,) = compare.compare_columns({"SSIM": (x[:1], x[:1] - 0.1)}, 0)  # of one clip there is no interval
    assert one["difference"] == pytest.approx(0.1) and one["better"] is one["p"] is None


def test_compare_refuses_what_does_not_compare(tmp_path):
    made_evaluation(tmp_path / "a", "mine")
    made_evaluation(tmp_path / "c", "yours", clips=range(40, 50))
    with pytest.raises(UserError, match="clips 1-30, .*clips 40-49, none in common"):
        run(compare, tmp_path / "a", tmp_path / "c")
    with pytest.raises(UserError, match="--metrics FVD"):
        run(compare, tmp_path / "a", tmp_path / "a", "--metrics", "FVD")
    with pytest.raises(UserError, match="file not found"):
        run(compare, tmp_path / "a", tmp_path)


READS = {"recons": "none", "gt": "none", "layout": "ours", "form": {"n_frames": 8, "size": 16}}
OTHER = [
    ("data set", PHANTOM, False),
    ("protocol", {"protocol": "correct"}, False),
    ("version of the protocol", {"protocol_version": 2}, False),
    ("subject", {"subject": 2}, True),
    ("ground truth", {"truth": {"path": "gt.npy", "sha256": "3" * 64}}, True),
    ("image model", {"models": {"image": {"source": "vit", "sha256": "4" * 64}}}, True),
    ("borders of frames", {"reads": READS | {"borders": True}}, True),
    ("samples of a clip", {"samples": {"SSIM": {"between_samples": 0.01, "between_clips": 0.1, "n_samples": 4}}}, True),
]


@pytest.mark.parametrize("what, facts, may", OTHER, ids=[entry[0] for entry in OTHER])
def test_compare_looks_at_what_was_scored(tmp_path, what, facts, may):
    made_evaluation(tmp_path / "a", "mine")
    made_evaluation(tmp_path / "b", "yours", seed=1, **facts)
    with pytest.raises(UserError, match=f"not scored alike .*{what}"):
        run(compare, tmp_path / "a", tmp_path / "b")
    if not may:
        with pytest.raises(UserError, match=f"not scored alike .*{what}"):
            run(compare, tmp_path / "a", tmp_path / "b", "--allow_differences")
        return
    run(compare, tmp_path / "a", tmp_path / "b", "--allow_differences", "--out", tmp_path / "out")
    with open(tmp_path / "out" / "comparison.csv") as handle:
        assert all(f"other {what}" in row["note"] for row in csv.DictReader(handle))
    assert (tmp_path / "out" / "comparison.md").read_text().count(f"other {what}") == len(COLUMNS)


def test_the_truth_is_the_same_whichever_clips_are_scored(tmp_path):
    for clip in (1, 2, 3):
        np.savez(tmp_path / f"test{clip}.npz", frames=np.full((2, 8, 8, 3), clip, np.uint8))
    readers = [FolderClips(tmp_path, "ours") for _ in range(2)]
    whole, part = (scored_facts(Pairs(*readers, numbers), [], None, ()) for numbers in (None, [1, 2]))
    assert list(differing(whole, part)) == ["clips"]


def test_a_report_shows_in_one_table_what_was_scored_alike(tmp_path):
    def evaluation(method, **facts):
        rows = {method: {"SSIM": {"mean": 0.3, "std": 0.1, "se": 0.01, "n": 30}}}
        made_evaluation(tmp_path / method, method, columns=["SSIM"], rows=rows, title=method, **facts)
        return None, read_json(tmp_path / method / "metrics.json")

    alike = [evaluation("a"), evaluation("b")]
    for what, facts, _ in OTHER:
        shown = report._tables([*alike, evaluation(what, **facts)])
        assert [[row["name"] for row in table["rows"]] for table in shown] == [["a", "b"], [what]]


def test_two_files_of_values(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x = rng.normal(0.5, 0.1, 100)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.where(np.arange(100) == 3, np.nan, x - 0.05))
    run(bootstrap_with_wilcoxon, tmp_path / "x.npy", tmp_path / "y.npy")
    out = capsys.readouterr().out
    assert "99 of 100" in out and "0.0500, 95 % interval 0.0500 to 0.0500" in out
    np.save(tmp_path / "z.npy", np.ones(100))
    run(bootstrap_with_wilcoxon, tmp_path / "z.npy", tmp_path / "z.npy")
    assert "released test: none, as no value differs" in capsys.readouterr().out
    for name, clips, subject in (("a", "1-100", 1), ("b", "101-200", 1), ("c", "1-100", 2)):
        save_array(tmp_path / f"{name}.npy", x, rows=f"clips {clips}", units="SSIM", made_by="test", scored={"subject": subject})
    for other, what in (("b", "clips"), ("c", "subject")):
        with pytest.raises(UserError, match=f"other {what}"):
            run(bootstrap_with_wilcoxon, tmp_path / "a.npy", tmp_path / f"{other}.npy")


# ---------------------------------------------------------------------------------------------- published values


def test_reference_values_are_sourced_and_add_up():
    reference = read_json(paper_tables.REFERENCES)
    for table in reference["tables"].values():
        for row in table["rows"]:
            assert set(row["values"]) <= set(table["columns"])
            assert all(cell["source"] in reference["sources"] for cell in row["values"].values())

    def of(table, method, **where):
        row = next(r for r in reference["tables"][table]["rows"] if r["method"] == method and all(r.get(k) == v for k, v in where.items()))
        return {column: cell["value"] for column, cell in row["values"].items()}

    # averages that the page states elsewhere, from the three subjects
    per_subject = [of("CC2017_subjects", "Mind-Animator", subject=s) for s in (1, 2, 3)]
    mean = {column: np.mean([row[column] for row in per_subject]) for column in per_subject[0]}
    stated = {"2-way-I": 0.802, "2-way-V": 0.834, "VIFI-score": 0.602, "SSIM": 0.312, "PSNR": 9.163, "Hue-pcc": 0.785, "CLIP-pcc": 0.422}
    assert all(abs(mean[column] - value) < 6e-4 for column, value in stated.items())
    for row in reference["tables"]["retrieval"]["rows"]:
        for k in ("top-10", "top-100"):
            cells = [row["values"].get(f"S{s} {k}") for s in (1, 2, 3)]
            if all(cells):
                assert np.mean([cell["value"] for cell in cells]) == pytest.approx(row["values"][f"mean {k}"]["value"], abs=0.011)
    # NeuroClips' own mean over its subjects
    rows = [of("CC2017_neuroclips", "NeuroClips 2024", subject=s) for s in (1, 2, 3)]
    whole = of("CC2017_neuroclips", "NeuroClips 2024")
    assert all(abs(np.mean([row[column] for row in rows]) - value) < 2e-3 for column, value in whole.items())
    # the same method in two tables
    assert of("CC2017", "Mind-Animator", training="CC2017").items() <= of("CC2017_later", "Mind-Animator 2025").items()


# ---------------------------------------------------------------------------------------------- paper tables


def test_paper_tables(tmp_path, capsys):
    results = tmp_path / "CC2017" / "metrics"
    values = {s: made_evaluation(results / f"sub{s}" / "full", "full", 0.02 * s, seed=s, baselines=["black"], subject=s) for s in (1, 2, 3)}
    for s in (1, 2, 3):
        made_evaluation(results / f"sub{s}" / "control", "control", 0.02 * s - 0.1, seed=s, subject=s)
    made_evaluation(results / "sub1" / "full_ablate_motion", "full_ablate_motion", 0.3)
    for s in (1, 2, 3):
        retrieval = tmp_path / "CC2017" / "retrieval" / f"sub{s}" / "small_set"
        retrieval.mkdir(parents=True)
        (retrieval / "metrics.json").write_text(json.dumps({"accuracy": {"10": 0.05, "100": 0.1 * s}}))
    run(paper_tables, "--dataset", "CC2017", "--results", results, "--names", "full", "control")
    capsys.readouterr()
    out = results / "tables"
    names = ("main", "subjects", "later", "ablation", "retrieval", "shuffle")
    assert {file.name for file in out.iterdir()} >= {f"{name}.{ending}" for name in names for ending in ("md", "csv", "tex")}
    with open(out / "main.csv") as handle:
        rows = list(csv.DictReader(handle))

    def cell(method, subject, metric):
        return next(r for r in rows if (r["method"], r["subject"], r["metric"]) == (method, subject, metric))

    mean = np.mean([values[s]["SSIM"].mean() for s in (1, 2, 3)])
    assert float(cell("this project", "mean", "SSIM")["value"]) == pytest.approx(mean)
    assert float(cell("this project", "2", "EPE")["std"]) == pytest.approx(values[2]["EPE"].std())
    assert cell("Mind-Animator, CC2017", "", "SSIM")["value"] == "0.321" and cell("Nishimoto 2011, CC2017", "", "EPE")["value"] == ""
    assert cell("this project, control", "1", "SSIM")["stars"] == "***" and cell("this project, control", "1", "SSIM")["source"] == "scored here"
    text = (out / "main.md").read_text()
    assert "protocol paper" in text and "| chance |  |  | 0.750 |" in text and "| this project | 2 | 30 |" in text and "| – |" in text
    line = next(line for line in text.splitlines() if line.startswith("| this project | mean"))
    # 0.34 is above every published SSIM, 5.03 below every published EPE; the control's is lower still but no competitor
    assert "**0.3" in line and "**5.0" in line
    assert "**11.043**" in text and "<u>10.637</u>" in text
    assert r"\*\*\* |" in next(line for line in text.splitlines() if line.startswith("| this project, control | 1 |"))
    tex = (out / "main.tex").read_text()
    assert r"\label{tab:CC2017-main}" in tex and "30 clips of subject 1" in tex and "$^{***}$" in tex
    assert r"\textbf{11.043}" in tex and r"\underline{10.637}" in tex and "_" not in tex.replace(r"\_", "")
    assert "full_ablate_motion" in (out / "ablation.md").read_text() and "this project" in (out / "retrieval.md").read_text()
    assert "| 5.00 | 30.00 | 5.00 | 20.00 | scored here |" in (out / "retrieval.md").read_text()
    with open(out / "differences.csv") as handle:
        gaps = list(csv.DictReader(handle))
    control = next(r for r in gaps if (r["row"], r["subject"], r["metric"]) == ("this project, control", "3", "SSIM"))
    assert float(control["low"]) <= 0.1 + 1e-9 and float(control["high"]) >= 0.1 - 1e-9


@pytest.mark.parametrize(
    "clips, facts, label", [(30, {}, "this project, results"), (4, {}, "this project, results"), (30, {"of_project": False}, "results")]
)
def test_who_is_in_the_running_and_under_which_name(tmp_path, clips, facts, label):
    """A few clips are no match for published test sets; clips of --recons_dir are not this project's. Old records do not say whose."""
    made_evaluation(tmp_path / "sub1" / "results", "results", 0.1, clips=range(1, clips + 1), **facts)
    run(paper_tables, "--results", tmp_path, "--names", "results")
    for table in ("main", "subjects", "ablation"):
        (line,) = [line for line in (tmp_path / "tables" / f"{table}.md").read_text().splitlines() if line.startswith(f"| {label} |")]
        assert ("4 of 30" in line) == (clips == 4) and ("**0.4" in line) == (clips == 30 and table != "ablation")


@pytest.mark.parametrize("name, ssim", [("HCP", "0.344"), ("Algonauts2021", "0.465")])
def test_tables_of_the_other_data_sets(tmp_path, name, ssim):
    """Their published main table and our rows, a mean over all participants; none of CC2017's other tables."""
    results, subjects = tmp_path / name / "metrics", datasets.get_dataset(name).subjects
    values = {s: made_evaluation(results / f"sub{s}" / "full", "full", seed=k, dataset=name, subject=s) for k, s in enumerate(subjects)}
    run(paper_tables, "--dataset", name, "--results", results)
    with open(results / "tables" / "main.csv") as handle:
        cells = {(row["method"], row["subject"], row["metric"]): row["value"] for row in csv.DictReader(handle)}
    assert next(value for (method, _, metric), value in cells.items() if method == "Mind-Animator" and metric == "SSIM") == ssim
    mean = np.mean([values[s]["SSIM"].mean() for s in subjects])
    assert float(cells["this project", "mean", "SSIM"]) == pytest.approx(mean)
    assert float(cells["this project", str(subjects[-1]), "EPE"]) == pytest.approx(values[subjects[-1]]["EPE"].mean())
    assert {path.stem for path in (results / "tables").glob("*.md")} == {"main"}


def test_tables_of_the_phantom_say_so(tmp_path, capsys):
    made_evaluation(tmp_path / "metrics" / "sub1" / "full", "full", **PHANTOM)
    run(paper_tables, "--dataset", "phantom", "--results", tmp_path / "metrics")
    assert "Nothing here is a result about brains" in capsys.readouterr().out
    assert not (tmp_path / "metrics" / "tables" / "shuffle.md").exists()
    assert "Mind-Video" not in (tmp_path / "metrics" / "tables" / "main.md").read_text()
    with pytest.raises(UserError, match="evaluate.py"):
        run(paper_tables, "--dataset", "phantom", "--results", tmp_path / "metrics", "--protocol", "correct")
    with pytest.raises(UserError, match="evaluation of dataset phantom, not CC2017"):
        run(paper_tables, "--dataset", "CC2017", "--results", tmp_path / "metrics")
    made_evaluation(tmp_path / "CC2017/metrics/sub1/full", "full")
    write_json(tmp_path / "CC2017/retrieval/sub1/small_set/metrics.json", {"dataset": "phantom", "phantom": True, "accuracy": {"10": 1}})
    with pytest.raises(UserError, match="is of phantom, not of CC2017"):
        run(paper_tables, "--dataset", "CC2017", "--results", tmp_path / "CC2017/metrics")


def test_an_evaluation_in_another_subjects_folder(tmp_path):
    made_evaluation(tmp_path / "sub1" / "full", "full", subject=2)
    with pytest.raises(UserError, match="evaluation of subject 2, not 1"):
        run(paper_tables, "--results", tmp_path)


@pytest.mark.parametrize("what, facts", [entry[:2] for entry in OTHER if entry[0] in ("ground truth", "image model")])
def test_rows_of_a_table_say_what_differs(tmp_path, what, facts):
    made_evaluation(tmp_path / "sub1" / "full", "full")
    made_evaluation(tmp_path / "sub2" / "full", "full", subject=2, **facts)
    made_evaluation(tmp_path / "sub1" / "control", "control", clips=range(1, 21))
    run(paper_tables, "--results", tmp_path, "--names", "full", "control")
    lines = (tmp_path / "tables" / "main.md").read_text().splitlines()
    beginnings = (
        "| this project | 1 | 30 |", f"| this project (other {what}) | 2 | 30 |", f"| this project (other {what}) | mean of 1, 2 | 30 |",
        "| this project, control (other clips) | 1 | 20 of 30 |",
    )  # fmt: skip
    assert all(any(line.startswith(beginning) for line in lines) for beginning in beginnings)


def test_tables_for_a_paper(tmp_path):
    """Columns, digits, baselines, the method's own name; a star only where the interval excludes 0."""
    rng = np.random.default_rng(0)
    made_evaluation(tmp_path / "sub1" / "mine", "NeuroX", baselines=["black", "mean_frame"])
    made_evaluation(tmp_path / "sub1" / "control", "control")
    content = dict(np.load(tmp_path / "sub1" / "mine" / "per_clip.npz"))
    noise = rng.normal(0, 0.05, 30)
    content["SSIM"] = content["SSIM"] + noise - noise.mean() + 0.01  # within the noise; the released test has a small p for it
    content["EPE"] -= 1
    np.savez(tmp_path / "sub1" / "control" / "per_clip.npz", **content)
    options = ("--columns", "SSIM", "EPE", "--digits", 2, "--baselines", "black")
    run(paper_tables, "--results", tmp_path, "--names", "mine", "control", *options)
    text = (tmp_path / "tables" / "main.md").read_text()
    assert "| method | subject | clips | SSIM | EPE ↓ | source |" in text and "| NeuroX | 1 | 30 |" in text
    assert "| black |" in text and "mean frame" not in text and "0.31 ± 0.05" in text
    with open(tmp_path / "tables" / "main.csv") as handle:
        marks = {(row["method"], row["metric"]): row["stars"] for row in csv.DictReader(handle)}
    with open(tmp_path / "tables" / "differences.csv") as handle:
        gaps = {(row["row"], row["metric"]): row for row in csv.DictReader(handle)}
    within = gaps["this project, control", "SSIM"]
    assert float(within["low"]) < 0 < float(within["high"]) and float(within["p"]) < 0.05
    assert marks["this project, control", "SSIM"] == "" and marks["this project, control", "EPE"] == "***"
    tex = tables.to_latex(tables.Table("main", "t", ["SSIM"], [tables.Row("a_b", values={"SSIM": -0.5})], [], of="X"))
    assert r"\label{tab:X-main}" in tex and r"a\_b" in tex and "$-$0.500" in tex
    with pytest.raises(UserError, match="--columns FVD"):
        run(paper_tables, "--results", tmp_path, "--names", "mine", "--columns", "FVD")


def test_methods_of_one_name_keep_their_rows(tmp_path):
    for name, shift in (("a", 0.0), ("b", 0.05), ("c", 0.1)):
        made_evaluation(tmp_path / "sub1" / name, "results", shift)
    run(paper_tables, "--results", tmp_path, "--names", "a", "b", "c", "--out", tmp_path / "tables")
    lines = (tmp_path / "tables/main.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| results")] == ["results, a", "results, b", "results, c"]
