"""The pipeline: which scripts it calls with which flags, for which participants, and what it says of a failure."""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import pytest
from tiny import ROOT, fails, load_script, run_script

import run_pipeline as pipeline
from common import cli, datasets, files
from common.layout import Layout
from Evaluation_Metrics import sweep
from Evaluation_Metrics.results import save_per_clip
from jobs import cluster, local, plan
from jobs.stages import SEEDLESS, STAGES, Task, choose_stages

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
    "none": "", "gpu": 'parser.add_argument("--device", default="auto")',
    "one": 'parser.add_argument("--subj_ID")', "several": 'parser.add_argument("--subj_ID", nargs="+")',
}  # fmt: skip


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
        monkeypatch.setitem(STAGES, "made", lambda dataset, args: tasks)
        monkeypatch.setattr(pipeline, "choose_stages", lambda dataset, args: ["made"])
        return tmp_path

    return make


def calls(out, folder):
    return [json.loads(line) for line in (out / f"{folder}.txt").read_text().splitlines()]


# ---------------------------------------------------------------------------------------------- what is called


def plan_of(name, *flags):
    """Arguments and jobs of a command line."""
    args = cli.parse(pipeline.get_parser, ["--dataset", name, *flags], "run_pipeline")
    dataset = datasets.get_dataset(name)
    args.arms = args.arms or list(dataset.arms)
    waves = plan.make_plan(choose_stages(dataset, args), dataset, args, pipeline.get_parser()._actions)
    return args, [job for wave in waves for job in wave]


@pytest.mark.parametrize("name", [*datasets.DATASETS, "own", "another phantom"])
def test_every_call_of_every_data_set_parses(name, monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "own", OWN)
    monkeypatch.setitem(datasets.DATASETS, "another phantom", replace(datasets.PHANTOM, name="another phantom"))
    subject = str(datasets.DATASETS[name].subjects[-1])
    args, jobs = plan_of(name, "--subj_ID", subject)
    plan.check_flags(jobs, args, pipeline.get_parser()._actions)
    assert len({job.log for job in jobs}) == len(jobs) and all((ROOT / job.task.script).is_file() for job in jobs)
    assert (jobs[0].task.stage == "phantom") == datasets.DATASETS[name].simulated
    for job in jobs:
        assert job.argv[job.argv.index("--dataset") + 1] == name
        if "--subj_ID" in job.task.options:
            assert job.argv[job.argv.index("--subj_ID") + 1] == subject


@pytest.mark.parametrize(
    "name, seed, arms, names",
    [
        ("CC2017", "42", ["full", "control"], ["full", "control"]), ("CC2017", "43", ["full", "control"], ["full_seed43", "control_seed43"]),
        ("phantom", "42", ["full", "control"], ["full", "control", "full"]),
        ("phantom", "43", ["oracle", "full", "control"], ["oracle_seed43", "full_seed43", "control_seed43", "oracle_seed43", "oracle_seed43"]),
    ],
)  # fmt: skip
def test_what_was_reconstructed_is_scored(name, seed, arms, names):
    """The phantom's first arm twice, by another protocol; brain_score.py last, where all three arms are there."""
    _, jobs = plan_of(name, "--arms", *arms, "--seed", seed, "--stages", "evaluate")
    assert [job.task.flags[1] for job in jobs] == names
    assert [job.task.script for job in jobs].count("Evaluation_Metrics/brain_score.py") == (len(arms) == 3)


def test_shuffle_tests_need_the_reconstructions_that_they_compare():
    for given, runs in (((), True), (("none", "motion", "semantic"), True), (("none", "semantic"), False), (("motion",), False)):
        flags = ["--ablate", *given] * bool(given)
        assert any("shuffle_for" in job.name for job in plan_of("phantom", *flags)[1]) == runs


@pytest.mark.parametrize("words", [("retrieve,explain,train",), ("train", "explain", "retrieve"), ("train,", "retrieve", "explain,train")])
def test_stages_are_separated_by_commas_or_spaces(words):
    stages = [job.task.stage for job in plan_of("CC2017", "--stages", *words)[1]]
    assert list(dict.fromkeys(stages)) == ["train", "retrieve", "explain"]


def test_nothing_is_drawn_where_the_vertices_are_not_known(tmp_path, monkeypatch):
    """Unless the flag names them, preprocessing has left a mask of the cortex, or the series lie on it."""
    monkeypatch.setitem(datasets.DATASETS, "own", OWN)
    monkeypatch.setitem(datasets.DATASETS, "cifti", replace(OWN, name="cifti", series="{subject}/{run}.dtseries.nii"))

    def explained(name="own", *flags):
        jobs = plan_of(name, "--subj_ID", "anna", "--out_root", str(tmp_path), *flags)[1]
        return any(job.task.stage == "explain" for job in jobs)

    assert not explained() and explained("own", "--vertices", "v.npy") and explained("cifti")
    for n, drawn in ((300, False), (59412, True)):
        path = Layout(tmp_path / "own").mask("anna")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.ones(n, bool))
        assert explained() == drawn


def test_flags_go_to_the_scripts_that_know_them():
    flags = ("--epoch", "3", "--guidance=5", "--no_figures", "--workers", "7", "--n_voxels", "100", "200")
    args, jobs = plan_of("phantom", "--subj_ID", "2", "3", *flags)
    plan.check_flags(jobs, args, pipeline.get_parser()._actions)
    lines = {job.name: " ".join(job.argv) for job in jobs if job.subject == 2}
    assert [name for name, line in lines.items() if "--epoch 3" in line] == [name for name in lines if "train_" in name]
    recons = [name for name in lines if "video_recons" in name]
    assert [name for name in recons if "--guidance=5" in lines[name]] == [name for name in recons if "released_recipe" not in name]
    step4 = lines["Data_preprocess/CC2017/step4_fMRI_preparation"]
    assert "--no_figures" in step4 and "--n_voxels 100 200" in step4 and "--workers 7" in step4 and "--subj_ID 2 3" in step4
    assert all("--workers" not in job.argv for job in jobs if not job.task.alone)
    assert all("--subj_ID 2" in line and "--subj_ID 2 3" not in line for name, line in lines.items() if "train_" in name)
    assert lines["Feature_decoding/train_CMG arm control"].endswith("--arm control")


def test_a_data_set_brings_its_profile(tmp_path):
    """Each script takes it by itself; another config file, `none` and the command line go before it."""
    script = "Feature_decoding/train_CMG"
    (tmp_path / "mine.yaml").write_text("attn_dim: 96")

    def width(*flags):
        return cli.parse(load_script(script).get_parser, flags, script).attn_dim

    plain = width()
    assert (width("--dataset", "phantom"), width("--dataset", "phantom", "--attn_dim", "64")) == (128, 64)
    assert (width("--dataset", "phantom", "--config", "none"), width("--dataset=phantom", f"--config={tmp_path}/mine.yaml")) == (plain, 96)
    lines = [" ".join(job.argv) for job in plan_of("phantom", "--stages", "reconstruct")[1]]
    assert all(("--config none" in line) == ("released_recipe" in line) for line in lines)


def test_models_of_the_metrics_are_handed_on(tmp_path, capsys):
    models = ("--vifi_path", "--image_classifier", "--clip_classifier")
    _, jobs = plan_of("CC2017", "--stages", "evaluate", *(word for flag in models for word in (flag, f"{tmp_path}/model")))
    (line,) = (" ".join(job.argv) for job in jobs)
    assert all(f"{flag} {tmp_path}/model" in line for flag in models)
    fails(pipeline, "--dataset", "CC2017", "--out_root", tmp_path, "--stages", "evaluate", *models[1:2], tmp_path)
    assert "need --clip_path, --vifi_path, --clip_classifier will be dashes" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--epochs", "3"), "takes --epochs from the pipeline (did you mean --epoch?)"),
        (("--subjects", "3"), "(did you mean --subj_ID?)"),
        (("--arm", "full"), "--arm"),  # the pipeline sets it
        (("--stages", "extract", "--epoch", "3"), "--epoch"),
        (("stray",), "'stray'"),
        (("--roi", "V1"), "give --stages train,reconstruct"),
        (("--roi", "V1", "--stages", "preprocess"), "give --stages train,reconstruct"),
        (("--roi", "V1", "--stages", "train", "--arms", "full", "oracle"), "give --arms full control"),
        (("--ablate", "motion", "--arms", "control"), "--arms has control only; add full"),
        (("--vifi_path", "k400.pth", "--data_root", "."), "check --vifi_path"),
        (("--epoch", "0"), "Feature_decoding/train_CMG.py --help"),
        (("--stages", "phantom"), "no stage 'phantom' for CC2017"),
        (("--stages", "explain", "reports"), "no stage 'reports' for CC2017"),
        (("--stages", ","), "no stage '' for CC2017"),
        (
            ("--dataset", "own", "--subj_ID", "anna", "--stages", "explain"),
            "which vertices the voxels of own are is not known; leave it out",
        ),
        (("--dataset", "HCP"), "HCP has no subject 1; choose from 100610"),
    ],
)
def test_a_wrong_flag_is_said_before_anything_runs(flags, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "own", OWN)
    fails(pipeline, "--dataset", "CC2017", "--out_root", tmp_path / "out", *flags)
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flag, words",
    [("--sd_path", "sd; check --sd_path"), ("--clip_classifier", "check --clip_classifier"), ("--data_root", "check --data_root")],
)
def test_a_path_that_is_not_there_is_said_before_anything_runs(flag, words, tmp_path, capsys):
    data = ["--data_root", tmp_path]
    fails(pipeline, "--dataset", "CC2017", "--out_root", tmp_path / "out", *data, flag, tmp_path / "sd")
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1 and not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------- sweeps and clusters

SWEEP = ("--subj_ID", "1", "2", "--seeds", "43", "44", "--ablate", "none", "semantic", "--arms", "full", "control")


def test_a_sweep_trains_every_seed_and_prepares_the_data_once():
    _, jobs = plan_of("phantom", *SWEEP)
    calls = {(job.task.stage, job.task.script.split("/")[-1][:-3], job.subject, job.seed) for job in jobs}
    assert {call for call in calls if call[0] in ("phantom", "extract")} == {
        *(("phantom", name, 1, 42) for name in ("step1_make_stimuli", "step2_make_fmri")),
        *(("extract", f"{name}_extraction", 1, 42) for name in ("content_feature", "contrastive_target", "semantic_feature")),
    }
    four = {(subject, seed) for subject in (1, 2) for seed in (43, 44)}
    for stage, script in (("train", "train_CMG"), ("reconstruct", "video_recons"), ("evaluate", "evaluate")):
        assert {call[2:] for call in calls if call[:2] == (stage, script)} == four
    names = {job.argv[job.argv.index("--name") + 1] for job in jobs if job.task.stage == "evaluate"}
    assert names == {f"{name}_seed{seed}" for name in ("full", "control", "full_ablate_semantic") for seed in (43, 44)}
    assert all(job.argv[job.argv.index("--seed") + 1] == str(42 if job.task.stage in SEEDLESS else job.seed) for job in jobs)
    assert len({(job.subject, job.log) for job in jobs}) == len(jobs)


SBATCH = r"""#!/usr/bin/env python3
import json, os, re, subprocess, sys
script = sys.argv[-1]
text = open(script).read()
number = len(open("queue.txt").readlines()) + 1 if os.path.exists("queue.txt") else 1
open("queue.txt", "a").write(json.dumps([os.path.basename(script), sys.argv[1:-1]]) + "\n")
if "refused" in text and "list/" in text:
    sys.exit("sbatch: error: invalid partition specified: bad")
for index in range(int((re.findall("--array=0-(.*)", text) or ["0"])[0]) + 1):
    done = subprocess.run(["bash", script], env=os.environ | {"SLURM_ARRAY_TASK_ID": str(index)})
    assert done.returncode == 0
print(number)
"""  # runs a job at once: dependencies are in order


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Folder with a stand-in of sbatch on the path, in which the current directory is."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sbatch").write_text(SBATCH)
    (tmp_path / "bin/sbatch").chmod(0o755)
    (tmp_path / "bin/scancel").write_text('#!/bin/sh\necho "$@" > cancelled.txt\n')
    (tmp_path / "bin/scancel").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cluster_scripts(scripts, monkeypatch):
    """Folder with a stage of three scripts: for all, for a participant, for a list of them; and the flags for a run of them."""
    monkeypatch.setattr(pipeline, "report_job", None)
    out = scripts(shared=("none", ""), single=("one", ""), list=("several", ""))
    monkeypatch.setattr(cluster, "PROJECT", out)
    monkeypatch.setenv("PYTHONPATH", f"{out}:{ROOT}")
    for folder in ("shared", "single", "list"):
        with open(out / folder / "step1_same.py", "a") as file:
            file.write('\nif __name__ == "__main__":\n    cli.run(main, get_parser)\n')
    flags = ["--dataset", "CC2017", "--out_root", out / "o ut", "--data_root", out, "--subj_ID", "1", "3", "--single_flag", "4"]
    return out, [*flags, "--cluster", "slurm", "--time", "1:00:00"]


CALLS = {"shared": [[None, 0, None]], "single": [[1, 4, None], [3, 4, None]], "list": [[[1, 3], 0, None]]}


def test_a_cluster_runs_the_plan(cluster_scripts, slurm, monkeypatch, capsys):
    """What participants share once, then an array over them, then a job that waits for it; all are submitted or none."""
    out, flags = cluster_scripts
    run_script(pipeline, *flags, "--partition", "cpu", "--sbatch=--account=me --mem=9G")
    queue = [json.loads(line) for line in (slurm / "queue.txt").read_text().splitlines()]
    assert [needs for _, needs in queue] == [
        ["--parsable"],
        ["--parsable", "--dependency=afterok:1", "--kill-on-invalid-dep=yes"],
        ["--parsable", "--dependency=afterok:2", "--kill-on-invalid-dep=yes"],
    ]
    text = (out / "o ut/CC2017/jobs" / queue[1][0]).read_text()
    for line in ("--array=0-1", "--partition=cpu", "--time=1:00:00", "--account=me --mem=9G", "--requeue"):
        assert f"#SBATCH {line}\n" in text
    assert "--gpus" not in text  # of a script that has no --device
    assert {folder: calls(out / "o ut", folder) for folder in CALLS} == CALLS
    fails(pipeline, *flags, "--sbatch=--comment=refused")
    assert "nothing was submitted (sbatch: error: invalid partition specified: bad)" in capsys.readouterr().err
    assert (slurm / "cancelled.txt").read_text() == "4 5\n"
    monkeypatch.setenv("PATH", "")
    fails(pipeline, *flags)
    assert "there is no sbatch on the path" in capsys.readouterr().err


def test_a_real_slurm_runs_the_plan(cluster_scripts):
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("there is no SLURM here")
    out, flags = cluster_scripts
    run_script(pipeline, *flags, "--gpus", "0")
    until = time.time() + 120
    while not (out / "o ut/list.txt").exists() and time.time() < until:
        time.sleep(0.5)
    assert {folder: sorted(calls(out / "o ut", folder), key=str) for folder in CALLS} == CALLS


@pytest.mark.parametrize("number, requeued", [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_job_whose_time_is_up_queues_again(slurm, monkeypatch, number, requeued):
    """It stops as at SIGTERM, which saves its state; one that a user cancels does not come back."""
    (slurm / "bin/scontrol").write_text('#!/bin/sh\necho "$@" > requeued.txt\n')
    (slurm / "bin/scontrol").chmod(0o755)
    code = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143)); open('began', 'w'); time.sleep(60)"
    facts = dict(name="job", log="log", notice=1, directives="", values="", here=slurm, command=shlex.join([sys.executable, "-c", code]))
    (slurm / "job.sbatch").write_text(cluster._SCRIPT.format(**facts))
    job = subprocess.Popen(["bash", "job.sbatch"], env=os.environ | {"SLURM_JOB_ID": "7"})
    while not (slurm / "began").exists():
        time.sleep(0.05)
    job.send_signal(number)
    assert job.wait(20) == 143
    assert (slurm / "requeued.txt").exists() == requeued


def test_jobs_of_a_cluster_wait_for_their_own(tmp_path, capsys):
    """Printed, not submitted; no participant waits for another."""
    run_script(pipeline, "--dataset", "phantom", "--out_root", tmp_path, *SWEEP, "--cluster", "print", "--gpus", "2")
    printed = capsys.readouterr().out
    assert f"accelerate.commands.launch --multi_gpu --num_processes 2 {ROOT}/Feature_decoding/train_CMG.py" in printed
    folder = tmp_path / "phantom/jobs"
    scripts = {path.stem: path.read_text() for path in folder.glob("*.sbatch")}
    arrays = {name for name, text in scripts.items() if "#SBATCH --array=0-1\n" in text}
    assert {"Feature_decoding_train_CMG_arm_full_sub1_seeds_43_44", "Feature_decoding_train_CMG_arm_full_sub2_seeds_43_44"} <= arrays
    assert "values=(43 44)\n" in scripts["Feature_decoding_train_CMG_arm_full_sub1_seeds_43_44"]
    assert all(
        "--name full_seed43" in text for name, text in scripts.items() if name.startswith("Evaluation_Metrics_evaluate_name_full_seed43")
    )
    after = dict(line[2:].split(", after ") for line in printed.splitlines() if line.startswith("# "))
    after = {path.split("/")[-1].removesuffix(".sbatch"): needs.split(", ") for path, needs in after.items()}
    assert all("sub2" not in need for need in after["Feature_decoding_train_CMG_arm_full_sub1_seeds_43_44"])
    recons = after["Reconstruction_video_recons_arm_full_sub1_seeds_43_44"]
    assert "Feature_decoding_train_CMG_arm_full_sub1_seeds_43_44" in recons and all(
        "sub2" not in need and "extraction" not in need for need in recons
    )
    assert next(iter(after.values())) == ["nothing"] and "run_pipeline_stages_report" in after


def test_the_table_over_seeds(tmp_path, capsys):
    layout, rng = Layout(tmp_path), np.random.default_rng(0)
    values = {(subject, seed): rng.normal(size=5) for subject in (1, 2) for seed in (42, 43, 44)}
    for (subject, seed), of_clips in values.items():
        folder = layout.metrics(subject, "full" if seed == 42 else f"full_seed{seed}")
        row = {"SSIM": {"mean": of_clips.mean(), "std": 0.0, "se": 0.0, "n": 5}}
        facts = {
            "title": str(subject), "dataset": "phantom", "phantom": True, "subject": subject, "protocol": "paper", "protocol_version": 1,
        }  # fmt: skip
        files.write_json(folder / "metrics.json", facts | {"method": "full", "columns": ["SSIM"], "rows": {"full": row}, "chance": {}})
        save_per_clip(folder / "per_clip", [1, 2, 3, 4, 5], {"SSIM": of_clips})
    path = sweep.gather_sweep(layout, [1, 2], [42, 43, 44], [("full", None), ("full", "motion")])
    with open(path.with_suffix(".csv")) as file:
        rows = {row["subject"]: row for row in csv.DictReader(file)}
    means = np.array([[values[subject, seed].mean() for seed in (42, 43, 44)] for subject in (1, 2)])
    for row, of_seeds in ((rows["1"], means[0]), (rows["2"], means[1]), (rows["mean"], means.mean(axis=0))):
        assert float(row["value"]) == pytest.approx(of_seeds.mean()) and float(row["std"]) == pytest.approx(np.std(of_seeds, ddof=1))
        assert row["method"] == "full (3 seeds)" and row["clips"] == "5"
    text = path.read_text()
    assert "Phantom." in text and "Seeds: 42, 43, 44" in text and text.count("Not scored") == 6
    other = layout.metrics(2, "full_seed44") / "metrics.json"
    files.write_json(other, json.loads(other.read_text()) | {"protocol": "correct"})
    with pytest.raises(files.UserError, match="differ in protocol"):
        sweep.gather_sweep(layout, [1, 2], [42, 43, 44], [("full", None)])


# ---------------------------------------------------------------------------------------------- running


def test_participants_one_after_another(scripts, monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "own", OWN)
    out = scripts(shared=("none", ""), list=("several", ""), single=("one", ""), alone=("none", ""))
    flags = ["--dataset", "own", "--out_root", out, "--subj_ID", "anna", "ben", "--workers", "3", "--single_flag", "4"]
    run_script(pipeline, *flags)
    assert calls(out, "shared") == [[None, 0, None]] and calls(out, "alone") == [[None, 0, 3]]
    assert calls(out, "list") == [[["anna", "ben"], 0, None]]
    assert sorted(calls(out, "single")) == [["anna", 4, None], ["ben", 4, None]]  # side by side
    assert set(json.loads((out / "own/timings_subanna.json").read_text())) == {
        f"{name}/step1_same" for name in ("shared", "list", "single", "alone")
    }
    assert list(json.loads((out / "own/timings_subben.json").read_text())) == ["single/step1_same"]
    logs = sorted(path.relative_to(out / "own/logs").as_posix() for path in (out / "own/logs").rglob("*.log"))
    assert logs == [*(f"subanna/{name}/step1_same.log" for name in ("alone", "list", "shared", "single")), "subben/single/step1_same.log"]


@pytest.mark.parametrize("lost", [False, True])
def test_each_gpu_has_a_job_at_a_time(scripts, monkeypatch, lost):
    """Three jobs for two GPUs, one for none; where the parent has asked CUDA something, a job is a process that starts from the beginning."""
    monkeypatch.setattr(pipeline, "gpus_here", lambda: ["0", "3"])
    monkeypatch.setattr(local, "gpu_is_lost", lambda: lost)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = "began, time.time(), os.environ.get('CUDA_VISIBLE_DEVICES'), 'pytest' in sys.modules"
    end = f"import os, sys, time; began = time.time(); time.sleep(0.5); print(json.dumps([{seen}]))\n\n\nif __name__ == '__main__':\n    cli.run(main, get_parser)"
    out = scripts(a=("gpu", end), b=("gpu", end), c=("gpu", end), d=("none", end))
    side_by_side = [sum(STAGES["made"](None, None), [])]
    monkeypatch.setitem(STAGES, "made", lambda dataset, args: side_by_side)
    run_script(pipeline, "--dataset", "CC2017", "--out_root", out, "--workers", 4)
    said = [json.loads((out / f"CC2017/logs/sub1/{name}/step1_same.log").read_text()) for name in "abcd"]
    (a, b, c, d) = [(gpu, forked) for *_, gpu, forked in said]
    assert {a, b} == {("0", not lost), ("3", not lost)} and c in {a, b} and d == (None, not lost)
    end_of = {gpu: ended for _, ended, gpu, _ in said[:2]}
    assert said[2][0] > end_of[c[0]] and said[3][0] < min(end_of.values())


def test_a_gpu_is_counted_without_losing_it():
    """What the pipeline imports asks whether there is a GPU, which NVML can answer; `named` are those of CUDA_VISIBLE_DEVICES."""
    code = "from jobs import local; import os, torch; torch.cuda.device_count = lambda: 2; print(os.environ[{!r}], *local.gpus_here())"
    for named, found in ((None, "1 0 1"), ("5,7,9", "1 5 7")):
        environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"} | (
            {"CUDA_VISIBLE_DEVICES": named} if named else {}
        )
        words = [sys.executable, "-c", code.format("PYTORCH_NVML_BASED_CUDA_CHECK")]
        assert subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True).stdout.split() == found.split()


@pytest.mark.parametrize(
    "end, words",
    [
        (
            "from common.files import UserError; print('working'); raise UserError('x.npy is not there; make it')",
            "x.npy is not there; make it",
        ),
        ("raise ValueError('no such thing')", "ValueError: no such thing"),
        ("raise ValueError", "ValueError"),
        ("import os; os.kill(os.getpid(), 9)", "the process was ended by SIGKILL, probably for lack of memory"),
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
