"""Comparison of two methods and the paper's tables, from made evaluations with known values."""

import csv
import json

import numpy as np
import pytest

from common import cli
from common.files import UserError, read_json
from Evaluation_Metrics import bootstrap_with_wilcoxon, compare, paper_tables

COLUMNS = ["2-way-I", "SSIM", "EPE"]


def made_evaluation(folder, method, shift=0.0, clips=range(1, 31), seed=0, protocol="paper", dataset="CC2017", recons=None, baselines=()):
    """What evaluate.py leaves, with values drawn around known means."""
    rng = np.random.default_rng(seed)
    clips = np.array(clips)
    values = {column: rng.normal(mean + shift, 0.05, len(clips)) for column, mean in zip(COLUMNS, (0.8, 0.3, 5.0), strict=True)}
    folder.mkdir(parents=True)
    np.savez(folder / "per_clip.npz", clip=clips, **values)
    for baseline in baselines:
        (folder / "baselines").mkdir(exist_ok=True)
        np.savez(folder / "baselines" / f"{baseline}.npz", clip=clips, **{column: v - 0.2 for column, v in values.items()})
    facts = {"protocol": protocol, "method": method, "phantom": dataset == "phantom", "dataset": dataset}
    facts |= {"columns": COLUMNS, "chance": {"2-way-I": 0.75}}
    form = {"n_frames": 8, "size": 16}
    facts["reads"] = {"recons": str(recons), "layout": "ours", "gt": str(folder / "gt.npy"), "form": form}
    (folder / "metrics.json").write_text(json.dumps(facts))
    return values


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
    assert "25 clips in common; 5 in A alone, 0 in B alone" in out and "no gallery" in out
    with open(tmp_path / "out" / "comparison.csv") as handle:
        rows = {row["metric"]: row for row in csv.DictReader(handle)}
    for column in COLUMNS:
        row = rows[column]
        assert float(row["difference"]) == pytest.approx(0.1) and float(row["a"]) == pytest.approx(a[column][5:].mean())
        assert row["better"] == ("B" if column == "EPE" else "A")  # a larger end-point error is worse
    with open(tmp_path / "out" / "differences.csv") as handle:
        table = list(csv.DictReader(handle))
    assert [int(row["clip"]) for row in table] == list(range(6, 31)) and float(table[3]["SSIM"]) == pytest.approx(0.1)


def test_compare_finds_no_difference_where_there_is_none(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    noise = rng.normal(size=200)
    table = compare.compare_columns({"SSIM": (x, x + noise - noise.mean()), "same": (x, x), "gap": (x * np.nan, x)}, 0)
    assert [row["metric"] for row in table] == ["SSIM", "same"]
    assert table[0]["better"] is None and table[0]["low"] < 0 < table[0]["high"]
    assert table[1]["difference"] == 0 and table[1]["p"] is None


def test_compare_refuses_what_does_not_compare(tmp_path):
    made_evaluation(tmp_path / "a", "mine")
    made_evaluation(tmp_path / "b", "yours", protocol="correct")
    made_evaluation(tmp_path / "c", "yours", clips=range(40, 50))
    with pytest.raises(UserError, match="protocol paper"):
        run(compare, tmp_path / "a", tmp_path / "b")
    with pytest.raises(UserError, match="clips 1-30, found 40-49"):
        run(compare, tmp_path / "a", tmp_path / "c")
    with pytest.raises(UserError, match="--metrics"):
        run(compare, tmp_path / "a", tmp_path / "a", "--metrics", "FVD")
    with pytest.raises(UserError, match="JSON"):
        run(compare, tmp_path / "a", tmp_path)


def test_two_files_of_values(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x = rng.normal(0.5, 0.1, 100)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.where(np.arange(100) == 3, np.nan, x - 0.05))
    run(bootstrap_with_wilcoxon, tmp_path / "x.npy", tmp_path / "y.npy")
    out = capsys.readouterr().out
    assert "99 of 100" in out and "0.0500, 95 % interval 0.0500 to 0.0500" in out


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
    values = {s: made_evaluation(results / f"sub{s}" / "full", "full", 0.02 * s, seed=s, baselines=["black"]) for s in (1, 2, 3)}
    for s in (1, 2, 3):
        made_evaluation(results / f"sub{s}" / "control", "control", 0.02 * s - 0.1, seed=s)
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
    assert cell("this project, control", "1", "SSIM")["stars"] == "***" and cell("this project, control", "1", "SSIM")["source"] == "ours"
    text = (out / "main.md").read_text()
    assert "protocol paper" in text and "| chance |  | 0.750 |" in text and "| – |" in text
    line = next(line for line in text.splitlines() if line.startswith("| this project | mean"))
    # 0.34 is above every published SSIM, 5.03 below every published EPE; the control's is lower still but no competitor
    assert "**0.3" in line and "**5.0" in line
    assert "**11.043**" in text and "<u>10.637</u>" in text
    tex = (out / "main.tex").read_text()
    assert r"\textbf{11.043}" in tex and r"\underline{10.637}" in tex and "_" not in tex.replace(r"\_", "")
    assert "full_ablate_motion" in (out / "ablation.md").read_text() and "this project" in (out / "retrieval.md").read_text()
    assert "| 5.00 | 30.00 | 5.00 | 20.00 | ours |" in (out / "retrieval.md").read_text()
    with open(out / "differences.csv") as handle:
        gaps = list(csv.DictReader(handle))
    control = next(r for r in gaps if (r["row"], r["subject"], r["metric"]) == ("this project, control", "3", "SSIM"))
    assert float(control["low"]) <= 0.1 + 1e-9 and float(control["high"]) >= 0.1 - 1e-9


def test_tables_of_the_phantom_say_so(tmp_path, capsys):
    made_evaluation(tmp_path / "metrics" / "sub1" / "full", "full", dataset="phantom")
    run(paper_tables, "--dataset", "phantom", "--results", tmp_path / "metrics")
    assert "Phantom. phantom" in capsys.readouterr().out
    assert not (tmp_path / "metrics" / "tables" / "shuffle.md").exists()
    with pytest.raises(UserError, match="evaluate.py"):
        run(paper_tables, "--dataset", "phantom", "--results", tmp_path / "metrics", "--protocol", "correct")
