"""The pipeline: which scripts it calls with which flags, for which participants, and what it says of a failure."""

import json
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from tiny import ROOT, fails, load_script, run_script

import run_pipeline as pipeline
from common import cli, datasets, files
from common.layout import Layout
from run_pipeline import Task

OWN = datasets.OwnDataset(
    name="own", subjects=("anna", "ben"), n_train=8, n_test=4, tr=1.0, fps=10, clip_frames=10, frame_indices=tuple(range(8)),
    middle_frame=4, frame_size=32, n_vertices=0,
)  # fmt: skip
SCRIPT = '''
"""A script.

    python FOLDER/step1_same.py
"""
import json
from pathlib import Path

from common import cli


def get_parser():
    parser = cli.make_parser(__doc__)
    SUBJECTS
    parser.add_argument("--out_root", type=Path)
    parser.add_argument("--dataset")
    parser.add_argument("--FLAG", type=cli.whole(0), default=0)
    parser.add_argument("--workers", type=int)
    return parser


def main(args):
    with open(args.out_root / "FOLDER.txt", "a") as file:
        subjects = getattr(args, "subj_ID", None)
        file.write(json.dumps([subjects, args.FLAG, args.workers]) + "\\n")
    END
'''
SUBJECTS = {
    "none": "",
    "one": 'parser.add_argument("--subj_ID")',
    "several": 'parser.add_argument("--subj_ID", nargs="+")',
}


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """Function that makes a stage of scripts, all called step1_same.py: {folder: (which subjects, last line)}."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(**folders):
        tasks = []
        for folder, (subjects, end) in folders.items():
            text = (
                SCRIPT.replace("FOLDER", folder)
                .replace("SUBJECTS", SUBJECTS[subjects])
                .replace("FLAG", f"{folder}_flag")
                .replace("END", end)
            )
            for module in (folder, f"{folder}.step1_same"):  # of another test
                sys.modules.pop(module, None)
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "step1_same.py").write_text(textwrap.dedent(text))
            tasks.append([Task("made", f"{folder}/step1_same.py", alone=folder == "alone")])
        monkeypatch.setattr(pipeline, "STAGES", {"made": lambda dataset, args: tasks})
        return tmp_path

    return make


def calls(out, folder):
    return [json.loads(line) for line in (out / f"{folder}.txt").read_text().splitlines()]


# ---------------------------------------------------------------------------------------------- what is called


def tasks_of(name, *flags):
    args = cli.parse(pipeline.get_parser, ["--dataset", name, *flags], "run_pipeline")
    dataset = datasets.get_dataset(name)
    args.arms = args.arms or list(dataset.arms)
    stages = pipeline.choose_stages(dataset, args.stages)
    return args, [task for stage in stages for wave in pipeline.STAGES[stage](dataset, args) for task in wave]


@pytest.mark.parametrize("name", [*datasets.DATASETS, "own", "another phantom"])
def test_every_call_of_every_data_set_parses(name, monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "own", OWN)
    monkeypatch.setitem(datasets.DATASETS, "another phantom", replace(datasets.PHANTOM, name="another phantom"))
    subject = str(datasets.DATASETS[name].subjects[-1])
    args, tasks = tasks_of(name, "--subj_ID", subject)
    pipeline.check_flags(tasks, args)
    assert len({task.log for task in tasks}) == len(tasks) and all((ROOT / task.script).is_file() for task in tasks)
    assert (tasks[0].stage == "phantom") == datasets.DATASETS[name].simulated
    for task in tasks:
        words = pipeline.command_line(task, args)
        assert words[words.index("--dataset") + 1] == name
        if "--subj_ID" in task.options:
            assert words[words.index("--subj_ID") + 1] == subject


def test_preparation_is_the_data_sets_own(monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "own", OWN)
    steps = [task.script for task in tasks_of("own", "--subj_ID", "anna", "--stages", "preprocess")[1]]
    assert [step.split("/")[1] for step in steps] == ["Own", "CC2017", "CC2017", "Own"]
    steps = [task.script for task in tasks_of("phantom", "--stages", "preprocess")[1]]
    assert steps == list(datasets.CC2017.preparation)


@pytest.mark.parametrize("seed, names", [("42", ["full", "control"]), ("43", ["full_seed43", "control_seed43"])])
def test_what_was_reconstructed_is_scored(seed, names):
    _, tasks = tasks_of("CC2017", "--arms", "full", "control", "--seed", seed, "--stages", "evaluate")
    assert [task.flags[1] for task in tasks] == names


def test_flags_go_to_the_scripts_that_know_them():
    flags = ("--epoch", "3", "--guidance=5", "--no_figures", "--workers", "7", "--n_voxels", "100", "200")
    args, tasks = tasks_of("phantom", "--subj_ID", "2", "3", *flags)
    pipeline.check_flags(tasks, args)
    lines = {task.name: " ".join(pipeline.command_line(task, args)) for task in tasks}
    assert [name for name, line in lines.items() if "--epoch 3" in line] == [name for name in lines if "train_" in name]
    recons = [name for name in lines if "video_recons" in name]
    assert [name for name in recons if "--guidance=5" in lines[name]] == [name for name in recons if "released_recipe" not in name]
    step4 = lines["Data_preprocess/CC2017/step4_fMRI_preparation"]
    assert "--no_figures" in step4 and "--n_voxels 100 200" in step4 and "--workers 7" in step4 and "--subj_ID 2 3" in step4
    assert all("--workers" not in lines[task.name] for task in tasks if not task.alone)
    assert all("--subj_ID 2" in line and "--subj_ID 2 3" not in line for name, line in lines.items() if "train_" in name)
    assert lines["Feature_decoding/train_CMG arm control"].endswith("--arm control")


def test_a_data_set_brings_its_profile(tmp_path):
    """Each script takes it by itself; another config file, `none` and the command line go before it."""
    script = "Feature_decoding/train_CMG"
    (tmp_path / "mine.yaml").write_text("attn_dim: 128")

    def width(*flags):
        return cli.parse(load_script(script).get_parser, flags, script).attn_dim

    plain = width()
    assert (width("--dataset", "phantom"), width("--dataset", "phantom", "--attn_dim", "64")) == (256, 64)
    assert (width("--dataset", "phantom", "--config", "none"), width("--dataset=phantom", f"--config={tmp_path}/mine.yaml")) == (plain, 128)
    args, tasks = tasks_of("phantom", "--stages", "reconstruct")
    lines = [" ".join(pipeline.command_line(task, args)) for task in tasks]
    assert all(("--config none" in line) == ("released_recipe" in line) for line in lines)


def test_models_of_the_metrics_are_handed_on(tmp_path, capsys):
    models = ("--vifi_path", "--image_classifier", "--clip_classifier")
    args, tasks = tasks_of("CC2017", "--stages", "evaluate", *(word for flag in models for word in (flag, f"{tmp_path}/model")))
    (line,) = (" ".join(pipeline.command_line(task, args)) for task in tasks)
    assert all(f"{flag} {tmp_path}/model" in line for flag in models)
    fails(pipeline, "--dataset", "CC2017", "--out_root", tmp_path, "--stages", "evaluate", *models[1:2], tmp_path)
    assert "need --clip_path, --vifi_path, --clip_classifier will be dashes" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--epochs", "3"), "--epochs"),
        (("--arm", "full"), "--arm"),  # the pipeline sets it
        (("--stages", "extract", "--epoch", "3"), "--epoch"),
        (("stray",), "'stray'"),
        (("--epoch", "0"), "Feature_decoding/train_CMG.py --help"),
        (("--stages", "phantom"), "no stage 'phantom' for CC2017"),
        (("--dataset", "HCP"), "HCP has no subject 1; choose from 100610"),
    ],
)
def test_a_wrong_flag_is_said_before_anything_runs(flags, words, tmp_path, capsys):
    fails(pipeline, "--dataset", "CC2017", "--out_root", tmp_path / "out", *flags)
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1 and not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------- running


def test_participants_one_after_another(scripts, monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "own", OWN)
    out = scripts(shared=("none", ""), list=("several", ""), single=("one", ""), alone=("none", ""))
    flags = ["--dataset", "own", "--out_root", out, "--subj_ID", "anna", "ben", "--workers", "3", "--single_flag", "4"]
    run_script(pipeline, *flags)
    assert calls(out, "shared") == [[None, 0, None]] and calls(out, "alone") == [[None, 0, 3]]
    assert calls(out, "list") == [[["anna", "ben"], 0, None]]
    assert calls(out, "single") == [["anna", 4, None], ["ben", 4, None]]
    assert set(json.loads((out / "own/timings_subanna.json").read_text())) == {
        f"{name}/step1_same" for name in ("shared", "list", "single", "alone")
    }
    assert list(json.loads((out / "own/timings_subben.json").read_text())) == ["single/step1_same"]
    logs = sorted(path.relative_to(out / "own/logs").as_posix() for path in (out / "own/logs").rglob("*.log"))
    assert logs == [*(f"subanna/{name}/step1_same.log" for name in ("alone", "list", "shared", "single")), "subben/single/step1_same.log"]


@pytest.mark.parametrize(
    "end, words",
    [
        (
            "from common.files import UserError; print('working'); raise UserError('x.npy is not there; make it')",
            "x.npy is not there; make it",
        ),
        ("raise ValueError('no such thing')", "ValueError: no such thing"),
        ("raise ValueError", "ValueError"),
        ("import os; os.kill(os.getpid(), 9)", "the process was ended by SIGKILL"),
        ("raise SystemExit(3)", "it said nothing"),
    ],
)
def test_a_failure_is_one_sentence(scripts, capsys, end, words):
    out = scripts(first=("none", end), second=("none", ""))
    fails(pipeline, "--dataset", "CC2017", "--out_root", out)
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == f"error: step1_same failed: {words} (log: {out / 'CC2017/logs/sub1/first/step1_same.log'})"
    assert not (out / "second.txt").exists()


def test_the_phantoms_checks_follow_what_was_reconstructed(tmp_path, monkeypatch):
    """Claims of the arms that are there, a folder a seed; what comes or changes later is checked without a flag."""
    checks = load_script("phantom/phantom_checks")
    layout, seen = Layout(tmp_path / "phantom"), []
    for path in (layout.mask(1), layout.ground_truth):
        path.parent.mkdir(parents=True)
        np.save(path, np.ones(3))
    files.write_json(tmp_path / "phantom/phantom_vertices_sub1.json", dict.fromkeys(checks.PLANTED.values(), [0]))
    monkeypatch.setattr(
        checks, "measure", lambda dataset, layout, scenes, folders, embeddings: seen.append((set(folders), set(embeddings)))
    )
    for name, made in (("check_fmri", []), ("load_scenes", []), ("check_reconstructions", []), ("decode_embedding", 0), ("draw", 0)):
        monkeypatch.setattr(checks, name, lambda *_, made=made: made)

    def reconstruct(name):
        files.write_json(layout.recons(1, name) / "manifest.json", {"name": name})
        run_script(checks, "--data_root", tmp_path, "--out_root", tmp_path, "--seed", "42" if "seed" not in name else "43")

    for name in ("full", "full", "control", "full_ablate_motion", "control_seed43", "full_seed43"):
        reconstruct(name)
    arms = {"full", "control"}
    assert seen == [({"full"}, {"full"}), (arms, arms), (arms | {"still"}, arms), (arms, arms)]
    assert {path.parent.name for path in layout.metrics(1, "any").parent.glob("*/metrics.json")} == {
        "phantom_checks",
        "phantom_checks_seed43",
    }


def test_bars_in_a_log_are_few_lines(scripts, monkeypatch):
    """A terminal's redraws would be hundreds."""
    monkeypatch.setattr(cli, "LOG_PACE", 0.5)
    end = "import time; from tqdm import tqdm; [time.sleep(0.01) for _ in tqdm(range(200), desc='work', mininterval=0.1, leave=False)]"
    out = scripts(first=("none", end), second=("none", end.replace("200", "3")))
    run_script(pipeline, "--dataset", "CC2017", "--out_root", out)
    log = (out / "CC2017/logs/sub1/first/step1_same.log").read_bytes().decode()
    assert "\r" not in log and 2 <= log.count("work:") <= 5 and all("/200 [" in line for line in log.splitlines())
    assert (out / "CC2017/logs/sub1/second/step1_same.log").read_text() == ""


def test_reports_are_a_participants_own(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(datasets.DATASETS, "own", OWN)
    run_script(pipeline, "--dataset", "own", "--out_root", tmp_path, "--subj_ID", "anna", "ben", "--stages", "report")
    printed = capsys.readouterr().out
    for name in ("report_subanna.html", "report_subben.html", "report.html"):
        assert name in printed and (tmp_path / "own" / name).is_file()
    assert all(name in (tmp_path / "own/report.html").read_text() for name in ("report_subanna.html", "report_subben.html"))
