"""What the scripts of the metrics share: their flags, the clips that these name, one metric's values and files."""

import argparse
import contextlib
import logging
from pathlib import Path

from common import cli
from common.clip_frames import clip_times
from common.datasets import get_dataset
from common.files import UserError, fingerprint, read_json, save_array
from common.layout import Layout
from common.readers import LAYOUTS, PAIRED, detect_layout, format_clips, open_clips, parse_clips
from common.records import Record, working
from common.released import ReleasedTree
from Evaluation_Metrics.pairs import Pairs
from Evaluation_Metrics.per_clip import score_pairs
from Evaluation_Metrics.results import describe, note_gaps, scored_facts, summarise, write_csv
from Evaluation_Metrics.towers import KINDS, Towers, add_model_flags

log = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------- flags


def add_clip_flags(parser):
    """The flags that say what is scored; returns the group."""
    group = parser.add_argument_group("clips")
    group.add_argument("--recons_dir", type=Path, help="folder or zip of clips; default: recons/sub{ID}/{name}/results_recons")
    group.add_argument("--gt", type=Path, help="true clips, .npy, folder or zip; default: left halves of grids, else test_groundtruth.npy")
    group.add_argument("--released_root", type=Path, help="the authors' folder, for its result zip and test movies instead of ours")
    group.add_argument("--layout", choices=LAYOUTS, help="layout of --recons_dir; default: ours, or the protocol's")
    group.add_argument("--released_borders", action="store_true", help="borders of released side-by-side grids count")
    group.add_argument("--out", type=Path, changes_result=False, help="folder for the results; default: metrics/sub{ID}/{name}")
    group.add_argument("--name", default="full", help="name of one of a subject's reconstructions")
    group.add_argument("--clips", nargs="+", metavar="1-40,52", help="clips to score, numbers from 1; default: all")
    group.add_argument("--allow_missing", action="store_true", help="permission to leave out clips that are missing or unreadable")
    group.add_argument("--resize", action="store_true", help="frames of another size are stretched")
    group.add_argument("--workers", type=cli.one_or_more, changes_result=False, help="number of processes; default: one per core")
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


def method_name(args):
    """Name of the method that the flags name, for tables."""
    if args.recons_dir is None:
        return "released" if args.released_root else args.name
    path = args.recons_dir
    return path.parent.name if path.name.startswith("results_recons") and path.parent.name else path.stem


def open_pairs(args, layout="ours", borders=False, resize=False, **form):
    """Reconstructions and ground truth as the flags say.

    Parameters
    ----------
    args : argparse.Namespace
        with the flags of add_data_flags and add_clip_flags
    layout, borders, resize
        a protocol's, which the flags of the same names overrule
    **form
        n_frames, size, times of the readers

    Returns
    -------
    Pairs
    """
    place, dataset = Layout.of(args), get_dataset(args.dataset)
    form |= {"resize": resize or args.resize, "names": dataset.clip_names("test"), "times": clip_times(dataset)}
    gt_path, gt_form = args.gt or place.ground_truth, form
    if args.released_root:
        tree = ReleasedTree(args.released_root, dataset, args.subj_ID)
        path = args.recons_dir or tree.results
        layout = args.layout or detect_layout(path)
        if not args.gt:  # movies of 60 frames, of which the data set's count
            gt_path = tree.test_set / "stimuli_clips" / "Test"
            gt_form = form | {"layout": "mp4", "n_frames": form.get("n_frames") or len(dataset.frame_indices), "resize": True}
    else:
        layout = args.layout or layout
        folder = "results_recons_with_gt" if layout == "side_by_side" else "results_recons"
        path = args.recons_dir or place.recons(args.subj_ID, args.name) / folder
    pred = open_clips(path, layout, borders=borders or args.released_borders, **form)
    holds_truth = layout in PAIRED and args.gt is None
    gt = None if holds_truth else open_clips(gt_path, **gt_form)
    return Pairs(pred, gt, parse_clips(",".join(args.clips)) if args.clips else None, args.allow_missing)


def kinds_of(metrics):
    """Models that metrics need, sorted."""
    return sorted({kind for metric in metrics for kind, _ in metric.needs})


def what_decides(pairs, metrics, towers):
    """Hash of everything that decides the values: clips, metrics, models."""
    readers = [reader.identity(pairs.numbers) for reader in (pairs.pred, pairs.truth())]
    models = [towers.identity(kind) for kind in kinds_of(metrics)]
    return fingerprint([readers, pairs.wanted, [metric.identity() for metric in metrics], models])


@contextlib.contextmanager
def scoring(folder, args, identity, outputs=()):
    """`common.records.working`, but when clips or models have changed they are scored again without --overwrite.

    Parameters
    ----------
    folder, args, outputs
        as for `working`
    identity : str
        of what_decides; must be handed to `record.finish` by this name
    """
    finished = Path(folder) / "metrics.json"
    if finished.exists() and not args.overwrite and read_json(finished).get("identity") != identity:
        Record(folder, args).check_same()  # other flags are refused as ever
        log.info("%s: clips or models have changed, scoring again", folder)
        args = argparse.Namespace(**{**vars(args), "overwrite": True})
    with working(folder, args, outputs=outputs) as record:
        yield record


# ---------------------------------------------------------------------------------------------- one metric


def score(args, metrics, title=None):
    """Score clips with one metric: `main` of a metric's script.

    Parameters
    ----------
    args : argparse.Namespace
        of metric_parser
    metrics : list of Metric
    title : str, optional
        name of the files, the first column's by default
    """
    dataset, pairs, towers = get_dataset(args.dataset), open_pairs(args), Towers.of(args)
    for kind in kinds_of(metrics):
        if kind not in towers:
            raise UserError(f"--{KINDS[kind][0]} is needed; name a folder or a hub id")
    out, title = args.out or Layout.of(args).metrics(args.subj_ID, args.name), title or metrics[0].columns[0]
    identity = what_decides(pairs, metrics, towers)
    with scoring(out / f"{title}_run", args, identity, [out / f"{title}.csv"]) as record:
        if record is None:
            return
        columns, lost = score_pairs(pairs, metrics, towers, workers=args.workers, allow_missing=args.allow_missing, desc=title)
        facts = {"dataset": dataset.name, "phantom": dataset.simulated, "subject": args.subj_ID, "method": method_name(args)}
        facts |= scored_facts(pairs, lost, towers, kinds_of(metrics))
        undefined = note_gaps(pairs.wanted, columns, lost)
        chance = {column: level for metric in metrics for column, level in metric.chance.items()}
        summaries = {column: summarise(values) for column, values in columns.items()}
        for column, values in columns.items():
            rows = f"clips {format_clips(pairs.wanted)}, NaN without a value"
            made_by = f"{title} of {pairs.pred.path.name}"
            save_array(out / f"{column}.npy", values, rows=rows, units=column, made_by=made_by, scored=facts)
            print(dataset.label + describe(column, summaries[column], len(pairs.wanted), chance.get(column)))
        if lost:
            print(f"{len(lost)} of {len(pairs.wanted)} clips missing or unreadable: {format_clips(lost)}")
        write_csv(out / f"{title}.csv", pairs.wanted, columns)
        record.finish(identity=identity, **facts, summaries=summaries, undefined=undefined)
        print(f"wrote {out / title}.csv")
