"""Stages of the chain: which scripts each of them calls, with which flags of its own."""

import importlib
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from common.cortex import N_CORTEX
from common.files import UserError, load_array
from common.layout import Layout, reconstruction_name
from Retrieval.galleries import METHODS

EXTRACTIONS = ("content_feature_extraction", "contrastive_target_extraction", "semantic_feature_extraction")
PROJECTED = ("semantic", "structure", "CMG")  # decoders whose weights are projected onto the cortex
DECODERS = ("train_CMG", "train_structure_decoder", "train_semantic_decoder")  # the longest first
ABLATIONS = ("semantic", "structure", "motion")


@dataclass
class Task:
    """One call of a script."""

    stage: str
    script: str  # path below the project
    flags: list = field(default_factory=list)  # that this call sets itself
    alone: bool = False  # whether the script uses all cores
    profile: bool = True  # whether it takes a config file and the flags that are not the pipeline's own

    @property
    def name(self):
        """Script and flags, such as 'Feature_decoding/train_CMG arm full': no two calls have the same."""
        return " ".join([self.script.removesuffix(".py"), *(str(flag).lstrip("-") for flag in self.flags)])

    @property
    def module(self):
        return importlib.import_module(self.script.removesuffix(".py").replace("/", "."))

    @cached_property
    def options(self):
        """Flags that the script knows, {option: argparse action}."""
        return {option: action for action in self.module.get_parser()._actions for option in action.option_strings}


def phantom_stage(dataset, args):
    return [[Task("phantom", script, alone=True)] for script in dataset.making]


def preprocess_stage(dataset, args):
    return [[Task("preprocess", script, alone=True)] for script in dataset.preparation]


def extract_stage(dataset, args):
    return [[Task("extract", f"Feature_extraction/{script}.py") for script in EXTRACTIONS]]


def train_stage(dataset, args):
    tasks = [Task("train", f"Feature_decoding/{script}.py", ["--arm", arm]) for script in DECODERS for arm in args.arms]
    searched = retrieval_flags(args) if "retrieve" in named_stages(args) or "retrieve" not in dataset.left_out else []
    return [tasks + [Task("train", "Retrieval/train_retrieval_decoder.py", flags) for flags in searched]]


def retrieval_flags(args):
    """Flags of the retrieval decoders: the arms but the oracle, and the paper's baselines."""
    arms = [["--arm", arm] for arm in args.arms if arm != "oracle"]
    return arms + [["--arm", "full", "--method", method] for method in METHODS if method != "contrastive" and "full" in args.arms]


def ablations(args):
    """What is left out of the arm full's reconstructions, list of a part or None for nothing."""
    return [None if name == "none" else name for name in args.ablate or ("none", "motion")]


def reconstruct_stage(dataset, args):
    script = "Reconstruction/video_recons.py"
    tasks = [Task("reconstruct", script, ["--arm", arm]) for arm in args.arms if None in ablations(args)]
    if "full" in args.arms:
        tasks += [Task("reconstruct", script, ["--arm", "full", "--ablate", part]) for part in ablations(args) if part]
    if "oracle" in args.arms:  # the paper's stage 2 on two clips, shown without a bar
        recipe = ["--arm", "oracle", "--clips", "1-2", "--batch_size", "2", "--visibility", "causal", "--channels_last"]
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
    drawn = [
        Task("explain", f"{folder}/step2_draw_cortex.py", ["--names", *PROJECTED, "semantic_rms"]),
        Task("explain", f"{folder}/step3_roi_ranking.py"),
    ]
    waves = [[Task("explain", f"{folder}/step1_weight_projection.py", flags) for flags in maps], drawn]
    compared = {None, "motion"} <= set(ablations(args))
    if compared and (args.vifi_path or dataset.models.get("vifi")):  # the tests choose their clips by VIFI-score
        scripts = [f"Explainable_analysis/shuffle_test/{name}.py" for name in ("shuffle_for_EPE", "shuffle_for_CLIP_pcc", "draw_picture")]
        waves += [[Task("explain", script, alone=True)] for script in scripts]
    return waves


def evaluate_stage(dataset, args):
    """Scores of every arm, and of the ablations that were asked for by name; and the metrics of other fields that a data set's checks ask for."""
    names = [reconstruction_name(arm, seed=args.seed) for arm in args.arms if None in ablations(args)]
    if args.ablate and "full" in args.arms:
        names += [reconstruction_name("full", part, args.seed) for part in ablations(args) if part]
    baselines = ["all", *["none"] * (len(names) - 1)]
    script = "Evaluation_Metrics/evaluate.py"
    flags = [["--name", name, "--baselines", which] for name, which in zip(names, baselines, strict=False)]
    if dataset.checks and names:
        flags.append(["--name", names[0], "--baselines", "none", "--protocol", "correct"])
    tasks = [Task("evaluate", script, given, alone=True) for given in flags]
    if dataset.checks and set(args.arms) >= {"oracle", "full", "control"}:  # in this order, each is compared with the next
        scored = [reconstruction_name(arm, seed=args.seed) for arm in ("oracle", "full", "control")]
        tasks.append(Task("evaluate", "Evaluation_Metrics/brain_score.py", ["--names", *scored], alone=True))
    return [tasks]


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
SEEDLESS = ("phantom", "preprocess", "extract")  # stages whose results are the same for all training seeds
ONE_SEED = (*SEEDLESS, "explain")
LISTED = {"phantom": "making", "preprocess": "preparation"}  # stages that are offered where a data set's entry lists their scripts


def named_stages(args):
    """Names that --stages has, separated by commas or spaces, list of str."""
    return re.findall(r"[^\s,]+", " ".join(args.stages))


def knows_vertices(dataset, args):
    """Whether it is known which vertices of the cortex a data set's voxels are: from its series, the flag --vertices, or the masks."""
    if dataset.on_cortex or any(word.partition("=")[0] == "--vertices" for word in args.others):
        return True
    masks = [Layout.of(args).mask(subject) for subject in args.subj_ID]
    return all(mask.is_file() and load_array(mask, finite=False, mmap=True).shape == (N_CORTEX,) for mask in masks)


def choose_stages(dataset, args):
    """Names of the stages that --stages asks for, in running order."""
    offered = [name for name in STAGES if name not in LISTED or getattr(dataset, LISTED[name])]
    named, vertices = named_stages(args), knows_vertices(dataset, args)
    chosen = named if named != ["all"] else [name for name in offered if name not in dataset.left_out and (vertices or name != "explain")]
    for name in chosen or [""]:
        if name not in offered:
            raise UserError(f"--stages: there is no stage {name!r} for {dataset.name}; choose from {', '.join(offered)}")
    if "explain" in chosen and not vertices:
        raise UserError(
            f"--stages explain draws on the cortex, and which vertices the voxels of {dataset.name} are is not known; "
            "leave it out, or give --vertices to the stage preprocess (docs/own_data.md)"
        )
    return [name for name in offered if name in chosen]
