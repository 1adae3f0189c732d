"""Run the whole chain, or some of its stages, in order, for one participant or for several.

Each stage calls its scripts with the flags that they know, the pipeline's own and any others that are given here; what
is done is skipped, and the first failure stops the chain with the script's own message. Scripts that don't depend on
each other run at the same time.

Writes   {out_root}/{dataset}/report.html, report_sub{ID}.html, timings_sub{ID}.json and logs/sub{ID}/**/*.log, besides
         what the scripts write

    python run_pipeline.py --dataset phantom --data_root data --out_root outputs
    python run_pipeline.py --dataset CC2017 --data_root DATA --subj_ID 1 2 3 --vifi_path k400_seed1_vifi_clip_base2novel.pth \\
        --image_classifier google/vit-base-patch16-224 --clip_classifier MCG-NJU/videomae-base-finetuned-kinetics
    python run_pipeline.py --dataset phantom --epoch 10 --out_root outputs_short
    python run_pipeline.py --dataset phantom --stages report
"""

import contextlib
import errno
import importlib
import logging
import os
import re
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from common import cli
from common.arms import ARMS
from common.datasets import get_dataset
from common.files import UserError, full_disk, read_json, write_json
from common.layout import Layout, reconstruction_name
from common.workers import n_cores
from Evaluation_Metrics.report import build_overview, build_report
from Evaluation_Metrics.towers import HELP, KINDS, Towers
from Retrieval.galleries import METHODS

FULL_DISK = 28  # exit status of a script whose log the disk has no room for
EXTRACTIONS = ("content_feature_extraction", "contrastive_target_extraction", "semantic_feature_extraction")
PROJECTED = ("semantic", "structure", "CMG")  # decoders whose weights are projected onto the cortex
DECODERS = ("train_CMG", "train_structure_decoder", "train_semantic_decoder")  # the longest first


@dataclass
class Task:
    """One call of a script.

    Attributes
    ----------
    stage : str
    script : str
        path below the project
    flags : list
        that this call sets itself
    alone : bool
        whether the script uses all cores
    profile : bool
        whether it takes a config file and the flags that are not the pipeline's own
    """

    stage: str
    script: str
    flags: list = field(default_factory=list)
    alone: bool = False
    profile: bool = True

    @property
    def name(self):
        """Script and flags, such as 'Feature_decoding/train_CMG arm full': no two calls have the same."""
        return " ".join([self.script.removesuffix(".py"), *(str(flag).lstrip("-") for flag in self.flags)])

    @property
    def log(self):
        """Path of the log below the folder of logs."""
        return Path(re.sub(r"[^\w/.-]", "_", self.name) + ".log")

    @property
    def module(self):
        return importlib.import_module(self.script.removesuffix(".py").replace("/", "."))

    @property
    def options(self):
        """Flags that the script knows, {option: argparse action}."""
        return {option: action for action in self.module.get_parser()._actions for option in action.option_strings}


# ---------------------------------------------------------------------------------------------- the stages


def phantom_stage(dataset, args):
    return [[Task("phantom", script, alone=True)] for script in dataset.making]


def preprocess_stage(dataset, args):
    return [[Task("preprocess", script, alone=True)] for script in dataset.preparation]


def extract_stage(dataset, args):
    return [[Task("extract", f"Feature_extraction/{script}.py") for script in EXTRACTIONS]]


def train_stage(dataset, args):
    tasks = [Task("train", f"Feature_decoding/{script}.py", ["--arm", arm]) for script in DECODERS for arm in args.arms]
    searched = retrieval_flags(args) if "retrieve" in args.stages or "retrieve" not in dataset.left_out else []
    return [tasks + [Task("train", "Retrieval/train_retrieval_decoder.py", flags) for flags in searched]]


def retrieval_flags(args):
    """Flags of the retrieval decoders: the arms but the oracle, and the paper's baselines."""
    arms = [["--arm", arm] for arm in args.arms if arm != "oracle"]
    return arms + [["--arm", "full", "--method", method] for method in METHODS if method != "contrastive" and "full" in args.arms]


def reconstruct_stage(dataset, args):
    script = "Reconstruction/video_recons.py"
    tasks = [Task("reconstruct", script, ["--arm", arm]) for arm in args.arms]
    if "full" in args.arms:
        tasks.append(Task("reconstruct", script, ["--arm", "full", "--ablate", "motion"]))
    if "oracle" in args.arms:  # the paper's stage 2 on a few clips, shown without a bar
        recipe = ["--arm", "oracle", "--clips", "1-8", "--batch_size", "8", "--visibility", "causal"]
        tasks.append(Task("reconstruct", script, [*recipe, "--name", "released_recipe"], profile=False))
        tasks.append(Task("reconstruct", script, [*recipe, "--name", "released_recipe_still", "--ablate", "motion"], profile=False))
    return [tasks]


def retrieve_stage(dataset, args):
    if "full" not in args.arms:
        return []
    names = [word.partition(":")[0] for word in dataset.distractors]
    there = [name == dataset.name or Layout(Path(args.out_root) / name).features.is_dir() for name in names]
    scripts = ["small_set", *["Large_set"] * (bool(names) and all(there))]
    searches = [(script, ["--method", method]) for script in scripts for method in METHODS]
    searches.append(("small_set", ["--target", "image"]))
    return [[Task("retrieve", f"Retrieval/{script}.py", ["--arm", "full", *flags]) for script, flags in searches]]


def explain_stage(dataset, args):
    if "full" not in args.arms:
        return []
    folder, arms = "Explainable_analysis/Cortical_visualization", [[]] + [["--control"]] * ("control" in args.arms)
    maps = [["--decoder", decoder, "--map", kind, *arm] for decoder in PROJECTED for kind in ("released", "rms") for arm in arms]
    drawn = [Task("explain", f"{folder}/step2_draw_cortex.py", ["--names", *PROJECTED]), Task("explain", f"{folder}/step3_roi_ranking.py")]
    waves = [[Task("explain", f"{folder}/step1_weight_projection.py", flags) for flags in maps], drawn]
    if args.vifi_path or dataset.models.get("vifi"):  # the tests choose their clips by VIFI-score
        scripts = [f"Explainable_analysis/shuffle_test/{name}.py" for name in ("shuffle_for_EPE", "shuffle_for_CLIP_pcc", "draw_picture")]
        waves += [[Task("explain", script, alone=True)] for script in scripts]
    return waves


def evaluate_stage(dataset, args):
    def task(arm):
        baselines = "all" if arm == args.arms[0] else "none"
        flags = ["--name", reconstruction_name(arm, seed=args.seed), "--baselines", baselines]
        return Task("evaluate", "Evaluation_Metrics/evaluate.py", flags, alone=True)

    return [[task(arm) for arm in args.arms]]


def report_stage(dataset, args):
    return [[Task("report", script)] for script in dataset.checks]


STAGES = {
    "phantom": phantom_stage,
    "preprocess": preprocess_stage,
    "extract": extract_stage,
    "train": train_stage,
    "reconstruct": reconstruct_stage,
    "retrieve": retrieve_stage,
    "evaluate": evaluate_stage,
    "explain": explain_stage,
    "report": report_stage,
}
LISTED = {"phantom": "making", "preprocess": "preparation"}  # stages that are offered where a data set's entry lists their scripts


def choose_stages(dataset, text):
    """Names of the stages that --stages asks for, in running order."""
    offered = [name for name in STAGES if name not in LISTED or getattr(dataset, LISTED[name])]
    chosen = [name for name in offered if name not in dataset.left_out] if text == "all" else text.split(",")
    for name in chosen:
        if name not in offered:
            raise UserError(f"--stages: there is no stage {name!r} for {dataset.name}; choose from {', '.join(offered)}")
    return [name for name in offered if name in chosen]


# ---------------------------------------------------------------------------------------------- command lines


def given_flags(words):
    """Flags that the pipeline does not know itself, list of (option, [words])."""
    flags = []
    for word in words:
        if word.startswith("--"):
            option, equals, _ = word.partition("=")
            flags.append((option, [word] if equals else [option]))
        elif flags:
            flags[-1][1].append(word)
        else:
            raise UserError(f"{word!r} belongs to no flag; see run_pipeline.py --help")
    return flags


def own_flags(task, args):
    """Values of the pipeline's own flags for a script that knows them, list of words."""
    words, options = [], task.options
    for action in get_parser()._actions:
        option = next((option for option in action.option_strings if option in options), None)
        value = getattr(args, action.dest, None)
        if option in (None, *task.flags) or value in (None, False):
            continue
        if (action.dest == "workers" and not task.alone) or (action.dest == "config" and not task.profile):
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        words += [option, *map(str, values[:1] if options[option].nargs is None else values)]
    return words


def command_line(task, args):
    """Flags for a script: the pipeline's own and the others that it knows, then those that this call sets, list of str."""
    others = given_flags(args.others) if task.profile else [("--config", ["--config", "none"])]
    known = [word for option, words in others if option in task.options and option not in task.flags for word in words]
    return own_flags(task, args) + known + list(map(str, task.flags))


def check_flags(tasks, args):
    """Parse every script's command line before the first is called; a UserError for a flag that none of them takes."""
    for option, _ in given_flags(args.others):
        if not any(task.profile and option in task.options and option not in task.flags for task in tasks):
            raise UserError(f"no script of these stages takes {option} from the pipeline; see --help of the scripts")
    for task in tasks:

        def get_script_parser(task=task):
            parser = task.module.get_parser()
            parser.prog = task.script
            return parser

        cli.parse(get_script_parser, command_line(task, args), task.script.removesuffix(".py"))


def takes_one_subject(task):
    """Whether a script works for one participant, so that it is called for each of them."""
    action = task.options.get("--subj_ID")
    return action is not None and action.nargs is None


# ---------------------------------------------------------------------------------------------- running scripts


def start(task, argv, log_path, one_thread):
    """Run a script's main in a child process; its output goes to a log file. Returns the process number."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    module = task.module
    sys.stdout.flush()
    pid = os.fork()  # everything heavy is already imported here, so that a child starts at once
    if pid:
        return pid
    status = 1
    try:
        handle = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = (open(n, "w", buffering=1, encoding="utf-8", closefd=False) for n in (1, 2))
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


def said_lines(log_path):
    """Lines of a log, progress bars included, list of str."""
    text = log_path.read_text(errors="replace") if log_path.exists() else ""
    lines = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).replace("\r", "\n").split("\n")
    return [line.strip() for line in lines if line.strip()]


def failure(task, code, log_path):
    """The error of a script that failed, as a UserError of one sentence."""
    lines = said_lines(log_path) or ["it said nothing"]
    words = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), lines[-1])
    if code < 0:
        words = f"the process was ended by {signal.Signals(-code).name}"
    return UserError(f"{Path(task.script).stem} failed: {words} (log: {log_path})")


def run_wave(tasks, args, layout, timings, bar):
    """Run tasks side by side, at most --workers at once; stop all at the first failure."""
    waiting, running = list(tasks), {}
    limit = 1 if any(task.alone for task in tasks) else args.workers
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                task = waiting.pop(0)
                log_path = layout.logs(args.subj_ID[0]) / task.log
                running[start(task, command_line(task, args), log_path, one_thread=limit > 1)] = (task, log_path, time.time())
            shown = [f"{Path(task.script).stem}: {''.join(said_lines(log_path)[-1:])[-60:]}" for task, log_path, _ in running.values()]
            bar.set_postfix_str(" | ".join(shown), refresh=sys.stderr.isatty())
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if not pid:
                time.sleep(0.2)
                continue
            task, log_path, began = running.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if code == FULL_DISK:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(log_path))
            if code:
                raise failure(task, code, log_path)
            if task.name not in timings or not any("already done" in line for line in said_lines(log_path)):
                timings[task.name] = {
                    "stage": task.stage,
                    "seconds": round(time.time() - began, 1),
                    "core_seconds": round(usage.ru_utime + usage.ru_stime, 1),
                    "peak_GB": round(usage.ru_maxrss / 1e6, 2),
                }
                write_json(layout.timings(args.subj_ID[0]), timings)
            bar.update()
    finally:
        for act in (lambda pid: os.kill(pid, signal.SIGTERM), lambda pid: os.waitpid(pid, 0)):
            list(map(act, running))


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, subject="several", device=True)
    group = parser.add_argument_group("chain")
    stages = ",".join(STAGES)
    group.add_argument(
        "--stages", default="all", changes_result=False, help=f"stages to run: all, or some of {stages}, separated by commas"
    )
    group.add_argument(
        "--workers", type=cli.processes, default=n_cores(), changes_result=False,
        help="scripts that run at the same time, one core each; processes of a script that runs alone",
    )  # fmt: skip
    group.add_argument("--arms", nargs="+", choices=list(ARMS), help="training arms (default: the data set's)")
    group = parser.add_argument_group("models")
    group.add_argument("--sd_path", metavar="SOURCE", help="Stable Diffusion, hub id or folder; default: the data set's")
    for flag, what in HELP.items():
        group.add_argument(f"--{flag}", metavar="SOURCE", help=f"{what}; default: the data set's own, if it comes with one")
    parser.set_defaults(others=[])  # flags of the scripts
    return parser


def run_subject(waves, args, layout, first):
    """Run what the first of --subj_ID needs, and what participants share if it is the first of all. Returns its timings."""
    path = layout.timings(args.subj_ID[0])
    timings = read_json(path, {...: {"stage": str, "seconds": (float, int)}}, "delete it, which loses no results") if path.exists() else {}
    waves = [[task for task in wave if first or takes_one_subject(task)] for wave in waves]
    with tqdm(total=sum(map(len, waves)), unit="script", desc=f"{args.dataset} {args.subj_ID[0]}") as bar:
        for wave in waves:
            run_wave(wave, args, layout, timings, bar)
        bar.set_postfix_str("")
    return timings


def main(args):
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    args.arms = args.arms or list(dataset.arms)
    stages = choose_stages(dataset, args.stages)
    waves = [wave for stage in stages for wave in STAGES[stage](dataset, args)]
    check_flags([task for wave in waves for task in wave], args)
    if "evaluate" in stages and (absent := [f"--{KINDS[kind][0]}" for kind in KINDS if kind not in Towers.of(args)]):
        print(f"metrics that need {', '.join(absent)} will be dashes")
    began, subjects = time.time(), args.subj_ID
    for subject in subjects:
        # scripts that take one participant get the first of the list
        args.subj_ID = [subject, *(other for other in subjects if other != subject)]
        timings = run_subject(waves, args, layout, first=subject == subjects[0])
        if "report" in stages:
            print(f"report: {build_report(layout, dataset, subject, args.seed, timings)}")
    if "report" in stages:
        print(f"overview: {build_overview(layout, dataset)}")
    print(f"{args.dataset}: stages {', '.join(stages)} done in {(time.time() - began) / 60:.1f} min")


if __name__ == "__main__":
    cli.run(main, get_parser)
