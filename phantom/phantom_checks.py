"""Check what the chain decoded from the phantom against what was put in, each claim with its control.

Reads    {data_root}/phantom/phantom_truth.json, phantom_vertices_sub{ID}.json and the CIFTI series; mask, features,
         semantic checkpoints and reconstructions of the arms; metrics/sub{ID}/brain_score, retrieval/sub{ID}/small_set* and
         explain/sub{ID}, where they are
Writes   metrics/sub{ID}/phantom_checks/metrics.json   all checks; `held` is false where a bar is missed
                                       /{claim}.png     one figure a claim
         with _seed{n} after the folder's name where that is not the default

    python phantom/phantom_checks.py --data_root data

Claims that need an arm which was not run are left out. About a minute. Nothing here is a result about brains.
"""

import csv

import nibabel as nib
import numpy as np
import torch
from tqdm import tqdm

from common import cli
from common.arms import ARMS, load_fmri
from common.cortex import N_CORTEX
from common.datasets import Phantom, get_dataset
from common.files import fingerprint, load_array, read_json, sha256
from common.fmri import detrend, zscore
from common.frames import read_frame
from common.layout import DEFAULT_SEED, Layout, arm_name, reconstruction_name
from common.readers import format_clips, open_clips
from common.records import working
from Evaluation_Metrics import identification, motion_energy
from Evaluation_Metrics.EPE import epe
from Evaluation_Metrics.metric_script import frame_rate, is_current, open_pairs
from Evaluation_Metrics.n_way import clip_accuracy, true_classes
from Evaluation_Metrics.per_clip import score_pairs
from Evaluation_Metrics.protocols import protocol_form
from Evaluation_Metrics.PSNR import psnr
from Evaluation_Metrics.SSIM import ssim
from Evaluation_Metrics.towers import ImageClassifier, Towers
from models.checkpoints import load_checkpoint
from phantom import checks
from phantom.features import AREAS, load_scenes
from phantom.figures import draw
from phantom.measures import Measured, caption_ranks, commonest_share, decode_factors, directions, read_right

LAGS = (-2, -1, 0, 1, 2)  # volumes from the documented offset
RECIPE = ("released_recipe", "released_recipe_still")  # the paper's stage 2 on a few clips, and its still


# ---------------------------------------------------------------------------------------------- fMRI


def lagged_series(dataset, data_root, subject, split, runs, vertices):
    """Series of vertices (V,) at every lag around the documented offset, averaged over repetitions: {lag: (clips of all runs, V)}.

    A clip whose volume lies outside its run is NaN.
    """
    n, found = dataset.clips_per_run(split), {lag: [] for lag in LAGS}
    for run in tqdm(runs, desc=f"series of {split}", unit="run"):
        sums, repetitions = dict.fromkeys(LAGS, 0), dataset.repetitions(subject, run)
        for rep in repetitions:
            # not by the reader that preprocessing uses: a fault of it would go unseen here
            image = nib.Nifti2Image.from_filename(dataset.series_path(data_root, subject, run, rep))
            series = np.asarray(image.dataobj[0, 0, 0, 0])[:, vertices].astype(float)
            for lag in LAGS:
                first = dataset.volume_offset(run) + lag
                rows = np.arange(max(first, 0), min(first + n, len(series)))
                window = np.full((n, len(vertices)), np.nan)
                window[rows - first] = zscore(detrend(series[rows]))
                sums[lag] = sums[lag] + window / len(repetitions)
        for lag in LAGS:
            found[lag].append(sums[lag])
    return {lag: np.concatenate(windows) for lag, windows in found.items()}


def check_fmri(dataset, data_root, subject, selected, scenes):
    """Rows of the claims about the fMRI, alignment and mask; `selected` are the mask's vertices, `scenes` {split: list}."""
    train = lagged_series(dataset, data_root, subject, "train", dataset.runs("train"), selected)
    n, shares = dataset.clips_per_run("test"), {}
    for number, run in enumerate(dataset.runs("test")[:2]):
        test = lagged_series(dataset, data_root, subject, "test", [run], selected)
        those = {"train": scenes["train"], "test": scenes["test"][number * n : (number + 1) * n]}
        # segs are shifted along with test1, whose offset they share
        shares[run] = np.array([decode_factors(train[lag if run == "test1" else 0], test[lag], scenes=those) for lag in LAGS])
    vertices = read_json(dataset.vertices_path(data_root, subject))
    return [
        *checks.alignment(shares, lags=LAGS, chance=commonest_share(scenes["train"])),
        *checks.mask(selected, {name: vertices[name] for name in AREAS}, n_cortex=N_CORTEX),
    ]


# ---------------------------------------------------------------------------------------------- reconstructions


def read_all(folder, numbers):
    """Clips of these numbers in our layout, (N, F, H, W, 3) uint8."""
    reader = open_clips(folder, "ours")
    return np.stack([reader.read(number) for number in numbers])


def mean_training_frame(dataset, layout):
    """Mean first frame of the training clips, (H, W, 3) uint8."""
    total = 0.0
    for name in dataset.clip_names("train"):
        total = total + read_frame(layout.frames("train", name), dataset.frame_indices[0], dataset.frame_size).astype(float)
    return np.round(total / dataset.n_train).astype(np.uint8)


@torch.no_grad()
def decode_embedding(dataset, data_root, layout, subject, arm, seed):
    """CLIP embedding that an arm's semantic decoder makes of the test fMRI, (N, 512)."""
    fmri = load_fmri(layout, dataset, subject, "test", arm, data_root, seed)
    model, _ = load_checkpoint(layout.checkpoints(subject, arm_name(arm, seed), "semantic") / "last.safetensors")
    return model.eval()(torch.from_numpy(np.ascontiguousarray(fmri)))[0].numpy()


def retrieval_results(layout, subject, seed):
    """Folders of the searches among the test clips that were made with both arms, {target: folder}."""
    suffix = "" if seed == DEFAULT_SEED else f"_seed{seed}"
    folders = {"text": layout.retrieval(subject) / f"small_set{suffix}", "image": layout.retrieval(subject) / f"small_set_image{suffix}"}
    return {target: folder for target, folder in folders.items() if (folder / "metrics.json").exists()}


def read_searches(folders):
    """Ranks and chance of `retrieval_results`, as phantom.checks.retrieval takes them."""
    found = {}
    for target, folder in folders.items():
        facts = read_json(folder / "metrics.json")
        columns = read_columns(folder / "ranks.csv")
        for direction, entry in facts["directions"].items():
            ranks = {arm: np.array(columns[f"rank, {direction}, {arm}"], float) for arm in ("full", "control") if arm in entry["arms"]}
            if len(ranks) == 2 and "10" in entry["chance"]:
                found[f"{target} target, {direction}"] = ranks, entry["chance"]["10"]
    return found


PLANTED = {"semantic": "semantics", "structure": "structure", "CMG": "motion"}  # decoder -> group of planted vertices
MAPS = (("CMG", "released"), ("semantic", "rms"), ("structure", "released"), ("structure", "rms"))


def explanations(layout, subject):
    """Files of the cortical maps, {(decoder, kind of map): {arm: importance.npy}}, and of the shuffle test, a list, as far as they are there."""
    folder, maps = layout.explain(subject), {}
    for decoder, kind in MAPS:
        name = decoder if kind == "released" else f"{decoder}_{kind}"
        paths = {"full": name, "control": f"{name}_control"}
        paths = {arm: folder / "Cortical_visualization" / place / "importance.npy" for arm, place in paths.items()}
        if all(path.exists() for path in paths.values()):
            maps[decoder, kind] = paths
    tested = folder / "shuffle_test" / "EPE" / "metrics.json"
    return maps, [tested] if tested.exists() else []


def check_explanations(maps, tested, selected, planted):
    """Rows of the claims about `explanations`; `planted` {group: vertices}."""
    values = {key: {arm: load_array(path)[selected] for arm, path in arms.items()} for key, arms in maps.items()}
    rows = checks.localisation(values, {decoder: np.isin(selected, planted[group]) for decoder, group in PLANTED.items()})
    for path in tested:
        facts = read_json(path)
        rows += checks.shuffle({word: test["p_mean"] for word, test in facts["tests"].items()}, facts["clips"], facts["n_permutations"])
    return rows


def read_columns(path):
    """Columns of a CSV file, {name: list of str}."""
    with open(path, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    return {name: [row[name] for row in rows] for name in rows[0]}


def score_first_frames(stage1, truth, mean_frame):
    """PSNR and SSIM of the first frames before stage 2, of arms and of the mean training frame."""
    first = {name: frames[:, :1] for name, frames in stage1.items() if name != "still"}
    first["mean frame"] = np.broadcast_to(mean_frame, truth[:, :1].shape)
    return {
        metric: {name: function(np.ascontiguousarray(frames), truth[:, :1]) for name, frames in first.items()}
        for metric, function in (("PSNR", psnr), ("SSIM", ssim))
    }


def check_as_neighbours(dataset, layout, subject, scenes, folders, scored):
    """Rows of the claims by metrics of neighbouring fields and by the brain-side score, of all arms.

    Scores are those of evaluate.py, from whose cache CLIP's features come. `scenes` of all test clips; `folders` {arm or "still":
    folder of its reconstruction}; `scored` is metrics.json of the brain-side score, which may be missing.
    """
    if not all(arm in folders for arm in ARMS):
        return []
    numbers, energy = open_clips(folders["full"] / "results_recons", "ours").numbers, motion_energy.metric(fps=frame_rate(dataset))
    form = protocol_form("correct", dataset) | {"clips": [format_clips(numbers)]}
    towers, cache = Towers({"clip": dataset.models["clip"]}), layout.root / "metrics" / "cache"
    found = {}
    for name, folder in folders.items():
        pairs = open_pairs(dataset, layout, subject, name=folder.name, **form)
        metrics = [identification.metric(), energy] if name in ARMS else [energy]
        found[name] = score_pairs(pairs, metrics, towers, cache=cache, workers=1, desc=name)[0]
    identified, moving, static = (
        {name: values[column] for name, values in found.items() if column in values}
        for column in ("id-CLIP", "motion-moving", "motion-static")
    )
    truth = load_array(layout.ground_truth, mmap=True)[[number - 1 for number in numbers]]
    pairs = motion_energy.moving_correlations(read_all(folders["control"] / "results_recons", numbers), truth, frame_rate(dataset))
    motions = np.array([f"{scenes[number - 1].direction} {scenes[number - 1].speed}" for number in numbers])
    names = {arm: folders[arm].name for arm in ARMS}
    rows = checks.neighbours(identified, moving, pairs, motions) + checks.still_energy(static, moving)
    return rows + (checks.brain_side(read_json(scored), names) if scored.exists() else [])


def measure(dataset, layout, scenes, folders, embeddings):
    """Measure the reconstructions of all arms, Measured.

    `scenes` of all test clips; `folders` {arm or "still": folder of its reconstruction}; `embeddings` {arm: (N, 512)} of decode_embedding.
    """
    numbers = open_clips(folders["full"] / "results_recons", "ours").numbers
    shown = [scenes[number - 1] for number in numbers]
    truth = np.ascontiguousarray(load_array(layout.ground_truth, mmap=True)[[number - 1 for number in numbers]])
    stage1 = {name: read_all(folder / "stage1", numbers) for name, folder in folders.items()}
    stage2 = {name: read_all(folder / "results_recons", numbers) for name, folder in folders.items()}

    classify = ImageClassifier(dataset.models["image_classifier"])
    scores = {name: classify(clips) for name, clips in {**stage2, "truth": truth}.items() if name != "still"}
    ids, actual = true_classes(scores["truth"]), np.array([scene.direction for scene in shown])
    text = load_array(layout.text_embeddings_clip("test"), shape=(dataset.n_test, None))
    ranked = {arm: caption_ranks(embedding, text, [scene.caption for scene in scenes]) for arm, embedding in embeddings.items()}
    return Measured(
        ranks={arm: ranks for arm, (ranks, _) in ranked.items()},
        n_gallery=ranked["full"][1],
        two_way={name: clip_accuracy(values, ids, n_way=2) for name, values in scores.items() if name != "truth"},
        structure=score_first_frames(stage1, truth, mean_training_frame(dataset, layout)),
        before={name: epe(clips, truth)[0] for name, clips in stage1.items()},
        after={name: epe(clips, truth)[0] for name, clips in stage2.items()},
        right_before={name: directions(clips) == actual for name, clips in stage1.items() if name != "still"},
        right={name: directions(clips) == actual for name, clips in stage2.items() if name != "still"},
        read=read_right(scores, shown),
    )


def check_reconstructions(measured):
    """Rows of the claims about the reconstructions."""
    return [
        *checks.semantics(measured.ranks, n_gallery=measured.n_gallery),
        *checks.two_way(measured.two_way),
        *checks.structure(measured.structure),
        *checks.motion(measured.before, measured.after, right=measured.right, right_before=measured.right_before),
        *checks.legible(measured.read),
        *checks.ceiling(measured.ranks, measured.structure["PSNR"], measured.before),
    ]


def show_released_recipe(layout, subject, seed):
    """Row of the paper's stage 2, where it was run, beside the oracle's reconstructions."""
    folders = [layout.recons(subject, name) / "results_recons" for name in (*RECIPE, reconstruction_name("oracle", seed=seed))]
    if not all(folder.exists() for folder in folders):
        return []
    numbers, *others = (open_clips(folder, "ours").numbers for folder in folders)
    if any(set(numbers) - set(each) for each in others):
        return []
    truth = load_array(layout.ground_truth, mmap=True)[[number - 1 for number in numbers]]
    value, still, own = (float(epe(read_all(folder, numbers), truth)[0].mean()) for folder in folders)
    return checks.released_recipe(value, still, own, n=len(numbers))


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, subject=True)
    parser.set_defaults(dataset="phantom")
    return parser


def reconstruction_folders(layout, subject, seed):
    """Folders of the arms' reconstructions and of the full arm's still, by name, that are there; none without the full arm."""
    names = {arm: reconstruction_name(arm, seed=seed) for arm in ARMS} | {"still": reconstruction_name("full", "motion", seed)}
    folders = {name: layout.recons(subject, folder) for name, folder in names.items()}
    folders = {name: folder for name, folder in folders.items() if (folder / "manifest.json").exists()}
    return folders if "full" in folders else {}


def main(args):
    dataset, layout = get_dataset(args.dataset, Phantom), Layout.of(args)
    folders, searches = reconstruction_folders(layout, args.subj_ID, args.seed), retrieval_results(layout, args.subj_ID, args.seed)
    maps, tested = explanations(layout, args.subj_ID)
    scored = layout.metrics(args.subj_ID, arm_name("brain_score", args.seed)) / "metrics.json"
    folder = layout.metrics(args.subj_ID, arm_name("phantom_checks", args.seed))
    inputs = [
        layout.mask(args.subj_ID),
        *([layout.ground_truth] if folders else []),
        *(path / "manifest.json" for path in folders.values()),
        *(path / "ranks.csv" for path in searches.values()),
        *(path for arms in maps.values() for path in arms.values()),
        *tested,
        *([scored] if scored.exists() else []),
    ]
    identity = fingerprint([path.exists() and sha256(path) for path in inputs])
    args.overwrite |= not is_current(folder, identity)  # made again with every reconstruction that comes or changes
    with working(folder, args, inputs=inputs) as record:
        if record is None:
            return
        scenes = {split: load_scenes(dataset.truth_path(args.data_root), split) for split in ("train", "test")}
        selected = np.flatnonzero(load_array(layout.mask(args.subj_ID)))
        rows, measured = check_fmri(dataset, args.data_root, args.subj_ID, selected, scenes), None
        if folders:
            arms = [arm for arm in ARMS if arm in folders]
            embeddings = {arm: decode_embedding(dataset, args.data_root, layout, args.subj_ID, arm, args.seed) for arm in arms}
            measured = measure(dataset, layout, scenes["test"], folders, embeddings)
            rows += check_reconstructions(measured) + show_released_recipe(layout, args.subj_ID, args.seed)
            rows += check_as_neighbours(dataset, layout, args.subj_ID, scenes["test"], folders, scored)
        found = read_searches(searches)
        planted = read_json(dataset.vertices_path(args.data_root, args.subj_ID))
        rows += checks.retrieval(found) + check_explanations(maps, tested, selected, planted)
        draw(folder, rows, measured, found)
        for row in rows:
            words = {True: "holds ", False: "MISSED", None: "shown "}[row["held"]]
            margin = "" if row["margin"] is None else f"; {row['margin']:.1f} SE from the bar"
            print(
                f"phantom {words} {row['claim']}: {row['statement']}: {row['value']:.3f} against {row['control']:.3f} ({row['bar']}{margin})"
            )
        n_clips = len(measured.after["full"]) if measured else 0
        record.finish(identity=identity, phantom=True, seed=args.seed, n_clips=n_clips, about=checks.ABOUT, checks=rows)


if __name__ == "__main__":
    cli.run(main, get_parser)
