"""Audit an evaluation for closeness: do reconstructions look right because test clips resemble training clips?

Each test clip's distance to its nearest training clip is set against every metric, and the nearest training clip itself is
scored by every metric: chosen by the decoded embedding, which is what a retrieval system would show, and by the truth,
the best that copying could do.

Reads    metrics/sub{ID}/{name}/ of evaluate.py, stimuli_frames/Train, test_groundtruth.npy, the CLIP embeddings of captions and
         images, the semantic decoder that recons/sub{ID}/{name}/manifest.json names; CLIP, and the models of the metrics
Writes   metrics/sub{ID}/{name}/closeness/closeness.csv   distances and nearest training clips of every test clip
                                         /table.md        every metric: method, both baselines, share, slopes
                                         /closeness.png   every metric against every distance
                                         /metrics.json

    python Evaluation_Metrics/closeness.py --dataset phantom --subj_ID 1
    python Evaluation_Metrics/closeness.py --dataset phantom --subj_ID 1 --name control --protocol correct

On the phantom two minutes.
"""

import logging
from pathlib import Path

import numpy as np

from common import cli
from common.arms import load_fmri
from common.datasets import get_dataset
from common.figures import save_figure
from common.files import UserError, load_array, missing, read_json, sha256, write_text
from common.layout import Layout
from common.readers import format_clips, open_clips
from common.records import working
from Evaluation_Metrics.baselines import RenumberedClips
from Evaluation_Metrics.bootstrap_with_wilcoxon import paired_interval
from Evaluation_Metrics.clip_features import ClipFeatures, training_clips
from Evaluation_Metrics.gallery import read_manifest
from Evaluation_Metrics.metric_script import frame_rate, kinds_of
from Evaluation_Metrics.pairs import Pairs
from Evaluation_Metrics.per_clip import score_pairs
from Evaluation_Metrics.protocols import PROTOCOLS, protocol_form, protocol_metrics, split_by_needs
from Evaluation_Metrics.results import (
    LOWER_IS_BETTER,
    VERSION,
    differing,
    read_per_clip,
    read_result,
    scored_facts,
    summarise,
    write_csv,
)
from Evaluation_Metrics.tables import table_lines
from Evaluation_Metrics.towers import KINDS, Towers, add_model_flags

log = logging.getLogger(__name__)

N_BOOTSTRAPS = 2000
DISTANCES = {  # name -> words for the axis
    "clip": "CLIP of the frames, 1 - cosine",
    "motion": "motion energy, 1 - r",
    "caption": "CLIP of the caption, 1 - cosine",
}
BASELINES = ("nearest training clip, decoded", "nearest training clip, true")

# ---------------------------------------------------------------------------------------------- arithmetic


def nearest(queries, gallery, centred=False):
    """Row of the gallery that is nearest to each query, and its distance.

    Parameters
    ----------
    queries : array, shape (N, D)
    gallery : array, shape (M, D)
    centred : bool
        distance 1 - Pearson r over the features instead of 1 - cosine

    Returns
    -------
    rows : array, shape (N,), int
        of equally near ones the first
    distances : array, shape (N,), float64
    """
    sides = [np.asarray(side, np.float64) for side in (queries, gallery)]
    if sides[0].ndim != 2 or sides[1].ndim != 2 or sides[0].shape[1] != sides[1].shape[1] or not len(sides[1]):
        raise ValueError(f"two arrays of features of one width expected, got {sides[0].shape} and {sides[1].shape}")
    if not all(np.isfinite(side).all() for side in sides):
        raise ValueError("NaN or infinite values in the features")
    sides = [side - side.mean(1, keepdims=True) for side in sides] if centred else sides
    lengths = [np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
    similarity = (sides[0] / np.where(lengths[0] > 0, lengths[0], 1)) @ (sides[1] / np.where(lengths[1] > 0, lengths[1], 1)).T
    rows = similarity.argmax(1)
    return rows, 1 - similarity[np.arange(len(rows)), rows]


def regress(distance, value, rng):
    """Least-squares line of a metric on closeness, with the 95 % bootstrap interval of its slope over clips.

    Returns
    -------
    dict
        slope, low, high, intercept, r, n; None where fewer than three clips have a value or all are equally close
    """
    known = np.isfinite(value) & np.isfinite(distance)
    x, y = distance[known], value[known]
    if len(x) < 3 or np.ptp(x) < 1e-9:
        return None
    counts = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=N_BOOTSTRAPS) / len(x)
    centred = x - x.mean()
    mean_x, mean_y = counts @ centred, counts @ y
    variance = counts @ centred**2 - mean_x**2
    good = variance > 1e-12
    slopes = (counts @ (centred * y) - mean_x * mean_y)[good] / variance[good]
    slope = (centred @ y) / (centred @ centred)
    low, high = np.quantile(slopes, [0.025, 0.975])
    r = float(np.corrcoef(x, y)[0, 1]) if np.ptp(y) > 0 else 0.0
    return {
        "slope": float(slope),
        "low": float(low),
        "high": float(high),
        "intercept": float(y.mean() - slope * x.mean()),
        "r": r,
        "n": len(x),
    }


def share_of(method, baseline, trivial):
    """Share of a score above its trivial value that a baseline has, of (N,) values each; None where the score is no clear step from it."""
    known = np.isfinite(method) & np.isfinite(baseline) & np.isfinite(trivial)
    step = method[known] - trivial[known]
    if len(step) < 2 or abs(step.mean()) <= 2 * step.std(ddof=1) / np.sqrt(len(step)):
        return None
    return float((baseline[known] - trivial[known]).mean() / step.mean())


# ---------------------------------------------------------------------------------------------- what is read


def find_decoder(args, place):
    """The semantic decoder that made the reconstructions, and the arm whose fMRI it was given; path, str."""
    folder = place.recons(args.subj_ID, args.name)
    manifest = read_manifest(folder) if (folder / "manifest.json").is_file() else {}
    made_by = manifest.get("checkpoints", {}).get("semantic", {})
    path = args.semantic_model_path or made_by.get("file")
    if not path:
        raise UserError(f"{folder} does not say which semantic decoder made it; name one with --semantic_model_path")
    if not Path(path).is_file():
        raise missing(path, "train the semantic decoder, or check --semantic_model_path")
    if not args.semantic_model_path and made_by.get("sha256") not in (None, sha256(path)):
        raise UserError(f"{path} has changed since {folder} was reconstructed; reconstruct with --overwrite")
    return Path(path), manifest.get("arm") or "full"


def decoded_embedding(args, dataset, place):
    """CLIP embedding that the semantic decoder makes of the test fMRI, (N, D)."""
    import torch

    from models.checkpoints import load_checkpoint

    path, arm = find_decoder(args, place)
    fmri = load_fmri(place, dataset, args.subj_ID, "test", arm, args.data_root, args.seed)
    model, _ = load_checkpoint(path)
    with torch.no_grad():
        return model.eval()(torch.from_numpy(np.ascontiguousarray(fmri)))[0].numpy()


def held_out(dataset, data_root, numbers):
    """Which test clips show a shape in a direction that no simulated training clip has, (N,) bool; None where there are none."""
    path = dataset.truth_path(data_root) if hasattr(dataset, "truth_path") else None
    content = read_json(path) if path and path.is_file() else {"train": [], "test": []}
    seen, wanted = ([(clip["scene"]["shape"], clip["scene"]["direction"]) for clip in content[split]] for split in ("train", "test"))
    if not set(wanted) - set(seen):
        return None
    return np.array([wanted[number - 1] not in seen for number in numbers])


def compare_held_out(values, retrieved, apart, rng, lower=False):
    """A metric (N,) on the clips of held-out combinations, beside the other clips and beside the nearest training clip, `retrieved` (N,).

    `apart` (N,) bool are the clips of held-out combinations. Returns a dict of means, 95 % bootstrap intervals of both differences, and
    whether retrieval is beaten: True, False, or None where the interval holds 0; None with fewer than two clips of a kind.
    """
    known = np.isfinite(values) & np.isfinite(retrieved)
    parts, beyond = [values[apart & known], values[~apart & known]], (values - retrieved)[apart & known]
    if min(map(len, parts)) < 2:
        return None
    drawn = [part[rng.integers(0, len(part), (N_BOOTSTRAPS, len(part)))].mean(1) for part in (*parts, beyond)]
    low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    beyond_low, beyond_high = np.quantile(drawn[2], [0.025, 0.975])
    return {
        "held_out": float(parts[0].mean()), "others": float(parts[1].mean()), "low": float(low), "high": float(high), "n": len(parts[0]),
        "retrieved": float(retrieved[apart & known].mean()), "beyond_low": float(beyond_low), "beyond_high": float(beyond_high),
        "beaten": None if beyond_low <= 0 <= beyond_high else bool((beyond_low > 0) != lower),
    }  # fmt: skip


def words_of_held_out(rows):
    """What the held-out combinations say, a line a metric."""
    verdicts = {True: "retrieval is beaten", False: "retrieval is NOT beaten", None: "retrieval is neither beaten nor better"}
    return [
        f"{column}: held-out combinations {of['held_out']:.3f}, others {of['others']:.3f} (difference {of['low']:.3f} to {of['high']:.3f}); "
        f"nearest training clip, decoded, {of['retrieved']:.3f} on the held-out ones: {verdicts[of['beaten']]}"
        for column, row in rows.items()
        if (of := row["held_out"])
    ]


def read_distances(args, dataset, place, truth, training, numbers):
    """Distances of test clips to their nearest training clips, {of DISTANCES: (N,)}, and {baseline: {test clip: training clip}}."""
    extract = ClipFeatures(("clip", "motion"), Towers.of(args), cache=place.root / "metrics" / "cache", fps=frame_rate(dataset))
    known, seen = extract(training, training.numbers, "training clips"), extract(truth, numbers, "test clips")
    rows = [number - 1 for number in numbers]
    of = {split: load_array(place.text_embeddings_clip(split), shape=(dataset.n_clips(split), None)) for split in ("train", "test")}
    found = {"clip": nearest(seen["clip"], known["clip"]), "motion": nearest(seen["motion"], known["motion"], centred=True)}
    found["caption"] = nearest(of["test"][rows], of["train"])
    embedding = decoded_embedding(args, dataset, place)[rows]
    images = load_array(place.image_embeddings_clip("train"), shape=(dataset.n_train, None))
    if embedding.shape[1] != images.shape[1]:
        raise UserError(f"the semantic decoder's embedding has {embedding.shape[1]} numbers, {place.image_embeddings_clip('train')} "
                        f"{images.shape[1]}; extract the targets that it was trained on")  # fmt: skip
    nearby = (nearest(embedding, images)[0] + 1, np.array(training.numbers)[found["clip"][0]])  # embeddings are of all training clips
    chosen = {name: dict(zip(numbers, map(int, picked), strict=True)) for name, picked in zip(BASELINES, nearby, strict=True)}
    if absent := sorted({clip for of in chosen.values() for clip in of.values()} - set(training.numbers)):
        raise UserError(
            f"{place.root}: the frames of training clips {format_clips(absent)} are missing; run step 2 of the preprocessing again"
        )
    return {name: distance for name, (_, distance) in found.items()}, chosen


# ---------------------------------------------------------------------------------------------- what is written


def draw(path, title, distances, values, lines):
    """Every metric against every distance, with the regression's line."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(2.8 * len(distances), 2.2 * len(values) + 0.5), layout="constrained")
    axes = fig.subplots(len(values), len(distances), squeeze=False, sharex="col", sharey="row")
    for row, (column, y) in zip(axes, values.items(), strict=True):
        for axis, (name, x) in zip(row, distances.items(), strict=True):
            axis.scatter(x, y, s=8, color="0.4", linewidths=0)
            if line := lines[column][name]:
                ends = np.array([x.min(), x.max()])
                axis.plot(ends, line["intercept"] + line["slope"] * ends, color="C0")
                axis.set_title(f"slope {line['slope']:.2g} [{line['low']:.2g}, {line['high']:.2g}]", fontsize=8)
        row[0].set_ylabel(column, fontsize=9)
    for axis, name in zip(axes[-1], distances, strict=True):
        axis.set_xlabel(DISTANCES[name], fontsize=8)
    fig.suptitle(title, fontsize=10)
    save_figure(fig, path, dpi=110)


def to_table(title, method, rows, with_floor=True):
    """The audit as Markdown; without a floor, the clip-shuffled reconstructions' scores, there are no shares."""
    head = ["metric", method, *BASELINES, f"{method} - decoded", "share, decoded", "share, true", *(f"slope, {name}" for name in DISTANCES)]
    cells = []
    for column, row in rows.items():
        means = [f"{mean:.3f}" if mean is not None else "–" for mean in row["means"].values()]
        shares = [f"{100 * share:.0f} %" if share is not None else "–" for share in row["shares"].values()]
        slopes = [f"{of['slope']:.3g} [{of['low']:.3g}, {of['high']:.3g}]" if of else "–" for of in row["lines"].values()]
        beyond = "{difference:.3f} [{low:.3f}, {high:.3f}]".format(**row["beyond_decoded"])
        cells.append([column, *means, beyond, *shares, *slopes])
    note = "Share: of the step from the clip-shuffled reconstructions to the method, what the nearest training clip has already; – without "
    note += "a clear step. " if with_floor else "that baseline (evaluate.py --baselines all makes it). "
    note += (
        "Slopes: of the metric on the distance to the nearest training clip, 95 % bootstrap intervals over clips, of the difference, too."
    )
    return "\n".join([f"# {title}", "", *table_lines(head, cells), "", note])


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, subject=True)
    add_model_flags(parser, *KINDS)
    group = parser.add_argument_group("closeness")
    group.add_argument("--name", default="full", help="name of one of a subject's reconstructions, evaluated before")
    group.add_argument("--protocol", choices=list(PROTOCOLS), default="paper", help="protocol of that evaluation")
    group.add_argument("--semantic_model_path", type=Path, help="semantic decoder; default: the one that made the reconstructions")
    group.add_argument("--workers", type=cli.processes, changes_result=False, help="number of processes; default: one per core")
    group.add_argument("--out", type=Path, changes_result=False, help="folder for the results; default: closeness, in the evaluation's")
    return parser


def onto_clips(numbers, clips, columns):
    """Per-clip values in the order of other clips, NaN for those that have none, {column: (N,)}."""
    rows = {int(clip): row for row, clip in enumerate(clips)}
    return {
        column: np.array([values[rows[number]] if number in rows else np.nan for number in numbers]) for column, values in columns.items()
    }


def check_alike(folder, facts, scored):
    """Raise a UserError for an evaluation of another truth, by other models or another version than what is scored now."""
    if found := differing(facts, facts | scored | {"protocol_version": VERSION}, ignore=("clips",)):
        words = "; ".join(f"{what} {before}, now {now}" for what, (before, now) in found.items())
        raise UserError(f"{folder} was not scored as the training clips would be ({words}); name its models, or run evaluate.py again")


def audit(args, dataset, facts, numbers, own, trivial, distances, free):
    """Rows of the table: {metric: means, shares, lines, beyond_decoded (paired difference to the decoded baseline), held_out}."""
    rng, rows, apart = np.random.default_rng(args.seed), {}, held_out(dataset, args.data_root, numbers)
    for column in (column for column in facts["columns"] if column in own and column in free[BASELINES[0]]):
        value, others = own[column], {name: free[name][column] for name in BASELINES}
        floor = trivial.get(column, np.full(len(value), np.nan))
        mean, low, high = paired_interval(value, others[BASELINES[0]], rng=np.random.default_rng(args.seed))
        rows[column] = {
            "means": {name: summarise(of)["mean"] for name, of in {facts["method"]: value, **others}.items()},
            "shares": {name: share_of(value, of, floor) for name, of in others.items()},
            "lines": {name: regress(distance, value, rng) for name, distance in distances.items()},
            "beyond_decoded": {"difference": mean, "low": low, "high": high},
            "held_out": None if apart is None else compare_held_out(value, others[BASELINES[0]], apart, rng, column in LOWER_IS_BETTER),
        }
    return rows


def main(args):
    dataset, place, towers = get_dataset(args.dataset), Layout.of(args), Towers.of(args)
    folder = place.metrics(args.subj_ID, args.name) / ("" if args.protocol == "paper" else args.protocol)
    if not (folder / "metrics.json").exists():
        raise missing(folder / "metrics.json", "run Evaluation_Metrics/evaluate.py first, or check --name and --protocol")
    facts, clips, columns = read_result(folder)
    form = {key: protocol_form(args.protocol, dataset)[key] for key in ("n_frames", "size", "times")}
    truth, training = open_clips(place.ground_truth, resize=True, **form), training_clips(place, dataset, form)
    numbers = [int(number) for number in clips]
    if len(numbers) < 3:
        raise UserError(f"{folder} has {len(numbers)} clips, too few for a regression over clips; score more")
    metrics, _ = split_by_needs(protocol_metrics(args.protocol, dataset), towers, len(numbers))
    check_alike(folder, facts, scored_facts(Pairs(truth, truth, numbers), [], towers, kinds_of(metrics)))
    out = args.out or folder / "closeness"
    embeddings = [place.image_embeddings_clip("train"), *map(place.text_embeddings_clip, ("train", "test"))]
    inputs = [folder / "per_clip.npz", place.ground_truth, find_decoder(args, place)[0], *embeddings]
    with working(out, args, inputs=inputs, outputs=[out / "table.md"]) as record:
        if record is None:
            return
        distances, chosen = read_distances(args, dataset, place, truth, training, numbers)
        free = {}
        for name, origin in chosen.items():
            pairs = Pairs(RenumberedClips(name, training, origin), truth, numbers)
            free[name], _ = score_pairs(pairs, metrics, towers, cache=place.root / "metrics" / "cache", workers=args.workers, desc=name)
        trivial = folder / "baselines" / "clip-shuffled.npz"
        floor = onto_clips(numbers, *read_per_clip(trivial)) if trivial.exists() else {}
        rows = audit(args, dataset, facts, numbers, columns, floor, distances, free)
        title = f"{facts['title']}: closeness to the training clips"
        write_csv(out / "closeness.csv", numbers, distances | {name: np.array(list(of.values()), float) for name, of in chosen.items()})
        draw(
            out / "closeness.png",
            title,
            distances,
            {column: columns[column] for column in rows},
            {c: row["lines"] for c, row in rows.items()},
        )
        text = to_table(title, facts["method"], rows, bool(floor))
        said = words_of_held_out(rows)
        write_text(out / "table.md", "\n".join([text, *(f"\n{line}" for line in said)]) + "\n")
        print("\n".join([text, *(f"{dataset.label}{line}" for line in said)]))
        record.finish(phantom=dataset.simulated, title=title, method=facts["method"], audit=rows)
        print(f"wrote {out}")


if __name__ == "__main__":
    cli.run(main, get_parser)
