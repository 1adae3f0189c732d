"""Jobs of a run: every call of a script, for every participant and training seed, with its command line."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from common import cli
from common.files import UserError, missing
from common.model_sources import model_path
from Evaluation_Metrics.towers import HELP
from jobs.stages import ONE_SEED, SEEDLESS, STAGES, Task
from models.loading import check_sd

CLUSTER = ("cluster", "dry_run", "partition", "gpus", "time", "sbatch", "stages")
PLANNED = (*CLUSTER, "seeds", "ablate", "arms")  # flags of the pipeline that no script takes from it


@dataclass
class Job:
    """A call of a script with its command line."""

    task: Task
    subject: object  # participant that it is of; the first of all for what participants share
    seed: int
    argv: list
    shared: tuple = (False, False)  # whether it is for all participants, and for all seeds
    mark: str = ""  # what its name says besides the task's: the seed, where there are several

    @property
    def name(self):
        return self.task.name + self.mark

    @property
    def log(self):
        """Path of the log below the folder of logs."""
        return Path(re.sub(r"[^\w/.-]", "_", self.name) + ".log")

    def needs(self, other):
        """Whether a job of an earlier wave comes before this one."""
        subject, seed = (mine or its for mine, its in zip(self.shared, other.shared, strict=True))
        return (subject or self.subject == other.subject) and (seed or self.seed == other.seed)


def make_plan(stages, dataset, args, actions):
    """Waves of jobs, list of lists; jobs of a wave do not depend on each other. `actions` are those of run_pipeline.py's parser."""
    seeds, waves = args.seeds or [args.seed], []
    for stage in stages:
        per_seed = []
        for seed in [args.seed if stage in SEEDLESS else seeds[0]] if stage in ONE_SEED else seeds:
            of_seed = argparse.Namespace(**vars(args) | {"seed": seed})
            per_seed.append([jobs_of(wave, of_seed, actions, len(seeds) > 1) for wave in STAGES[stage](dataset, of_seed)])
        waves += [[job for jobs in same for job in jobs] for same in zip(*per_seed, strict=True)]
    return [wave for wave in waves if wave]


def jobs_of(tasks, args, actions, several_seeds):
    """Jobs of one seed: of the first participant, and of the others where a script takes one of them."""
    jobs = []
    for task in tasks:
        for subject in args.subj_ID[:1] if not takes_one_subject(task) else args.subj_ID:
            others = [other for other in args.subj_ID if other != subject]
            of_subject = argparse.Namespace(**vars(args) | {"subj_ID": [subject, *others]})
            shared = (not takes_one_subject(task), task.stage in ONE_SEED)
            mark = f" seed {args.seed}" if several_seeds and not shared[1] else ""
            jobs.append(Job(task, subject, args.seed, command_line(task, of_subject, actions), shared, mark))
    return jobs


def takes_one_subject(task):
    """Whether a script works for one participant, so that it is called for each of them."""
    action = task.options.get("--subj_ID")
    return action is not None and action.nargs is None


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


def own_flags(task, args, actions, but=PLANNED):
    """Values of the pipeline's own flags, `but` some, for a script that knows them, list of words."""
    words, options = [], task.options
    for action in actions:
        option = next((option for option in action.option_strings if option in options), None)
        value = getattr(args, action.dest, None)
        if option in (None, *task.flags) or value in (None, False) or action.dest in but:
            continue
        if (action.dest == "workers" and not task.alone) or (action.dest == "config" and not task.profile):
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        words += [option, *map(str, values[:1] if options[option].nargs is None else values)]
    return words


def command_line(task, args, actions):
    """Flags for a script: the pipeline's own and the others that it knows, then those that this call sets, list of str."""
    others = given_flags(args.others) if task.profile else [("--config", ["--config", "none"])]
    known = [word for option, words in others if option in task.options and option not in task.flags for word in words]
    return own_flags(task, args, actions) + known + list(map(str, task.flags))


# ---------------------------------------------------------------------------------------------- checks before the first job


def check_flags(jobs, args, actions):
    """Parse every script's command line before the first is called; a UserError for a flag that none of them takes."""
    for option, _ in given_flags(args.others):
        if option in ("--roi", "--without_roi"):
            if {job.task.stage for job in jobs} - {"train", "reconstruct", "retrieve"}:
                raise UserError(f"{option} goes to decoders, give --stages train,reconstruct; score what they make with evaluate.py --name")
            if "oracle" in args.arms:
                raise UserError(f"{option} and the arm oracle, which has no areas: give --arms full control")
        if not any(job.task.profile and option in job.task.options and option not in job.task.flags for job in jobs):
            known = [option for job in jobs if job.task.profile for option in job.task.options]
            question = cli.meant(option, [*known, *(word for action in actions for word in action.option_strings)])
            raise UserError(f"no script of these stages takes {option} from the pipeline{question}; see --help of the scripts")
    for job in jobs:

        def get_script_parser(task=job.task):
            parser = task.module.get_parser()
            parser.prog = task.script
            return parser

        cli.parse(get_script_parser, job.argv, job.task.script.removesuffix(".py"))


def check_sweep(args):
    """A UserError for ablations of an arm that is not there; what is named twice is taken once."""
    for name in ("seeds", "ablate", "arms"):
        if getattr(args, name):
            setattr(args, name, list(dict.fromkeys(getattr(args, name))))
    if args.ablate and "full" not in args.arms:
        raise UserError(f"--ablate is of the arm full, and --arms has {', '.join(args.arms)} only; add full")


def check_inputs(stages, args):
    """A UserError for a folder of raw data or a model that is not at its path, or a Stable Diffusion whose parts do not fit."""
    if "preprocess" in stages and "phantom" not in stages and not Path(args.data_root).is_dir():
        raise missing(args.data_root, "check --data_root, or leave out the stage preprocess")
    for flag in ("sd_path", *HELP):
        source = (getattr(args, flag, None) or "").rpartition(":")[2]  # of open_clip's name:FILE, the file
        is_path = source.startswith(("/", ".", "~")) or Path(source).suffix in (".pth", ".pt", ".bin", ".safetensors", ".ckpt")
        if is_path and not Path(source).expanduser().exists():
            raise missing(source, f"check --{flag}")
    source = model_path(args, "sd")
    if source and Path(source).is_dir() and {"extract", "reconstruct"} & set(stages):
        check_sd(source)
