"""Run the whole chain, or some of its stages, in order.

Each stage calls the mains of its scripts with the flags that they know; what is done is skipped, the first failure
stops the chain with the script's own message. Scripts that don't depend on each other run at the same time.

    python run_pipeline.py --dataset phantom --data_root data --out_root outputs
    python run_pipeline.py --dataset CC2017 --data_root DATA --sd_path stable-diffusion-v1-5/stable-diffusion-v1-5 --subj_ID 1
    python run_pipeline.py --dataset phantom --stages report

Writes   {out_root}/{dataset}/logs/*.log, timings.json and report.html, besides what the scripts write.
"""

import contextlib
import errno
import importlib.util
import logging
import os
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from common import cli
from common.datasets import OwnDataset, get_dataset
from common.files import UserError, full_disk, read_json, write_json
from common.layout import Layout
from common.layout import reconstruction_name

ARMS = ("full", "control", "oracle")  # the last two on the phantom only
FULL_DISK = 28  # exit status of a script whose log the disk has no room for
DECODERS = ("train_semantic_decoder", "train_structure_decoder", "train_CMG")


@dataclass
class Task:
    """One call of a script's main.

    alone : the script itself uses all cores
    profile : the pipeline's --config is for it too
    """

    stage: str
    script: str  # path below the project
    flags: list = field(default_factory=list)
    alone: bool = False
    profile: bool = True

    @property
    def name(self):
        words = [str(flag).lstrip("-") for flag in self.flags if not str(flag).endswith((".yaml", ".json"))]
        return " ".join([Path(self.script).stem, *words])


# ---------------------------------------------------------------------------------------------- the stages


def phantom_stage(args):
    return [
        [Task("phantom", "Data_preprocess/Phantom/step1_make_stimuli.py", alone=True)],
        [Task("phantom", "Data_preprocess/Phantom/step2_make_fmri.py", alone=True)],
    ]


def preprocess_stage(args):
    first, last = "CC2017/step1_cut_video_clips", "CC2017/step4_fMRI_preparation"
    if isinstance(get_dataset(args.dataset), OwnDataset):
        first, last = "Own/step1_cut_event_clips", "Own/step4_convert_event_fMRI"
    steps = (first, "CC2017/step2_get_video_frames", "CC2017/step3_video_captioning", last)
    return [[Task("preprocess", f"Data_preprocess/{step}.py", alone=True)] for step in steps]


def extract_stage(args):
    scripts = ("content_feature_extraction", "contrastive_target_extraction", "semantic_feature_extraction")
    return [[Task("extract", f"Feature_extraction/{script}.py") for script in scripts]]


def train_stage(args):
    return [[Task("train", f"Feature_decoding/{script}.py", ["--arm", arm]) for script in reversed(DECODERS) for arm in args.arms]]


def reconstruct_stage(args):
    script = "Reconstruction/video_recons.py"
    tasks = [Task("reconstruct", script, ["--arm", arm]) for arm in args.arms]
    if "full" in args.arms:
        tasks.append(Task("reconstruct", script, ["--arm", "full", "--ablate", "motion"]))
    if "oracle" in args.arms:  # the paper's stage 2 on a few clips, shown without a bar
        recipe = ["--arm", "oracle", "--clips", "1-8", "--batch_size", "8", "--visibility", "causal"]
        tasks.append(Task("reconstruct", script, [*recipe, "--name", "released_recipe"], profile=False))
        tasks.append(Task("reconstruct", script, [*recipe, "--name", "released_recipe_still", "--ablate", "motion"], profile=False))
    return [tasks]


def evaluate_stage(args):
    return [
        [
            Task(
                "evaluate",
                "Evaluation_Metrics/evaluate.py",
                ["--name", reconstruction_name(arm, seed=args.seed), "--baselines", "all" if arm == args.arms[0] else "none"],
                alone=True,
            )
            for arm in args.arms
        ]
    ]


def report_stage(args):
    if get_dataset(args.dataset).is_phantom:
        return [[Task("report", "phantom/phantom_checks.py")]]
    return []


STAGES = {
    "phantom": phantom_stage,
    "preprocess": preprocess_stage,
    "extract": extract_stage,
    "train": train_stage,
    "reconstruct": reconstruct_stage,
    "evaluate": evaluate_stage,
    "report": report_stage,
}


# ---------------------------------------------------------------------------------------------- running scripts


def load_script(path):
    """Import a script by its path below the project."""
    name = Path(path).stem
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, cli.PROJECT / path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def command_line(task, args):
    """Flags for a task: those of the pipeline that the script knows, then its own."""
    known = {option for action in load_script(task.script).get_parser()._actions for option in action.option_strings}
    flags = []
    for name in PASSED_ON:
        value = getattr(args, name)
        if (
            f"--{name}" not in known
            or value is None
            or value is False
            or f"--{name}" in task.flags
            or (name == "config" and not task.profile)
        ):
            continue
        flags += [f"--{name}"] if value is True else [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return flags + [str(flag) for flag in task.flags]


PASSED_ON = ("config", "dataset", "data_root", "out_root", "subj_ID", "seed", "device", "sd_path", "clip_path", "overwrite", "debug")


def start(task, argv, log_path, one_thread):
    """Run a script's main in a child process; its output goes to a log file. Returns the process number."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    module = load_script(task.script)
    sys.stdout.flush()
    pid = os.fork()  # everything heavy is already imported here, so that a child starts at once
    if pid:
        return pid
    status = 1
    try:
        handle = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        logging.basicConfig(level=logging.INFO, format="%(message)s", force=True, stream=sys.stderr)
        if one_thread:
            threadpool_limits(1)
        cli.run(module.main, module.get_parser, argv)
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException as error:
        import traceback

        status = FULL_DISK if full_disk(error) else 1
        with contextlib.suppress(OSError):
            traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            status = FULL_DISK
        finally:
            os._exit(status)


def last_line(log_path):
    """What a running script last said, progress bars included."""
    text = log_path.read_text(errors="replace") if log_path.exists() else ""
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).replace("\r", "\n").split("\n") if line.strip()]
    return lines[-1].strip() if lines else ""


def run_wave(tasks, args, logs, timings, bar):
    """Run tasks side by side, at most --workers at once; stop all at the first failure."""
    waiting, running = list(tasks), {}
    try:
        while waiting or running:
            limit = 1 if any(task.alone for task in tasks) else args.workers
            while waiting and len(running) < limit:
                task = waiting.pop(0)
                argv = command_line(task, args)
                log_path = logs / f"{task.stage}_{task.name.replace(' ', '_').replace('/', '_')}.log"
                running[start(task, argv, log_path, one_thread=limit > 1)] = (task, log_path, time.time())
            bar.set_postfix_str(" | ".join(f"{task.name}: {last_line(log)[-60:]}" for task, log, _ in running.values()))
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if not pid:
                time.sleep(0.2)
                continue
            task, log_path, began = running.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if code == FULL_DISK:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(log_path))
            if code:
                raise UserError(
                    task.script,
                    "exit status 0",
                    f"{code} from '{task.name}', whose last words were: {last_line(log_path)}",
                    f"see {log_path}",
                )
            if "already done" not in log_path.read_text(errors="replace") or task.name not in timings:
                timings[task.name] = {
                    "stage": task.stage,
                    "seconds": round(time.time() - began, 1),
                    "core_seconds": round(usage.ru_utime + usage.ru_stime, 1),
                    "peak_GB": round(usage.ru_maxrss / 1e6, 2),
                }
                write_json(logs.parent / "timings.json", timings)
            bar.update()
    finally:
        for pid in running:
            os.kill(pid, 15)
        for pid in running:
            os.waitpid(pid, 0)


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, subject=True, device=True)
    group = parser.add_argument_group("chain")
    group.add_argument("--stages", default="all", help=f"all, or some of {','.join(STAGES)}, separated by commas")
    group.add_argument("--workers", type=cli.one_or_more, default=os.cpu_count(), help="scripts that run at the same time, each on one core")
    group.add_argument("--arms", nargs="+", choices=ARMS, help="training arms (default: all three on the phantom, else full)")
    group = parser.add_argument_group("model")
    group.add_argument("--sd_path", help="Stable Diffusion, hub id or folder")
    group.add_argument("--clip_path", help="CLIP, open_clip name or folder")
    return parser


def choose_stages(args):
    dataset = get_dataset(args.dataset)
    offered = [name for name in STAGES if name != "phantom" or dataset.is_phantom]
    chosen = offered if args.stages == "all" else args.stages.split(",")
    for name in chosen:
        if name not in offered:
            raise UserError("--stages", f"some of {','.join(offered)}", repr(name), "choose among these")
    return [name for name in offered if name in chosen]


def main(args):
    dataset = get_dataset(args.dataset)
    dataset.check_subject(args.subj_ID)
    args.arms = args.arms or (list(ARMS) if dataset.is_phantom else ["full"])
    if dataset.is_phantom and args.config is None:
        args.config = cli.PROJECT / "configs" / "phantom.yaml"
    stages = choose_stages(args)
    os.environ["TQDM_MININTERVAL"] = "1"  # the scripts' bars go to log files
    waves = [wave for stage in stages for wave in STAGES[stage](args)]
    layout = Layout.of(args)
    timings = read_json(layout.root / "timings.json") if (layout.root / "timings.json").exists() else {}
    for task in (task for wave in waves for task in wave):
        load_script(task.script)
    began = time.time()
    with tqdm(total=sum(map(len, waves)), unit="script", desc=args.dataset) as bar:
        for wave in waves:
            run_wave(wave, args, layout.root / "logs", timings, bar)
        bar.set_postfix_str("")
    if "report" in stages:
        from common.pages.report import build_report

        print(f"report: {build_report(layout, dataset, args, timings)}")
    print(f"{args.dataset}: stages {', '.join(stages)} done in {(time.time() - began) / 60:.1f} min")


if __name__ == "__main__":
    cli.run(main, get_parser)
