"""A full disk: every script says so in one line, leaves nothing that looks whole, and goes on when there is room.

A limit on the size of files stands in for the disk. Each script of the tree is run on a phantom of 28 clips, with more
and more room until it ends well. One process, which has imported everything, forks a child per call.
"""

import json
import os
import resource
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import pytest
from test_house import SCRIPTS, relative

N_TRAIN, N_TEST, N_VOXELS = 8, 6, 30  # clips of a run; vertices that are kept
LIMITS = (16, 100_001)  # bytes a file may have; then all that are wanted
SLOW = ("drawn projection", "any map")  # figures of the cortex: the first limit alone
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
        "closeness": ("Evaluation_Metrics/closeness.py", *OUT, "--device", "cpu"),
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


# ---------------------------------------------------------------------------------------------- the process of the calls


def set_up():
    """Import what is heavy, once, and put the small phantom in the registry."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from common import datasets

    torch.set_num_threads(1)
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
    import numpy as np

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


def call(job, root, limit=None):
    """Run a job on a tree in a forked child, under a limit on the size of files -> (exit status, what it said)."""
    import logging

    from tiny import load_script

    from common import cli

    places = {"DATA": root / "data", "OUT": root / "out", "EXTRAS": root / "extras"}
    script, *argv = JOBS[job]
    for name, place in places.items():
        argv = [word.replace(name, str(place), 1) if word.startswith(name) else word for word in argv]
    module = load_script(script)
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
    with os.fdopen(reading, errors="replace") as pipe:
        text = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


# ---------------------------------------------------------------------------------------------- the chain


def files_of(root):
    return {path for path in root.rglob("*") if path.is_file() and ".partial-" not in path.as_posix()}


def stamps(paths):
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_size) for path in paths}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with what the phantom lacks, and the process that runs jobs there."""
    root = tmp_path_factory.mktemp("world")
    (root / "extras").mkdir()
    with ProcessPoolExecutor(1, get_context("spawn"), set_up) as process:
        process.submit(make_extras, root / "extras").result()
        yield root, process


def test_every_script_is_here():
    ours = ("benchmarks/", "examples/", "Feature_decoding/make_synonym_table")  # for whoever works on the project
    scripts = {name for name in map(relative, SCRIPTS) if not name.startswith(ours)}
    assert scripts == {script for script, *_ in JOBS.values()} | WRITES_NOTHING | NOT_HERE


@pytest.mark.parametrize("job", list(JOBS))
def test_room_grows_until_it_is_enough(job, world):
    root, process = world
    before = stamps(files_of(root))
    contents = {path: path.read_bytes() for path in before if path.suffix == ".json"}
    failures = 0
    for limit in LIMITS[:1] if job in SLOW else LIMITS:
        status, text = process.submit(call, job, root, limit).result()
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
    status, text = process.submit(call, job, root).result()
    assert status == 0, text[-3000:]
    assert files_of(root) - before.keys() and not list(root.rglob(".partial-*"))
