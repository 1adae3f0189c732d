"""What the metric scripts share: flags, one pass over the clips by a process pool, per-clip files, mean and deviation."""

import csv
import logging
import multiprocessing
import signal
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common import cli
from common.datasets import get_dataset
from common.files import UserError, atomic_path, fingerprint, load_npz, read_json, save_array
from common.layout import Layout
from common.pairs import Pairs
from common.readers import LAYOUTS, ArrayClips, detect_layout, format_clips, open_clips, parse_clips
from common.records import Record
from common.released import ReleasedTree
from common.workers import n_cores
from Evaluation_Metrics.towers import KINDS, Towers, add_model_flags

log = logging.getLogger(__name__)

# clips in memory: two (reconstruction and truth) for each in flight in the pool or in the block that waits for the
# models, and one side of that block as a model's input: 56
IN_FLIGHT, BLOCK = 16, 8


def check_pairs(pred, gt):
    """Raise a ValueError unless both are (N, F, H, W, 3) uint8 arrays of one shape."""
    for name, clips in (("pred", pred), ("gt", gt)):
        if clips.ndim != 5 or clips.shape[-1] != 3 or clips.dtype != np.uint8:
            raise ValueError(f"{name} must be (clips, frames, height, width, 3) uint8, got {clips.shape} {clips.dtype}")
    if pred.shape != gt.shape:
        raise ValueError(f"pred and gt must have one shape, got {pred.shape} and {gt.shape}")


@dataclass(frozen=True)
class Metric:
    """A metric as a table's columns.

    Attributes
    ----------
    columns : names of the values that it gives
    function : of frames (pred[N,F,H,W,3], gt) or, when `needs` names models, of two dicts {kind: (N, ...) features};
        returns (N,) or a tuple of such
    needs : what it reads of models, pairs of a kind and a side ("pred" or "gt")
    chance : {column: level of random predictions}
    """

    columns: tuple
    function: object
    needs: tuple = ()
    chance: dict = field(default_factory=dict)

    def identity(self):
        """What tells it from the same metric with other options."""
        function, options = self.function, {}
        if isinstance(function, partial):
            function, options = function.func, function.keywords
        return [list(self.columns), function.__name__, options]

    def values(self, pred, gt):
        """{column: (N,) values}."""
        result = self.function(pred, gt)
        return dict(zip(self.columns, result if isinstance(result, tuple) else (result,), strict=True))


# ---------------------------------------------------------------------------------------------- the pool

_work = None  # of a worker process


def _set_up(work):
    global _work
    # the parent alone answers to Ctrl-C and kill; it ends its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if cv2.getNumThreads() > 1:  # where processes are spawned instead of forked
        cv2.setNumThreads(1)
    _work = work


def _do(item):
    return _work(item)


def pool_map(function, items, workers=None):
    """Apply a function to items in a pool of processes, few at a time so that memory is bounded.

    Parameters
    ----------
    function : of one item; sent to each worker once
    items : iterable, drawn from as work goes on
    workers : processes, IN_FLIGHT at most; default one per core; 1 works in this process

    Yields
    ------
    results in the order of the items
    """
    workers = min(workers or n_cores(), IN_FLIGHT)
    if workers == 1:
        yield from map(function, items)
        return
    # forked processes have the calling script's functions even where it was loaded by path
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    # One process a core is faster than threads inside. OpenCV's threads end before the fork: a child that inherits a
    # pool without its threads waits for them forever.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(method), initializer=_set_up, initargs=(function,))
    try:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(_do, item))
            if len(waiting) == min(2 * workers, IN_FLIGHT):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        cv2.setNumThreads(threads)


class ClipScorer:
    """Read one clip and score its pixels: the work of a pool's process.

    Parameters
    ----------
    pairs : Pairs
    metrics : list of Metric of frames
    keep_frames : hand the frames back as well
    """

    def __init__(self, pairs, metrics, keep_frames):
        self.pairs, self.metrics, self.keep_frames = pairs, metrics, keep_frames

    def __call__(self, item):
        """(number, {column: float} or the UserError that the clip gave, frames (pred, gt) or None)."""
        number, made = item
        try:
            pred, gt = self.pairs.read(number) if made is None else (made, self.pairs.gt.read(number))
        except UserError as error:
            return number, error, None
        values = {}
        for metric in self.metrics:
            values |= {column: float(value[0]) for column, value in metric.values(pred[None], gt[None]).items()}
        return number, values, (pred, gt) if self.keep_frames else None


# ---------------------------------------------------------------------------------------------- one pass over the clips


class BlockCache:
    """Arrays of blocks of clips on disk, each file whole or absent; None as folder keeps nothing.

    What a file holds is in its name's fingerprint, so that nothing stale is ever read and several processes may
    share the folder.
    """

    def __init__(self, folder):
        self.folder = folder

    def path(self, kind, identity):
        return self.folder / kind / f"{fingerprint(identity)}.npz"

    def load(self, kind, identity):
        """{name: array}, or None when it is not there."""
        if self.folder is None or not self.path(kind, identity).exists():
            return None
        try:
            return load_npz(self.path(kind, identity))
        except UserError as error:
            log.warning("%s", error)  # it is computed again
            return None

    def save(self, kind, identity, arrays):
        if self.folder is not None:
            with atomic_path(self.path(kind, identity)) as temporary:
                np.savez(temporary, **arrays)


class _Pass:
    """One pass over the clips of `pairs`, in blocks; see score_pairs."""

    def __init__(self, pairs, metrics, towers, cache, allow_missing):
        self.pairs, self.towers, self.cache, self.allow_missing = pairs, towers, BlockCache(cache), allow_missing
        self.of_pixels = [metric for metric in metrics if not metric.needs]
        self.of_features = [metric for metric in metrics if metric.needs]
        needs = sorted({need for metric in metrics for need in metric.needs})  # (kind, side)
        # two kinds may be one model: it sees the frames once
        self.model_of = {kind: towers.twin(kind) for kind, _ in needs}
        self.views = sorted({(self.model_of[kind], side) for kind, side in needs})
        self.identities = {model: towers.identity(model) for model in self.model_of.values()}
        self.readers = {"pred": pairs.pred, "gt": pairs.truth()}
        self.blocks = [pairs.numbers[i : i + BLOCK] for i in range(0, len(pairs.numbers), BLOCK)]
        self.found = [{part: self.cache.load(part[0], identity) for part, identity in self.parts(block).items()} for block in self.blocks]
        self.lost = set(pairs.absent)

    def parts(self, block):
        """What a block is made of, {(kind, side): identity on disk}."""
        who = {side: reader.identity(block) for side, reader in self.readers.items()}
        parts = {}
        if self.of_pixels:
            parts["pixels", "both"] = [[metric.identity() for metric in self.of_pixels], who["pred"], who["gt"]]
        return parts | {(model, side): [self.identities[model], who[side]] for model, side in self.views}

    def work(self, workers, desc):
        """Score the blocks that are not all there."""
        todo = [i for i, parts in enumerate(self.found) if any(content is None for content in parts.values())]
        numbers = [number for i in todo for number in self.blocks[i]]
        # frames are handed over only where a model has yet to see them
        keep_frames = any(content is None for i in todo for (kind, _), content in self.found[i].items() if kind != "pixels")
        for reader in self.readers.values() if todo else ():
            if isinstance(reader, ArrayClips):
                reader.verify()
        made_here = getattr(self.pairs.pred, "made_in_main_process", False)
        items = ((number, self.pairs.pred.read(number) if made_here else None) for number in numbers)
        results = pool_map(ClipScorer(self.pairs, self.of_pixels, keep_frames), items, workers)
        results = iter(tqdm(results, total=len(numbers), desc=desc, unit="clip", disable=not todo))
        for i in todo:
            self._fill(i, [next(results) for _ in self.blocks[i]])

    def _fill(self, i, results):
        block, pixels, bad = self.blocks[i], {}, []
        for row, (number, values, _) in enumerate(results):
            if isinstance(values, UserError):
                bad.append(self._pass_over(number, values))
            else:
                for column, value in values.items():
                    pixels.setdefault(column, np.full(len(block), np.nan))[row] = value
        clips = {number: clip for number, _, clip in results if clip}
        frame_shape = next((clip[0].shape for clip in clips.values()), None)
        for number, clip in clips.items():
            if clip[0].shape != frame_shape:
                expected, found = ("{} frames of {} x {}".format(*shape) for shape in (frame_shape, clip[0].shape))
                raise UserError(f"clip {number}", f"{expected}, as in clip {next(iter(clips))}", found, "leave it out by --clips")
        for (kind, side), identity in self.parts(block).items():
            if self.found[i][kind, side] is not None:
                continue
            content = None  # stays so where no clip of the block could be read
            if kind == "pixels":
                content = pixels
            elif clips:
                blank = np.zeros(frame_shape, np.uint8)
                which = ("pred", "gt").index(side)
                frames = np.stack([clips[number][which] if number in clips else blank for number in block])
                content = {"features": self.towers[kind](frames)}
                for row in np.flatnonzero(~np.isfinite(content["features"]).reshape(len(block), -1).all(1)):
                    error = UserError(f"clip {block[row]}", "numbers", f"NaN from the {kind} model ({side})", "check the model")
                    bad.append(self._pass_over(block[row], error))
            self.found[i][kind, side] = content
            if not bad:
                self.cache.save(kind, identity, content)
        self.lost |= set(bad)

    def _pass_over(self, number, error):
        if not self.allow_missing:
            raise error
        log.warning("%s", error)
        return number

    def table(self):
        """{column: (clips that should be there,) values, NaN where a clip is lost}."""
        wanted = self.pairs.wanted
        columns = {column: np.full(len(wanted), np.nan) for metric in self.of_pixels + self.of_features for column in metric.columns}
        row_of = {number: row for row, number in enumerate(wanted)}
        good = [(i, row) for i, block in enumerate(self.blocks) for row, number in enumerate(block) if number not in self.lost]
        rows = [row_of[self.blocks[i][row]] for i, row in good]
        if not good:
            return columns
        for metric in self.of_pixels:
            for column in metric.columns:
                columns[column][rows] = [self.found[i]["pixels", "both"][column][row] for i, row in good]
        seen = {view: np.stack([self.found[i][view]["features"][row] for i, row in good]) for view in self.views}
        for metric in self.of_features:
            sides = ({kind: seen[self.model_of[kind], side] for kind, s in metric.needs if s == side} for side in ("pred", "gt"))
            for column, values in metric.values(*sides).items():
                columns[column][rows] = values
        return columns


def score_pairs(pairs, metrics, towers, *, cache=None, workers=None, allow_missing=False, desc="clips"):
    """Every metric of every clip in one pass: each clip is decoded once, frames are scored by a pool, models in batches.

    Parameters
    ----------
    pairs : Pairs
    metrics : list of Metric whose models are all in `towers`
    towers : Towers
    cache : folder for finished blocks, from which an interrupted run goes on; None keeps none
    workers : processes
    allow_missing : leave out clips that cannot be read or that a model answers by NaN
    desc : of the progress bar

    Returns
    -------
    columns : {column: (len(pairs.wanted),) float64, NaN where a clip is left out}
    lost : list of int, clips that are left out, missing ones included

    Raises
    ------
    UserError : a clip that cannot be scored, unless allowed
    """
    work = _Pass(pairs, metrics, towers, cache, allow_missing)
    work.work(workers, desc)
    return work.table(), sorted(work.lost)


# ---------------------------------------------------------------------------------------------- summaries and files


def summarise(values):
    """Mean, standard deviation, standard error and number of the values that are not NaN."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    n = len(values)
    if n == 0:
        return {"mean": None, "std": None, "se": None, "n": 0}
    return {"mean": values.mean(), "std": values.std(), "se": values.std(ddof=1) / np.sqrt(n) if n > 1 else None, "n": n}


def write_csv(path, numbers, columns):
    """Write per-clip values, one row per clip, an empty field where there is none.

    Parameters
    ----------
    path : of the file
    numbers : (N,) clip numbers
    columns : {name: (N,) values}
    """
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["clip", *columns])
        for i, number in enumerate(numbers):
            writer.writerow([number, *("" if np.isnan(values[i]) else repr(float(values[i])) for values in columns.values())])


def gaps(numbers, values):
    """Numbers of the clips that have no value."""
    return [number for number, value in zip(numbers, values, strict=True) if np.isnan(value)]


def describe(column, summary, n_wanted, chance=None):
    """One line: mean ± std over clips, standard error, number of clips, chance level."""
    if not summary["n"]:
        return f"{column}: no clip has a value"
    by_chance = "" if chance is None else f", chance {chance:.3f}"
    error = "" if summary["se"] is None else f", se {summary['se']:.4f}"
    return f"{column}: {summary['mean']:.4f} ± {summary['std']:.4f} (std over clips{error}, {summary['n']} of {n_wanted} clips{by_chance})"


# ---------------------------------------------------------------------------------------------- scripts


def add_clip_flags(parser):
    """The flags that say what is scored; returns the group."""
    group = parser.add_argument_group("clips")
    group.add_argument("--recons_dir", type=Path, help="folder or zip of clips; default: recons/sub{ID}/{name}/results_recons")
    group.add_argument("--gt", type=Path, help="true clips, .npy, folder or zip; default: left halves of grids, else test_groundtruth.npy")
    group.add_argument("--released_root", type=Path, help="the authors' download: its result zip and test films instead of ours")
    group.add_argument("--layout", choices=LAYOUTS, help="of --recons_dir; default: ours, or the protocol's")
    group.add_argument("--released_borders", action="store_true", help="keep the borders of released side-by-side grids")
    group.add_argument("--out", type=Path, help="folder for the results; default: metrics/sub{ID}/{name}")
    group.add_argument("--name", default="full", help="which of a subject's reconstructions")
    group.add_argument("--clips", nargs="+", metavar="1-40,52", help="score these alone; numbers from 1")
    group.add_argument("--allow_missing", action="store_true", help="leave out clips that are missing or unreadable, and say how many")
    group.add_argument("--resize", action="store_true", help="stretch frames of another size")
    group.add_argument("--workers", type=cli.one_or_more, help="processes; default: one per core")
    return group


def metric_parser(doc, *kinds):
    """Parser of a metric's script; `kinds` are the models that it needs."""
    parser = cli.make_parser(doc)
    cli.add_data_flags(parser, subject=True)
    add_clip_flags(parser)
    if kinds:
        add_model_flags(parser, *kinds)
    return parser


def open_pairs(args, layout="ours", borders=False, n_frames=None, size=None, resize=False):
    """Reconstructions and ground truth as the flags say; the keywords are a protocol's."""
    place, dataset = Layout.of(args), get_dataset(args.dataset)
    names = dataset.clip_names("test") if hasattr(dataset, "clip_names") else None
    form = {"n_frames": n_frames, "size": size, "resize": resize or args.resize, "names": names}
    if args.released_root:
        tree = ReleasedTree(args.released_root, dataset, args.subj_ID)
        path = args.recons_dir or tree.results
        layout = args.layout or detect_layout(path)
        films = {"layout": "mp4", "indices": list(dataset.frame_indices), **form, "resize": True}
        gt_path, gt_form = (args.gt, form) if args.gt else (tree.test_set / "stimuli_clips" / "Test", films)
    else:
        layout = args.layout or layout
        folder = "results_recons_with_gt" if layout == "side_by_side" else "results_recons"
        path = args.recons_dir or place.recons(args.subj_ID, args.name) / folder
        gt_path, gt_form = args.gt or place.ground_truth, form
    pred = open_clips(path, layout, borders=borders or args.released_borders, **form)
    holds_truth = layout in ("side_by_side", "mindvideo") and args.gt is None
    gt = None if holds_truth else open_clips(gt_path, **gt_form)
    return Pairs(pred, gt, parse_clips(",".join(args.clips)) if args.clips else None, args.allow_missing)


def run_identity(pairs, metrics, towers):
    """Fingerprint of everything that decides the values: clips, metrics, models."""
    readers = [reader.identity(pairs.numbers) for reader in (pairs.pred, pairs.truth())]
    kinds = sorted({kind for metric in metrics for kind, _ in metric.needs})
    return fingerprint([readers, pairs.wanted, [m.identity() for m in metrics], [towers.identity(kind) for kind in kinds]])


def is_done(record, args, identity):
    """True when the record's run is finished and was made from what is there now; changed clips are scored anew."""
    finished = record.folder / "metrics.json"
    if finished.exists() and not args.overwrite and read_json(finished).get("identity") != identity:
        log.info("%s: made from other clips or models, scoring again", record.folder)
        record.overwrite = True
    return record.is_done()


def score(args, metrics, title=None):
    """Score clips with one metric: `main` of a metric's script.

    Parameters
    ----------
    args : of metric_parser
    metrics : list of Metric
    title : name of the files; default the first column's
    """
    dataset = get_dataset(args.dataset)
    dataset.check_subject(args.subj_ID)
    is_phantom, pairs = dataset.is_phantom, open_pairs(args)
    towers = Towers.of(args, is_phantom)
    for kind in sorted({kind for metric in metrics for kind, _ in metric.needs}):
        if kind not in towers:
            raise UserError(f"--{KINDS[kind][0]}", "a model", "nothing", "name a folder or a hub id")
    out, title = args.out or Layout.of(args).metrics(args.subj_ID, args.name), title or metrics[0].columns[0]
    identity = run_identity(pairs, metrics, towers)
    record = Record(out / f"{title}_run", args)
    if is_done(record, args, identity):
        return
    record.start()
    columns, lost = score_pairs(pairs, metrics, towers, workers=args.workers, allow_missing=args.allow_missing, desc=title)
    summaries = {}
    for metric in metrics:
        for column in metric.columns:
            values = columns[column]
            rows = f"clips {format_clips(pairs.wanted)}, NaN without a value"
            save_array(out / f"{column}.npy", values, rows=rows, units=column, made_by=f"{title} of {pairs.pred.path.name}")
            summaries[column] = summarise(values)
            without = sorted(set(gaps(pairs.wanted, values)) - set(lost))
            if without:
                print(f"{column}: undefined for {len(without)} clips, left out: {format_clips(without)}")
            print(("phantom, " if is_phantom else "") + describe(column, summaries[column], len(pairs.wanted), metric.chance.get(column)))
    if lost:
        print(f"{len(lost)} of {len(pairs.wanted)} clips missing or unreadable: {format_clips(lost)}")
    write_csv(out / f"{title}.csv", pairs.wanted, columns)
    record.finish(identity=identity, summaries=summaries, missing=lost)
    print(f"wrote {out / title}.csv")
