"""What happens to long runs: a full disk, a kill, too little memory. Scripts say so in one line, lose nothing, and go on.

Each script of the tree is run on a phantom of 28 clips in one process, which has imported everything and forks a child per
call: with a limit on the size of files, which stands in for the disk, until there is room; then killed at random moments,
3 times or as often as MINDANIMATOR_KILLS says, until it has made the same again.
"""

import hashlib
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import psutil
import pytest
from test_house import SCRIPTS, relative

N_TRAIN, N_TEST, N_VOXELS = 8, 6, 30  # clips of a run; vertices that are kept
LIMITS = (16, 100_001)  # bytes a file may have; then all that are wanted
EARLY = (  # the first limit alone: another call shows the same writing later on
    "models", "targets", "retrieval", "semantic_decoder", "CMG", "recons", "PSNR", "hue_pcc", "pix_corr", "closeness", "checks", "small_set",
    "shuffled CLIP-pcc", "drawn projection", "any map", "evaluate", "Phantom/step1_make_hcp_movies", "Phantom/step2_make_hcp_fmri",
    "Phantom/step1_make_algonauts_videos", "Phantom/step2_make_algonauts_fmri", "HCP/step1_cut_video_clips", "HCP/step2_get_video_frames",
    "HCP/step4_video_captioning", "HCP/step5_fMRI_preparation", "Algonauts2021/step1_cut_video_clips", "Algonauts2021/step2_get_video_frames",
    "Algonauts2021/step3_video_captioning", "Algonauts2021/step4_fMRI_preparation",
)  # fmt: skip
N_KILLS = int(os.environ.get("MINDANIMATOR_KILLS", 3))
KILLED = (  # a script of every stage; all of the chain's where there are more kills
    "stimuli", "clips", "preparation", "contents", "CMG", "recons", "evaluate", "small_set", "shuffled EPE",
)  # fmt: skip
CERTAIN = (".npy", ".npz", ".h5", ".mp4", ".gif", ".png", ".jpg", ".nii")  # files that are written once
RESULTS = (*CERTAIN, ".safetensors", ".csv", "")  # the same in every run; without ending: SHA256SUMS
GROWING = ("log.jsonl", "timings_sub1.json", "phantom_checks.log")  # from call to call
DATA, OUT = ("--data_root", "DATA"), ("--dataset", "phantom", "--out_root", "OUT")
TRAINING = (*OUT, *DATA, "--epoch", "2", "--batch_size", "8", "--n_val", "2", "--device", "cpu")
SCORING = (*OUT, "--workers", "1", "--clips", "1-3")
WRITES_NOTHING = {"Data_preprocess/check_data.py", "Evaluation_Metrics/bootstrap_with_wilcoxon.py"}
NOT_HERE = {  # more networks, runs, trainings or people than there are here
    f"{folder}.py" for folder in (
        "Evaluation_Metrics/feature_distance", "Evaluation_Metrics/lpips_distance", "Evaluation_Metrics/brain_score",
        "Evaluation_Metrics/preference", "Explainable_analysis/roi_accuracy",
    )
}  # fmt: skip
RECONS = (*OUT, *DATA, "--clips", "1-3", "--steps", "2", "--no_inversion", "--batch_size", "2", "--device", "cpu")


def jobs():
    """Every call of the chain in running order: {name: (script, command line)}."""
    steps = {
        "stimuli": ("Data_preprocess/Phantom/step1_make_stimuli.py", *DATA, "--workers", "2"),
        "fmri": ("Data_preprocess/Phantom/step2_make_fmri.py", *DATA, "--workers", "1"),
        "models": (
            "Data_preprocess/Phantom/step3_train_models.py", "--models", "clip", "--models_dir", "OUT/models", "--clip_steps", "1",
        ),
        "clips": ("Data_preprocess/CC2017/step1_cut_video_clips.py", *OUT, *DATA, "--workers", "2"),
        "frames": ("Data_preprocess/CC2017/step2_get_video_frames.py", *OUT, *DATA, "--workers", "2"),
        "captions": ("Data_preprocess/CC2017/step3_video_captioning.py", *OUT, *DATA),
        "preparation": ("Data_preprocess/CC2017/step4_fMRI_preparation.py", *OUT, *DATA, "--workers", "1", "--no_figures"),
        "contents": ("Feature_extraction/content_feature_extraction.py", *OUT, "--batch_size", "8", "--device", "cpu"),
        "targets": ("Feature_extraction/contrastive_target_extraction.py", *OUT, "--device", "cpu"),
        "tokens": ("Feature_extraction/semantic_feature_extraction.py", *OUT, "--device", "cpu"),
        "retrieval": ("Retrieval/train_retrieval_decoder.py", *TRAINING, "--image_aug", "off"),
    }  # fmt: skip
    small = {"semantic_decoder": ("--image_aug", "off", "--projector_dims", "8", "8"), "structure_decoder": ("--hidden_dim", "32")}
    small["CMG"] = ("--attn_dim", "16", "--d_ff", "16", "--encoder_dim", "16")
    for name, flags in small.items():
        steps[name] = (f"Feature_decoding/train_{name}.py", *TRAINING, *flags)
    recons = "Reconstruction/video_recons.py"
    steps["recons"] = (recons, *RECONS, "--save_stage1")
    steps["recons, all formats"] = (recons, *RECONS, "--name", "formats", "--format", "gif", "npz", "png", "mp4")
    classifiers = ("--image_classifier", "EXTRAS/image_classifier", "--clip_classifier", "EXTRAS/clip_classifier")
    for name in ("SSIM", "PSNR", "hue_pcc", "EPE", "pix_corr", "motion_energy", "flow_direction", "dynamic_degree", "identification"):
        steps[name] = (f"Evaluation_Metrics/{name}.py", *SCORING)
    own = ("--dataset", "own", *DATA, "--out_root", "OUT", "--workers", "2")
    return steps | {
        "own clips": ("Data_preprocess/Own/step1_cut_event_clips.py", *own),
        "own fMRI": ("Data_preprocess/Own/step4_convert_event_fMRI.py", *own),
        "CLIP_consist": ("Evaluation_Metrics/CLIP_consist.py", *SCORING, "--no_threshold"),
        "VIFI_score": ("Evaluation_Metrics/VIFI_score.py", *SCORING, "--vifi_path", "EXTRAS/vifi.pth"),
        "n_way": ("Evaluation_Metrics/n_way.py", *SCORING, *classifiers),
        "evaluate": ("Evaluation_Metrics/evaluate.py", *SCORING, *classifiers),
        "temporal_consistency": ("Evaluation_Metrics/temporal_consistency.py", *SCORING),
        "closeness": ("Evaluation_Metrics/closeness.py", *OUT, *classifiers, "--device", "cpu"),
        "compare": ("Evaluation_Metrics/compare.py", *["OUT/phantom/metrics/sub1/full"] * 2, "--metrics", "SSIM"),
        "tables": ("Evaluation_Metrics/paper_tables.py", *OUT, "--names", "full"),
        "checks": ("phantom/phantom_checks.py", *OUT, *DATA),
        "converted": ("Reconstruction/convert_released.py", *OUT, "--released_root", "EXTRAS/released", "--token_dim", "5"),
        "report": ("run_pipeline.py", *OUT, *DATA, "--stages", "report"),
    }


def jobs_of_trees():
    """The same for the phantoms in the trees of HCP and Algonauts 2021: a script is (its name, flags beside the folders)."""
    steps = {
        "hcp": (
            "Phantom/step1_make_hcp_movies", "Phantom/step2_make_hcp_fmri", "HCP/step1_cut_video_clips", "HCP/step2_get_video_frames",
            "HCP/step3_center_crop", "HCP/step4_video_captioning", "HCP/step5_fMRI_preparation",
        ),
        "algonauts": (
            "Phantom/step1_make_algonauts_videos", "Phantom/step2_make_algonauts_fmri", "Algonauts2021/step1_cut_video_clips",
            "Algonauts2021/step2_get_video_frames", "Algonauts2021/step3_video_captioning", "Algonauts2021/step4_fMRI_preparation",
        ),
    }  # fmt: skip
    found = {}
    for tree, scripts in steps.items():
        for script in scripts:
            out = () if script.startswith("Phantom/") else ("--out_root", "OUT")
            figures = ("--no_figures",) if script == "HCP/step5_fMRI_preparation" else ()
            found[script] = (f"Data_preprocess/{script}.py", "--dataset", f"phantom-{tree}", *DATA, *out, *figures)
    return found


def jobs_of_explanation():
    """Retrieval and explanation of what the chain has made."""
    explain = "Explainable_analysis/"
    shuffle, cortex = f"{explain}shuffle_test/", f"{explain}Cortical_visualization/"
    few = (*OUT, "--clips", "1", "2", "3", "--device", "cpu")
    return {
        "small_set": ("Retrieval/small_set.py", *OUT, *DATA),
        "Large_set": ("Retrieval/Large_set.py", *OUT, *DATA, "--distractors", "OUT/phantom/features/Train_text_embeddings_CLIP_512.npy"),
        "shuffled EPE": (f"{shuffle}shuffle_for_EPE.py", *few),
        "shuffled CLIP-pcc": (f"{shuffle}shuffle_for_CLIP_pcc.py", *few),
        "shuffle figure": (f"{shuffle}draw_picture.py", *OUT),
        "projection": (f"{cortex}step1_weight_projection.py", *OUT, "--decoder", "structure"),
        "drawn projection": (f"{cortex}step2_draw_cortex.py", *OUT),
        "ranking": (f"{cortex}step3_roi_ranking.py", *OUT),
        "any map": (
            f"{cortex}plot_cortex.py", "OUT/phantom/explain/sub1/Cortical_visualization/structure/importance.npy", "--out", "OUT/map",
        ),
    }  # fmt: skip


JOBS = jobs() | jobs_of_explanation() | jobs_of_trees()
FURTHER = {"large": ("Feature_decoding/train_structure_decoder.py", *TRAINING, "--hidden_dim", "60000", "--model_dir", "OUT/large")}
FURTHER["sweep"] = (
    "run_pipeline.py", *OUT, *DATA, "--workers", "1", "--subj_ID", "1", "2", "--seeds", "43", "44", "--ablate", "none", "motion", "--arms",
    "full", "--stages", "phantom,preprocess,extract,train,reconstruct,evaluate,report", "--epoch", "1", "--clips", "1-3", "--steps", "2",
    "--no_inversion", "--image_aug", "off", "--projector_dims", "8", "8", "--hidden_dim", "32", "--attn_dim", "16", "--d_ff", "16",
    "--encoder_dim", "16", "--no_figures", "--n_val", "2", "--save_stage1",
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- the process of the calls


def set_up():
    """Import what is heavy, once, and put the small phantom in the registry."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import nilearn.plotting
    import torch

    from common import datasets

    torch.set_num_threads(1)
    for name in ("plot_surf_stat_map", "plot_surf_contours"):  # half a minute a figure, whose file is what counts here
        setattr(nilearn.plotting, name, lambda *_, **__: None)
    datasets.DATASETS["phantom"] = replace(
        datasets.PHANTOM, n_train_runs=2, clips_per_train_run=N_TRAIN, n_train=2 * N_TRAIN, n_test_runs=2, clips_per_test_run=N_TEST,
        n_test=2 * N_TEST, test_repetitions=2, n_vertices=N_VOXELS, config="",
    )  # fmt: skip
    excerpts = (((24, 72), (96, 120)), ((48, 96),), ((0, 24), (72, 120)), ((24, 96),))  # 3, 2, 3 and 3 clips
    trees = {"phantom-hcp": {"excerpts": excerpts, "n_train": 8, "n_test": 3, "run_volumes": (14, 12, 11, 10)}}
    for name, sizes in (trees | {"phantom-algonauts": {"n_train": 6, "n_test": 3}}).items():
        datasets.DATASETS[name] = replace(datasets.DATASETS[name], **sizes)
    datasets.DATASETS["own"] = datasets.OwnDataset(
        name="own", subjects=(1,), n_train=8, n_test=4, tr=1.0, fps=10, clip_frames=10, frame_indices=tuple(range(8)), middle_frame=4,
        frame_size=32, n_vertices=0, series="{run}.npy",
    )  # fmt: skip


def make_own_data(folder):
    """A data set of one's own: a film of 12 clips of 1 s and 400 voxels, 8 clips to train with shown twice."""
    from common.video import write_mp4

    rng = np.random.default_rng(0)
    write_mp4(folder / "film.mp4", rng.integers(0, 255, (120, 32, 32, 3), dtype=np.uint8), 10)
    rows = [("run,onset,split,film,start")]
    for run, clips in (("a", range(8)), ("b", range(8)), ("c", range(8, 12))):
        rows += [f"{run},{3 * i + 1},{'train' if clip < 8 else 'test'},film.mp4,{clip}" for i, clip in enumerate(clips)]
        np.save(folder / f"{run}.npy", rng.standard_normal((40, 400)))
    (folder / "events.csv").write_text("\n".join(rows) + "\n")


def make_extras(root):
    """A ViFi-CLIP, tiny classifiers, released checkpoints, a data set of one's own."""
    import torch
    from open_clip.model import CLIPVisionCfg, _build_vision_tower
    from test_checkpoints import write_released_tree
    from tiny import make_classifiers

    (root.parent / "data" / "own").mkdir(parents=True)
    make_own_data(root.parent / "data" / "own")
    write_released_tree(root / "released")
    tower = _build_vision_tower(24, CLIPVisionCfg(image_size=28, patch_size=14, width=128, layers=1, head_width=64), quick_gelu=True)
    torch.save({"model": {f"module.image_encoder.{name}": value for name, value in tower.state_dict().items()}}, root / "vifi.pth")
    make_classifiers(root)


def call(job, root, limit=None, kill=None, memory=None):
    """Run a job on a tree in a forked child -> (exit status, what it said, seconds).

    Parameters
    ----------
    limit : int, optional
        bytes that a file may have
    kill : (float, int), optional
        seconds after which it is sent a signal, and which
    memory : int, optional
        bytes that it may ask for beside what this process has
    """
    import logging

    from tiny import load_script

    from common import cli

    places = {"DATA": root / "data", "OUT": root / "out", "EXTRAS": root / "extras"}
    script, *argv = (JOBS | FURTHER)[job]
    for name, place in places.items():
        argv = [word.replace(name, str(place), 1) if word.startswith(name) else word for word in argv]
    module, began = load_script(script), time.time()
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            logging.root.handlers.clear()
            os.chdir(root)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            if memory is not None:
                resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + memory,) * 2)
            cli.run(module.main, module.get_parser, argv)
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        except BaseException:
            traceback.print_exc()
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)
    os.close(writing)
    clock = threading.Timer(kill[0], os.kill, (pid, kill[1])) if kill else None
    if clock:
        clock.start()
    with os.fdopen(reading, errors="replace") as pipe:
        text = pipe.read()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # its number stays its own until the clock has stopped
    if clock:
        clock.cancel()
        clock.join()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text, time.time() - began


# ---------------------------------------------------------------------------------------------- the chain


def files_of(root):
    return {path for path in root.rglob("*") if path.is_file() and ".partial-" not in path.as_posix()}


def stamps(paths):
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_size) for path in paths}


class World:
    """A folder with what the phantom lacks, and the process that runs jobs there."""

    def __init__(self, root, process):
        self.root, self.process = root, process
        self.made = {}  # job -> files that it made, seconds

    def call(self, job, root=None, **options):
        return self.process.submit(call, job, root or self.root, **options).result()

    def make(self, job):
        """Run the jobs up to this one that have not been -> (files that it made, seconds)."""
        for name in JOBS:
            if name not in self.made:
                self.finish(name, files_of(self.root))
            if name == job:
                return self.made[job]

    def finish(self, job, before):
        """Run a job to its end; `before` are the files that were there at its first start."""
        status, text, seconds = self.call(job)
        assert status == 0, text[-3000:]
        assert not list(self.root.rglob(".partial-*"))
        self.made[job] = (sorted(files_of(self.root) - before), seconds)
        assert self.made[job][0]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    (root / "extras").mkdir()
    with ProcessPoolExecutor(1, get_context("spawn"), set_up) as process:
        process.submit(make_extras, root / "extras").result()
        yield World(root, process)


def test_every_script_is_here():
    ours = ("benchmarks/", "examples/", "Feature_decoding/make_synonym_table")  # for whoever works on the project
    scripts = {name for name in map(relative, SCRIPTS) if not name.startswith(ours)}
    assert scripts == {script for script, *_ in JOBS.values()} | WRITES_NOTHING | NOT_HERE


@pytest.mark.parametrize("job", list(JOBS))
def test_room_grows_until_it_is_enough(job, world):
    root = world.root
    before = stamps(files_of(root))
    contents = {path: path.read_bytes() for path in before if path.suffix == ".json"}
    failures = 0
    for limit in LIMITS[:1] if job in EARLY else LIMITS:
        status, text, _ = world.call(job, limit=limit)
        if not status:
            break
        failures += 1
        # one line that names the file
        lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
        assert status == 2 and "Traceback" not in text, text[-3000:]
        assert lines[-1].startswith("error: ") and "free space" in lines[-1] and str(root) in lines[-1], text[-2000:]
        # nothing looks whole that is not: a file cut off by the limit has its size
        made = files_of(root) - before.keys()
        cut_off = [path for path in made if path.stat().st_size == limit and path.suffix != ".log"]
        assert not cut_off
        for path in made:
            if path.suffix == ".json":
                json.loads(path.read_text())
        # nothing is damaged
        after = stamps(before)
        touched = [path for path in before if after[path] != before[path] and path.name not in GROWING]
        assert not [path for path in touched if path.read_bytes() != contents.get(path)]
    assert failures
    world.finish(job, before.keys())


def sha256_of(paths, endings):
    """SHA-256 of the files with one of these endings, by path; not of a cache, whose names go by the time of its inputs."""
    paths = [path for path in paths if path.suffix in endings and path.exists() and "cache" not in path.parts]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.parametrize("job", KILLED if N_KILLS <= 3 else [job for job in JOBS if job not in EARLY or job in KILLED])
def test_a_killed_script_makes_the_same_again(job, world):
    made, seconds = world.make(job)
    kept = [path for path in made if "cache" not in path.parts]
    right, rng, killed, status = sha256_of(kept, RESULTS), np.random.default_rng(zlib.crc32(job.encode())), 0, 0
    for number in range(N_KILLS):
        if status == 0:
            for path in made:
                path.unlink(missing_ok=True)
        how = (signal.SIGKILL, signal.SIGTERM)[number % 2]
        status, text, lasted = world.call(job, kill=(rng.uniform(0, seconds), how))
        assert status in {signal.SIGKILL: (0, -9), signal.SIGTERM: (0, -15, 143)}[how], text[-3000:]
        assert status != 143 or text.splitlines()[-1] == "terminated; run the same command again to continue", text[-3000:]
        killed += status != 0
        seconds = min(seconds, lasted) if status == 0 else seconds
        certain = sha256_of(kept, CERTAIN)  # what bears its name is whole
        assert certain == {path: right[path] for path in certain}
    status, text, _ = world.call(job)
    assert status == 0, text[-3000:]
    assert sha256_of(kept, RESULTS) == right and all(path.exists() for path in kept)
    assert not list(world.root.rglob(".partial-*"))
    print(f"{job}: killed {killed} of {N_KILLS} times within {seconds:.1f} s")
    assert killed or seconds < 1


def test_too_little_memory_is_one_line(world):
    """A decoder of 14 GB where there are 2."""
    world.make("structure_decoder")
    before = stamps(files_of(world.root))
    status, text, _ = world.call("large", memory=2 * 2**30)
    line = text.splitlines()[-1]
    assert status == 2 and line.startswith("error: not enough memory (") and line.endswith("; use --batch_size 4 or --precision bf16"), text
    assert stamps(before) == before


@pytest.mark.skipif(N_KILLS <= 3, reason="four minutes of a core; MINDANIMATOR_KILLS=20 runs it")
def test_a_sweep_killed_in_the_middle_goes_on(world, tmp_path):
    """Two participants, seeds and ablations: killed with a job at work, which ends with the pipeline, then the same as undisturbed."""
    trees = tmp_path / "killed", tmp_path / "whole"
    for tree in trees:
        tree.mkdir()
    status, text, seconds = world.call("sweep", trees[1])
    assert status == 0, text[-3000:]
    for how, share in ((signal.SIGKILL, 0.4), (signal.SIGTERM, 0.1)):  # the rest of the work lasts longer, also at twice the speed
        status, text, _ = world.call("sweep", trees[0], kill=(share * seconds, how))
        assert status == (143 if how == signal.SIGTERM else -how), text[-3000:]
    status, text, _ = world.call("sweep", trees[0])
    assert status == 0, text[-3000:]
    killed, whole = ({path.relative_to(tree): digest for path, digest in sha256_of(files_of(tree), RESULTS).items()} for tree in trees)
    assert killed == whole and len(whole) > 100
    tables = [(tree / "out/phantom/sweep.csv").read_text() for tree in trees]
    assert tables[0] == tables[1] and tables[0].count("2 seeds") > 10
