"""What the scripts of the metrics share: their flags, the clips that these name, one metric's values and files."""

import inspect
from functools import partial
from pathlib import Path

import numpy as np

from common import cli
from common.clip_frames import clip_times
from common.datasets import get_dataset
from common.files import UserError, fingerprint, missing, read_json, save_array
from common.layout import Layout
from common.readers import LAYOUTS, PAIRED, format_clips, open_clips, parse_clips
from common.records import working
from common.released import ReleasedTree
from Evaluation_Metrics.pairs import Pairs
from Evaluation_Metrics.per_clip import score_pairs, split_truth
from Evaluation_Metrics.results import describe, intervals, note_gaps, scored_facts, summarise, write_csv
from Evaluation_Metrics.towers import KINDS, Towers, add_model_flags, why_absent

# ---------------------------------------------------------------------------------------------- flags


def add_clip_flags(parser):
    """The flags that say what is scored; returns the group."""
    group = parser.add_argument_group("clips")
    group.add_argument("--recons_dir", type=Path, help="folder or zip of clips; default: recons/sub{ID}/{name}/results_recons")
    group.add_argument("--gt", type=Path, help="true clips, .npy, folder or zip; default: left halves of grids, else test_groundtruth.npy")
    group.add_argument("--released_root", type=Path, help="the authors' folder, for its result zip and test movies instead of ours")
    group.add_argument("--layout", choices=LAYOUTS, help="layout of --recons_dir; default: ours, or the protocol's")
    group.add_argument("--released_borders", action="store_true", help="frames with the borders of released side-by-side grids")
    group.add_argument("--out", type=Path, changes_result=False, help="folder for the results; default: metrics/sub{ID}/{name}")
    group.add_argument("--name", default="full", help="name of one of a subject's reconstructions, or, of --recons_dir, of the method in tables (there by default the folder's)")
    group.add_argument("--clips", nargs="+", metavar="1-40,52", help="clips to score, numbers from 1; default: all")
    group.add_argument("--allow_missing", action="store_true", help="permission to leave out clips that are missing or unreadable")
    group.add_argument("--resize", action="store_true", help="resizing of frames of another size, which is an error otherwise")
    group.add_argument("--workers", type=cli.processes, changes_result=False, help="number of processes; default: one per core")
    return group


def metric_parser(doc, *kinds):
    """Parser of a metric's script; `kinds` are the models that it needs."""
    parser = cli.make_parser(doc)
    cli.add_data_flags(parser, subject=True)
    add_clip_flags(parser)
    if kinds:
        add_model_flags(parser, *kinds)
    return parser


# ---------------------------------------------------------------------------------------------- what is scored


def clip_flags(args, layout="ours", borders=False, resize=False):
    """What the flags of add_clip_flags say, over a protocol's own: keywords of open_pairs."""
    values = {key: getattr(args, key) for key in ("name", "recons_dir", "gt", "released_root", "clips", "allow_missing")}
    detected = None if args.released_root else layout
    return values | {"layout": args.layout or detected, "borders": borders or args.released_borders, "resize": resize or args.resize}


def method_name(name="full", recons_dir=None, released_root=None):
    """Name of the method that is scored, for tables."""
    if recons_dir is None:
        return "released" if released_root else name
    if name != "full":
        return name
    return recons_dir.parent.name if recons_dir.name.startswith("results_recons") and recons_dir.parent.name else recons_dir.stem


def open_pairs(
    dataset, place, subject, *, name="full", recons_dir=None, gt=None, released_root=None, layout=None, borders=False, clips=None,
    allow_missing=False, **form,
):  # fmt: skip
    """Reconstructions and ground truth, Pairs.

    Parameters
    ----------
    place : Layout
        of the project's own results
    name : str
        of one of the subject's reconstructions
    recons_dir, gt : Path, optional
        clips and true clips that stand in for the project's own
    released_root : Path, optional
        the authors' folder, which stands in for them too
    layout : str, optional
        of the reconstructions; found out by default
    borders : bool
        keep the borders of released grids
    clips : list of str, optional
        numbers such as "1-40,52"; all by default
    allow_missing : bool
        as in Pairs
    **form
        n_frames, size, resize of the readers
    """
    form |= {"names": dataset.clip_names("test"), "times": clip_times(dataset)}
    true_form = form
    if released_root:
        tree = ReleasedTree(released_root, dataset, subject)
        path, truth = recons_dir or tree.results, tree.test_set / "stimuli_clips" / "Test"
        if not gt:  # movies of 60 frames, of which the data set's count
            true_form = form | {"layout": "mp4", "n_frames": form.get("n_frames") or len(dataset.frame_indices), "resize": True}
    else:
        folder = "results_recons_with_gt" if layout == "side_by_side" else "results_recons"
        path, truth = recons_dir or place.recons(subject, name) / folder, place.ground_truth
        if not path.exists() and not recons_dir:
            raise missing(path, "run Reconstruction/video_recons.py first, or check --subj_ID, --name and --out_root")
    pred = open_clips(path, layout, borders=borders, **form)
    holds_truth = getattr(pred, "layout", None) in PAIRED and gt is None
    true = None if holds_truth else open_clips(gt or truth, **true_form)
    return Pairs(pred, true, parse_clips(",".join(clips)) if clips else None, allow_missing)


def kinds_of(metrics):
    """Models that metrics need, sorted."""
    return sorted(set().union(*(metric.models for metric in metrics)))


def levels_of(metrics, of_truth):
    """What stands beside the columns of metrics, {column: {"chance", "the truth", "a still": number}}, those that are known.

    `of_truth` {column: mean that the truth itself scores}.
    """
    parts = (
        [("chance", metric.chance) for metric in metrics] + [("the truth", of_truth)] + [("a still", metric.still) for metric in metrics]
    )
    levels = {}
    for words, part in parts:
        for column, level in part.items():
            if level is not None:
                levels.setdefault(column, {})[words] = level
    return levels


def frame_rate(dataset):
    """Frames a second of a data set's clips as the models see them."""
    first, *_, last = dataset.frame_indices
    return dataset.fps * (len(dataset.frame_indices) - 1) / (last - first)


def make_metric(make, dataset, **options):
    """The Metric that `make` gives for a data set's clips; it is told their frame rate where it asks for `fps`."""
    if "fps" in inspect.signature(make).parameters:
        options["fps"] = frame_rate(dataset)
    return make(**options)


def what_decides(pairs, metrics, towers):
    """Hash of everything that decides the values: clips, metrics, models."""
    readers = [reader.identity(pairs.numbers) for reader in (pairs.pred, pairs.truth())]
    models = [towers.identity(kind) for kind in kinds_of(metrics)]
    return fingerprint([readers, pairs.wanted, [metric.identity() for metric in metrics], models])


def is_current(folder, identity):
    """Whether the results in a folder, if there are any, carry this identity, the hash of all that decides them."""
    finished = folder / "metrics.json"
    return not finished.exists() or read_json(finished).get("identity") == identity


# ---------------------------------------------------------------------------------------------- one metric


def main(args, metrics, title=None):
    """Score clips with one metric: the end of every metric's script; `title` names the files, by default after the first column."""
    dataset, place, towers, title = get_dataset(args.dataset), Layout.of(args), Towers.of(args), title or metrics[0].columns[0]
    for kind in kinds_of(metrics):
        if kind not in towers:
            raise UserError(f"{title} cannot be computed: {why_absent(kind)}; name the model with --{KINDS[kind][0]}")
    pairs = open_pairs(dataset, place, args.subj_ID, **clip_flags(args))
    out, identity = args.out or place.metrics(args.subj_ID, args.name), what_decides(pairs, metrics, towers)
    record_folder = out / f"{title}_run"
    with working(record_folder, args, outputs=[out / f"{title}.csv"], complete=is_current(record_folder, identity)) as record:
        if record is None:
            return
        values, lost = score_pairs(pairs, metrics, towers, workers=args.workers, allow_missing=args.allow_missing, desc=title)
        columns, of_truth = split_truth(values)
        method = method_name(args.name, args.recons_dir, args.released_root)
        facts = {"dataset": dataset.name, "phantom": dataset.simulated, "subject": args.subj_ID, "method": method}
        facts |= scored_facts(pairs, lost, towers, kinds_of(metrics))
        undefined = note_gaps(pairs.wanted, columns, lost)
        summaries = {column: summarise(values) for column, values in columns.items()}
        for column, interval in intervals(columns, np.random.default_rng(args.seed)).items():
            summaries[column] |= interval
        levels = levels_of(metrics, {column: summarise(values)["mean"] for column, values in of_truth.items()})
        for column, values in columns.items():
            rows = f"clips {format_clips(pairs.wanted)}, NaN without a value"
            made_by = f"{title} of {pairs.pred.path.name}"
            save_array(out / f"{column}.npy", values, rows=rows, units=column, made_by=made_by, scored=facts)
            print(dataset.label + describe(column, summaries[column], len(pairs.wanted), levels.get(column)))
        if lost:
            print(f"{len(lost)} of {len(pairs.wanted)} clips missing or unreadable: {format_clips(lost)}")
        write_csv(out / f"{title}.csv", pairs.wanted, columns)
        record.finish(identity=identity, **facts, summaries=summaries, levels=levels, undefined=undefined)
        print(f"wrote {out / title}.csv")


def script(doc, metric, *kinds):
    """`get_parser` and `main` of a metric's script without flags of its own; `metric` makes its Metric, `kinds` are the models it needs."""

    def work(args):
        main(args, [make_metric(metric, get_dataset(args.dataset))])

    work.__module__ = metric.__module__  # by which the script is named in records
    return partial(metric_parser, doc, *kinds), work
