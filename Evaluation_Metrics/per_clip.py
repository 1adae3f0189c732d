"""What the metric scripts share: flags, a process pool over clips, per-clip files, mean and deviation."""

import csv
import logging
import os
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common import cli
from common.datasets import get_dataset
from common.files import UserError, atomic_path, save_array
from common.layout import Layout
from common.readers import LAYOUTS, Pairs, format_clips, open_clips, parse_clips

log = logging.getLogger(__name__)


def check_pairs(pred, gt):
    """Raise a ValueError unless both are (N, F, H, W, 3) uint8 arrays of one shape."""
    for name, clips in (("pred", pred), ("gt", gt)):
        if clips.ndim != 5 or clips.shape[-1] != 3 or clips.dtype != np.uint8:
            raise ValueError(f"{name} must be (clips, frames, height, width, 3) uint8, got {clips.shape} {clips.dtype}")
    if pred.shape != gt.shape:
        raise ValueError(f"pred and gt must have one shape, got {pred.shape} and {gt.shape}")


# ---------------------------------------------------------------------------------------------- the pool

_work = None  # of a worker process


def _set_up(work):
    global _work
    cv2.setNumThreads(1)  # one process a core is faster than threads inside
    _work = work


def _do(item):
    return _work(item)


def pool_map(function, items, workers=None):
    """Apply a function to items in a pool of processes; at most four items per worker, 32 in all, are in flight.

    Parameters
    ----------
    function : of one item; sent to each worker once
    items : iterable
    workers : processes; default one per core; 1 works in this process

    Yields
    ------
    results in the order of the items
    """
    workers = workers or len(os.sched_getaffinity(0))
    if workers == 1:
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(workers, initializer=_set_up, initargs=(function,))
    try:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(_do, item))
            if len(waiting) >= min(4 * workers, 32):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class ClipScorer:
    """Read one clip and score it: the work of a pool's process.

    Parameters
    ----------
    pairs : Pairs
    functions : {name or tuple of names: function(pred[1,F,H,W,3], gt) -> (1,) or a tuple of such}
    keep_frames : hand the frames back as well
    """

    def __init__(self, pairs, functions, keep_frames=False):
        self.pairs, self.functions, self.keep_frames = pairs, functions, keep_frames

    def __call__(self, number):
        """Values {name: float} and, if kept, frames (pred, gt) of a clip; or the UserError that it gave."""
        try:
            pred, gt = self.pairs.read(number)
        except UserError as error:
            return number, error, None
        values = {}
        for names, function in self.functions.items():
            result = function(pred[None], gt[None])
            if isinstance(names, str):
                values[names] = float(result[0])
            else:
                values |= {name: float(column[0]) for name, column in zip(names, result, strict=True)}
        return number, values, (pred, gt) if self.keep_frames else None


# ---------------------------------------------------------------------------------------------- summaries and files


def summarise(values):
    """Mean, standard deviation, standard error and number of the values that are not NaN."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    n = len(values)
    if n == 0:
        return {"mean": np.nan, "std": np.nan, "se": np.nan, "n": 0}
    return {"mean": values.mean(), "std": values.std(), "se": values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan, "n": n}


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


def report_gaps(name, numbers, values):
    """Log, by number, the clips that a mean leaves out."""
    gaps = [number for number, value in zip(numbers, values, strict=True) if np.isnan(value)]
    if gaps:
        log.info("%s: %d of %d clips without a value, left out of the mean: %s", name, len(gaps), len(numbers), format_clips(gaps))


# ---------------------------------------------------------------------------------------------- scripts


def add_clip_flags(parser):
    """The flags that say what is scored; returns the group."""
    group = parser.add_argument_group("clips")
    group.add_argument(
        "--recons_dir", type=Path, help="folder or zip of reconstructed clips (default: recons/sub{ID}/{name}/results_recons)"
    )
    group.add_argument(
        "--gt",
        type=Path,
        help="true clips: .npy, folder or zip (default: the left halves of a side-by-side layout, else features/test_groundtruth.npy)",
    )
    group.add_argument("--layout", choices=LAYOUTS, help="of --recons_dir (default: ours)")
    group.add_argument("--released_borders", action="store_true", help="keep the borders of released side-by-side grids")
    group.add_argument("--out", type=Path, help="folder for the results (default: metrics/sub{ID}/{name})")
    group.add_argument("--name", default="full", help="which of a subject's reconstructions")
    group.add_argument("--clips", help="score these alone, such as 1-40,52")
    group.add_argument("--allow_missing", action="store_true", help="go on without clips that are missing or unreadable, and say how many")
    group.add_argument("--resize", action="store_true", help="stretch frames of another size to the protocol's")
    group.add_argument("--workers", type=int, help="processes (default: one per core)")
    return group


def metric_parser(doc):
    """Parser of a metric's script."""
    parser = cli.make_parser(doc)
    cli.add_data_flags(parser, subject=True)
    add_clip_flags(parser)
    return parser


def open_pairs(args, layout=None, borders=False, n_frames=None, size=None, resize=False):
    """Reconstructions and ground truth as the flags say; the keywords are a protocol's."""
    place, dataset = Layout.of(args), get_dataset(args.dataset)
    layout = args.layout or layout or "ours"
    both = layout in ("side_by_side", "mindvideo")
    folder = "results_recons_with_gt" if layout == "side_by_side" else "results_recons"
    path = args.recons_dir or place.recons(args.subj_ID, args.name) / folder
    names = dataset.clip_names("test") if hasattr(dataset, "clip_names") else None
    form = {"n_frames": n_frames, "size": size, "resize": resize or args.resize, "names": names}
    pred = open_clips(path, layout, borders=borders or args.released_borders, **form)
    gt = None if both and args.gt is None else open_clips(args.gt or place.ground_truth, **form)
    return Pairs(pred, gt, parse_clips(args.clips) if args.clips else None, args.allow_missing)


def score(args, functions):
    """Score clips with one metric's function: `main` of a metric's script.

    Parameters
    ----------
    args : of metric_parser
    functions : see ClipScorer; the first name is that of the files
    """
    pairs = open_pairs(args)
    out = args.out or Layout.of(args).metrics(args.subj_ID, args.name)
    names = [name for group in functions for name in ([group] if isinstance(group, str) else group)]
    columns = {name: np.full(len(pairs.wanted), np.nan) for name in names}
    row = {number: i for i, number in enumerate(pairs.wanted)}
    unread = []
    for number, values, _ in tqdm(pool_map(ClipScorer(pairs, functions), pairs.numbers, args.workers), total=len(pairs), desc=names[0]):
        if isinstance(values, UserError):
            if not args.allow_missing:
                raise values
            log.warning("%s", values)
            unread.append(number)
            continue
        for name in names:
            columns[name][row[number]] = values[name]
    lost = sorted(pairs.absent + unread)
    title = "phantom, " if get_dataset(args.dataset).is_phantom else ""
    for name in names:
        save_array(
            out / f"{name}.npy",
            columns[name],
            rows=f"clips {format_clips(pairs.wanted)}, NaN where missing",
            units=name,
            made_by=f"{names[0]} of {pairs.pred.path.name}",
        )
        scored = [n for n in pairs.wanted if n not in set(lost)]
        report_gaps(name, scored, [columns[name][row[n]] for n in scored])
        total = summarise(columns[name])
        print(
            f"{title}{name}: {total['mean']:.4f} ± {total['std']:.4f} (std over clips; se {total['se']:.4f}; {total['n']} of {len(pairs.wanted)} clips)"
        )
    if lost:
        print(f"{len(lost)} of {len(pairs.wanted)} clips missing or unreadable: {format_clips(lost)}")
    write_csv(out / f"{names[0]}.csv", pairs.wanted, columns)
    print(f"wrote {out / names[0]}.csv")
