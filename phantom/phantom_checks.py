"""Check what the chain decoded from the phantom against what was put in, each claim with its control.

Reads    {data_root}/phantom/phantom_truth.json, phantom_vertices_sub{s}.json and the CIFTI series; masks, features,
         checkpoints and reconstructions of the arms full, control and oracle
Writes   metrics/sub{s}/phantom_checks/metrics.json with all checks, and one figure per claim

    python phantom/phantom_checks.py --config configs/phantom.yaml --data_root data

A minute. `held` is false where a bar is missed; nothing here is a result about brains.
"""

import numpy as np
from scipy.special import softmax
from tqdm import tqdm

from common import cli
from common.arms import load_fmri
from common.datasets import get_dataset
from common.files import atomic_path, load_array, read_json
from common.fmri import detrend, zscore
from common.layout import Layout
from common.model_sources import model_path
from phantom.features import AREAS, load_scenes
from phantom.world import BACKGROUNDS, COLOURS, DIRECTIONS, IMAGE_FACTORS, SHAPES, SIZES, SPEEDS, factor_numbers
from common.readers import open_clips
from common.layout import reconstruction_name
from common.records import Record
from Evaluation_Metrics.EPE import epe, flows
from Evaluation_Metrics.n_way import chance_level, clip_accuracy, true_classes
from Evaluation_Metrics.PSNR import psnr
from Evaluation_Metrics.SSIM import ssim
from Evaluation_Metrics.towers import Towers

FACTORS = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "background": tuple(BACKGROUNDS),
    "size": tuple(SIZES),
    "column": (0, 1, 2),
    "row": (0, 1, 2),
    "direction": tuple(DIRECTIONS),
    "speed": SPEEDS,
}
LAGS = (-2, -1, 0, 1, 2)  # volumes
RIDGE = 1e3
ARM_COLOURS = {
    "full": "#2457a6",
    "control": "#b0b7c0",
    "oracle": "#1a7f47",
    "still": "#d98c2b",
    "mean frame": "#8a6fb0",
    "truth": "#444444",
}


# ---------------------------------------------------------------------------------------------- statistics


def standard_error(values):
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def paired(better, worse):
    """Mean difference over clips and its standard error."""
    difference = np.asarray(better, float) - np.asarray(worse, float)
    return float(difference.mean()), standard_error(difference)


def verdict(claim, statement, held, **numbers):
    """One row of checks.json; held is None where a number is shown without a bar."""
    return {"claim": claim, "statement": statement, "held": None if held is None else bool(held), **numbers}


# ---------------------------------------------------------------------------------------------- fMRI


def lagged_runs(args, dataset, split, runs, vertices, lags):
    """Series of selected vertices at every lag around the documented offset.

    Returns
    -------
    dict lag -> list over runs of (clips, V) arrays averaged over repetitions; a clip whose volume lies outside the run
    is NaN
    """
    from common.cifti import read_series

    n = dataset.clips_per_run(split)
    found = {lag: [] for lag in lags}
    for run in tqdm(runs, desc=f"series of {split}", unit="run"):
        sums = {lag: 0 for lag in lags}
        repetitions = dataset.repetitions(args.subj_ID, run)
        for rep in repetitions:
            series = read_series(dataset.series_path(args.data_root, args.subj_ID, run, rep))[:, vertices].astype(float)
            for lag in lags:
                first = dataset.volume_offset(run) + lag
                rows = np.arange(max(first, 0), min(first + n, len(series)))
                window = np.full((n, len(vertices)), np.nan)
                window[rows - first] = zscore(detrend(series[rows]))
                sums[lag] = sums[lag] + window / len(repetitions)
        for lag in lags:
            found[lag].append(sums[lag])
    return found


def one_hot(scenes):
    """(N, 27) of all factors and the columns of each."""
    columns, blocks, start = {}, [], 0
    for name, values in FACTORS.items():
        blocks.append([[float(getattr(scene, name) == value) for value in values] for scene in scenes])
        columns[name] = slice(start, start + len(values))
        start += len(values)
    return np.concatenate(blocks, axis=1), columns


def ridge(x, y):
    """Dual ridge regression on centred data: a function from rows like x's to rows like y's."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    dual = np.linalg.solve((x - x_mean) @ (x - x_mean).T + RIDGE * np.eye(len(x)), y - y_mean)
    weights = (x - x_mean).T @ dual
    return lambda new: (new - x_mean) @ weights + y_mean


def factor_accuracy(predicted, wanted, columns):
    """Share of right factors, mean over the eight factors."""
    return float(np.mean([np.mean(predicted[:, c].argmax(1) == wanted[:, c].argmax(1)) for c in columns.values()]))


def check_alignment(args, dataset, layout, scenes):
    """Factors decoded at lags around the documented offset; training at the lag for test1, at lag 0 for test2."""
    vertices = np.flatnonzero(load_array(layout.mask(args.subj_ID)))
    train = lagged_runs(args, dataset, "train", dataset.runs("train"), vertices, LAGS)
    wanted, columns = one_hot(scenes["train"])
    test_wanted, _ = one_hot(scenes["test"])
    n = dataset.clips_per_run("test")
    accuracy = {}
    for number, run in enumerate(dataset.runs("test")[:2]):
        test = lagged_runs(args, dataset, "test", [run], vertices, LAGS)
        accuracy[run] = []
        for lag in LAGS:
            x = np.concatenate(train[lag if run == "test1" else 0])
            known = np.isfinite(x).all(1)
            decode = ridge(x[known], wanted[known])
            new = test[lag][0]
            seen = np.isfinite(new).all(1)
            accuracy[run].append(factor_accuracy(decode(new[seen]), test_wanted[number * n : (number + 1) * n][seen], columns))
    chance = float(np.mean([max(np.bincount(wanted[:, c].argmax(1))) / len(wanted) for c in columns.values()]))
    rows = []
    for run, values in accuracy.items():
        peak, others = values[LAGS.index(0)], [v for lag, v in zip(LAGS, values, strict=True) if lag]
        rows.append(
            verdict(
                "alignment",
                f"{'segs and test1' if run == 'test1' else run}: factors decoded best at the documented volume, by 0.2",
                peak - max(others) >= 0.2,
                value=peak,
                control=max(others),
                bar="difference >= 0.2",
                chance=chance,
                n=n,
                lags=list(LAGS),
                accuracy=values,
            )
        )
    return rows


def check_mask(args, layout):
    """Share of selected vertices that answer to something, and how many of them to what."""
    truth = read_json(args.data_root / "phantom" / f"phantom_vertices_sub{args.subj_ID}.json")
    selected = np.flatnonzero(load_array(layout.mask(args.subj_ID)))
    found = {name: int(np.isin(selected, truth[name]).sum()) for name in AREAS}
    share = sum(found.values()) / len(selected)
    planted = sum(len(truth[name]) for name in AREAS)
    return [
        verdict(
            "mask",
            "selected vertices are planted ones",
            share >= 0.99,
            value=share,
            control=planted / 59412,
            bar=">= 0.99",
            n=len(selected),
            of_group=found,
        )
    ]


# ---------------------------------------------------------------------------------------------- semantics


def semantic_ranks(args, dataset, layout, arm):
    """Rank of each test clip's own caption among the distinct captions, from 1, (N,)."""
    import torch

    from models.checkpoints import load_checkpoint

    fmri = load_fmri(layout, dataset, args.subj_ID, "test", arm, args.data_root, args.seed)
    model, _ = load_checkpoint(layout.checkpoints(args.subj_ID, arm, "semantic") / "last.safetensors")
    with torch.no_grad():
        embedding = model.eval()(torch.from_numpy(np.ascontiguousarray(fmri)))[0].numpy()
    text = load_array(layout.text_embeddings_clip("test"), shape=(dataset.n_test, None))
    captions = [scene.caption for scene in load_scenes(dataset.truth_path(args.data_root), "test")]
    _, first, own = np.unique(captions, return_index=True, return_inverse=True)
    gallery = text[first] / np.linalg.norm(text[first], axis=1, keepdims=True)
    similarity = embedding / np.linalg.norm(embedding, axis=1, keepdims=True) @ gallery.T
    return 1 + (similarity > similarity[np.arange(len(own)), own][:, None]).sum(1), len(gallery)


def check_semantics(args, dataset, layout):
    hits, n_gallery = {}, 0
    for arm in args.arms:
        ranks, n_gallery = semantic_ranks(args, dataset, layout, arm)
        hits[arm] = ranks <= 10
    gain, se = paired(hits["full"], hits["control"])
    value, chance = float(hits["full"].mean()), 10 / n_gallery
    means = {arm: float(hit.mean()) for arm, hit in hits.items()}
    rows = [
        verdict(
            "semantics",
            f"own caption in the top 10 of {n_gallery} distinct ones more often than the control's",
            gain > 4 * se,
            value=value,
            control=means["control"],
            bar="difference > 4 SE",
            se=se,
            chance=chance,
            n=dataset.n_test,
            arms=means,
        ),
        verdict(
            "semantics",
            "top 10 at least 2.5 times chance",
            value >= 2.5 * chance,
            value=value,
            control=means["control"],
            bar=f">= {2.5 * chance:.3f}",
            chance=chance,
            n=dataset.n_test,
        ),
    ]
    return rows, {arm: hit.astype(float) for arm, hit in hits.items()}


# ---------------------------------------------------------------------------------------------- pictures


def read_all(folder, numbers):
    """(N, F, H, W, 3) uint8 of clips in our layout."""
    reader = open_clips(folder, "ours")
    return np.stack([reader.read(number) for number in numbers])


def check_structure(clips, truth, mean_frame):
    """First frame before stage 2 against the true one; the mean training frame and the control beside it."""
    first = {name: frames[:, :1] for name, frames in clips.items() if name != "still"}
    first["mean frame"] = np.broadcast_to(mean_frame, truth[:, :1].shape)
    rows, scores = [], {}
    for metric, function, least in (("PSNR", psnr, 3.0), ("SSIM", ssim, 0.15)):
        values = {name: function(np.ascontiguousarray(frames), truth[:, :1]) for name, frames in first.items()}
        scores[metric] = values
        for other in ("control", "mean frame"):
            gain, se = paired(values["full"], values[other])
            rows.append(
                verdict(
                    "structure",
                    f"{metric} of the first frame before stage 2 above the {other}'s",
                    gain > 4 * se and gain >= least,
                    value=float(values["full"].mean()),
                    control=float(values[other].mean()),
                    bar=f"difference > 4 SE and >= {least}",
                    se=se,
                    n=len(truth),
                    arms={name: float(v.mean()) for name, v in values.items()},
                )
            )
    return rows, scores


def directions(clips):
    """Direction of each clip's mean flow, (N,) names."""
    names = list(DIRECTIONS)
    unit = np.array([DIRECTIONS[name] for name in names])
    return np.array([names[int((unit @ flows(clip, "rgb").mean((0, 1, 2))).argmax())] for clip in clips])


def check_motion(stage1, stage2, truth, scenes):
    """EPE against the still and the control, before and after stage 2, and the direction read back from the flow."""
    rows = []
    before = {name: epe(clips, truth)[0] for name, clips in stage1.items()}
    after = {name: epe(clips, truth)[0] for name, clips in stage2.items()}
    cases = [("before stage 2", before, "still", 4), ("before stage 2", before, "control", 4), ("after stage 2", after, "still", 2)]
    for when, values, other, least in cases:
        gain, se = paired(values[other], values["full"])
        rows.append(
            verdict(
                "motion",
                f"EPE {when} below the {other}'s",
                gain > least * se,
                value=float(values["full"].mean()),
                control=float(values[other].mean()),
                bar=f"difference > {least} SE",
                se=se,
                n=len(truth),
                arms={name: float(v.mean()) for name, v in values.items()},
            )
        )
    actual = np.array([scene.direction for scene in scenes])
    right = {name: directions(clips) == actual for name, clips in stage2.items() if name != "still"}
    right_before = {name: directions(clips) == actual for name, clips in stage1.items() if name != "still"}
    shares, shares_before = ({name: float(hits.mean()) for name, hits in these.items()} for these in (right, right_before))
    rows.append(
        verdict(
            "motion",
            "direction of the mean flow right in the reconstruction",
            shares["full"] >= 0.6,
            value=shares["full"],
            control=shares["control"],
            bar=">= 0.60",
            chance=0.25,
            n=len(truth),
            se=standard_error(right["full"]),
            arms=shares,
            before_stage_2=shares_before,
        )
    )
    rows.append(
        verdict(
            "motion",
            "direction of the control's mean flow at most 40 %",
            shares["control"] <= 0.4,
            value=shares["control"],
            control=0.25,
            bar="<= 0.40",
            chance=0.25,
            n=len(truth),
        )
    )
    return rows, before, after


# ---------------------------------------------------------------------------------------------- what a classifier reads


def check_two_way(scores):
    """2-way-I of the reconstructed frames against the control's; `scores` {arm or "truth": (N, F, 96)}."""
    ids = true_classes(scores["truth"])
    values = {name: clip_accuracy(s, ids, n_way=2) for name, s in scores.items() if name != "truth"}
    gain, se = paired(values["full"], values["control"])
    row = verdict(
        "semantics",
        "2-way-I of the reconstructed frames above the control's",
        gain > 3 * se,
        value=float(values["full"].mean()),
        control=float(values["control"].mean()),
        bar="difference > 3 SE",
        se=se,
        chance=chance_level(2),
        n=len(ids),
        arms={name: float(v.mean()) for name, v in values.items()},
    )
    return [row], values


def read_factors(scores):
    """What a classifier reads in clips: the most probable value of each factor, the others summed out, frames averaged.

    Parameters
    ----------
    scores : (N, F, 96) logits of the classes of phantom.world.IMAGE_FACTORS

    Returns
    -------
    {factor: (N,) int}, numbers of the values
    """
    joint = softmax(scores, axis=-1).mean(1).reshape(-1, *map(len, IMAGE_FACTORS.values()))  # n classes -> n shape colour background
    axes = {name: axis for axis, name in enumerate(IMAGE_FACTORS, 1)}
    return {name: joint.sum(tuple(set(axes.values()) - {axis})).argmax(1) for name, axis in axes.items()}


def check_legible(scores, scenes):
    """Colour and background that the phantom's image classifier reads in the reconstructions."""
    actual = dict(zip(IMAGE_FACTORS, factor_numbers(scenes, IMAGE_FACTORS).T, strict=True))
    read = {name: read_factors(s) for name, s in scores.items()}
    rows, right = [], {}
    for factor, least in (("colour", 0.6), ("background", 0.9)):
        right[factor] = {name: (values[factor] == actual[factor]).astype(float) for name, values in read.items()}
        shares = {name: float(hits.mean()) for name, hits in right[factor].items()}
        rows.append(
            verdict(
                "legible",
                f"{factor} read right in the reconstruction by the phantom's image classifier",
                shares["full"] >= least,
                value=shares["full"],
                control=shares["control"],
                bar=f">= {least:.2f}",
                se=standard_error(right[factor]["full"]),
                chance=1 / len(IMAGE_FACTORS[factor]),
                n=len(scenes),
                arms=shares,
            )
        )
    return rows, right


# ---------------------------------------------------------------------------------------------- ceiling and stage 2 as published


def check_ceiling(hits, structure, before):
    """Oracle above decoded above control; for motion within two standard errors."""
    rows = []
    for what, values in (("top 10", hits), ("PSNR of the first frame", structure["PSNR"])):
        means = {arm: float(values[arm].mean()) for arm in ("oracle", "full", "control")}
        rows.append(
            verdict(
                "ceiling",
                f"{what}: oracle above decoded above control",
                means["oracle"] > means["full"] > means["control"],
                value=means["oracle"],
                control=means["full"],
                bar="oracle > full > control",
                n=len(values["full"]),
                arms=means,
            )
        )
    _, se = paired(before["full"], before["oracle"])
    _, se_control = paired(before["control"], before["full"])
    means = {arm: float(before[arm].mean()) for arm in ("oracle", "full", "control")}
    held = means["oracle"] <= means["full"] + 2 * se and means["full"] <= means["control"] + 2 * se_control
    rows.append(
        verdict(
            "ceiling",
            "EPE before stage 2: oracle below decoded below control, within 2 SE",
            held,
            value=means["oracle"],
            control=means["full"],
            bar="oracle <= full <= control, each + 2 SE",
            se=se,
            n=len(before["full"]),
            arms=means,
        )
    )
    return rows


def show_released_recipe(args, layout, truth):
    """The paper's stage 2 on the phantom's weak generator, from true features: shown, without a bar."""
    folder = layout.recons(args.subj_ID, "released_recipe") / "results_recons"
    still = layout.recons(args.subj_ID, "released_recipe_still") / "results_recons"
    if not (folder.exists() and still.exists()):
        return []
    numbers = open_clips(folder, "ours").numbers
    some = truth[[n - 1 for n in numbers]]
    value, control = (float(epe(read_all(where, numbers), some)[0].mean()) for where in (folder, still))
    return [
        verdict(
            "released recipe",
            "EPE of the paper's stage 2 (inversion, start at 981, guidance 12.5) from true features, beside its still",
            None,
            value=value,
            control=control,
            bar="none: the phantom's generator is too weak for it",
            n=len(numbers),
        )
    ]


# ---------------------------------------------------------------------------------------------- figures


def draw(folder, rows, hits, two_way, structure, before, after, right):
    """One figure per claim."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def save(fig, name):
        with atomic_path(folder / f"{name}.png") as temporary:
            fig.savefig(temporary, dpi=130, bbox_inches="tight")
        plt.close(fig)

    fig, ax = plt.subplots(figsize=(5, 3))
    for row in (row for row in rows if row["claim"] == "alignment"):
        ax.plot(row["lags"], row["accuracy"], "o-", label=row["statement"].split(":")[0])
    ax.axhline(row["chance"], color="grey", ls="--", label="chance")
    ax.set(xlabel="volumes from the documented offset", ylabel="share of factors right", title="phantom: alignment", xticks=LAGS)
    ax.legend(frameon=False)
    save(fig, "alignment")

    def bars(ax, values, ylabel, chance=None):
        names = list(values)
        means, errors = [values[n].mean() for n in names], [standard_error(values[n]) for n in names]
        ax.bar(names, means, yerr=errors, color=[ARM_COLOURS[n] for n in names], capsize=3)
        ax.set_ylabel(ylabel)
        ax.tick_params(axis="x", rotation=20)
        if chance is not None:
            ax.axhline(chance, color="grey", ls="--")

    chance = next(row["chance"] for row in rows if row["claim"] == "semantics")
    fig, axes = plt.subplots(1, 2, figsize=(6.4, 3), layout="constrained")
    bars(axes[0], hits, "own caption in the top 10", chance)
    bars(axes[1], two_way, "2-way-I", chance_level(2))
    fig.suptitle("phantom: semantics")
    save(fig, "semantics")
    fig, axes = plt.subplots(1, 2, figsize=(6.4, 3), layout="constrained")
    for ax, (factor, values) in zip(axes, right.items(), strict=True):
        bars(ax, values, f"{factor} read right", 1 / len(IMAGE_FACTORS[factor]))
    fig.suptitle("phantom: legible, after stage 2")
    save(fig, "legible")
    fig, axes = plt.subplots(1, 2, figsize=(6.4, 3), layout="constrained")
    for ax, (metric, values) in zip(axes, structure.items(), strict=True):
        bars(ax, values, f"{metric} of the first frame{' (dB)' * (metric == 'PSNR')}")
    fig.suptitle("phantom: structure, before stage 2")
    save(fig, "structure")
    fig, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    bars(axes[0], before, "EPE before stage 2 (pixels)")
    bars(axes[1], after, "EPE after stage 2 (pixels)")
    shares = next(row["arms"] for row in rows if row["claim"] == "motion" and "arms" in row and "direction" in row["statement"])
    axes[2].bar(list(shares), list(shares.values()), color=[ARM_COLOURS[n] for n in shares])
    axes[2].axhline(0.25, color="grey", ls="--")
    axes[2].set_ylabel("direction right")
    fig.suptitle("phantom: motion")
    save(fig, "motion")


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, subject=True).add_argument("--clip_path", help="CLIP (default: the phantom's own)")
    parser.set_defaults(dataset="phantom")
    return parser


def main(args):
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    dataset.check_subject(args.subj_ID)
    args.arms = ("full", "control", "oracle")
    folder = layout.metrics(args.subj_ID, "phantom_checks")
    manifests = sorted((layout.root / "recons" / f"sub{args.subj_ID}").glob("*/manifest.json"))
    record = Record(folder, args, [layout.mask(args.subj_ID), layout.ground_truth, *manifests])
    if record.is_done():
        return
    record.start()
    scenes = {split: load_scenes(dataset.truth_path(args.data_root), split) for split in ("train", "test")}

    names = {arm: reconstruction_name(arm, seed=args.seed) for arm in args.arms}
    names["still"] = reconstruction_name("full", "motion", args.seed)
    stage2_folders = {arm: layout.recons(args.subj_ID, name) for arm, name in names.items()}
    numbers = open_clips(stage2_folders["full"] / "results_recons", "ours").numbers
    truth = load_array(layout.ground_truth, mmap=True)
    some = np.ascontiguousarray(truth[[n - 1 for n in numbers]])
    stage1 = {name: read_all(where / "stage1", numbers) for name, where in stage2_folders.items()}
    stage2 = {name: read_all(where / "results_recons", numbers) for name, where in stage2_folders.items()}

    shown = [scenes["test"][n - 1] for n in numbers]
    classify = Towers.of(args, dataset.is_phantom)["image"]
    scores = {name: classify(clips) for name, clips in {**stage2, "truth": some}.items() if name != "still"}

    rows = check_alignment(args, dataset, layout, scenes)
    rows += check_mask(args, layout)
    found, hits = check_semantics(args, dataset, layout)
    rows += found
    found, two_way = check_two_way(scores)
    rows += found
    found, structure = check_structure(stage1, some, mean_training_frame(dataset, layout))
    rows += found
    found, before, after = check_motion(stage1, stage2, some, shown)
    rows += found
    found, right = check_legible(scores, shown)
    rows += found
    rows += check_ceiling(hits, structure, before)
    rows += show_released_recipe(args, layout, truth)
    draw(folder, rows, hits, two_way, structure, before, after, right)
    for row in rows:
        mark = {True: "holds ", False: "MISSED", None: "shown "}[row["held"]]
        print(f"phantom {mark} {row['claim']}: {row['statement']}: {row['value']:.3f} against {row['control']:.3f} ({row['bar']})")
    record.finish(phantom=True, seed=args.seed, n_clips=len(numbers), checks=rows)


def mean_training_frame(dataset, layout):
    """Mean first frame of the training clips, (H, W, 3) uint8."""
    from common.frames import read_frame

    total = 0.0
    for name in dataset.clip_names("train"):
        total = total + read_frame(layout.frames("train", name), dataset.frame_indices[0], dataset.frame_size).astype(float)
    return np.round(total / dataset.n_train).astype(np.uint8)


if __name__ == "__main__":
    cli.run(main, get_parser)
