"""One pass over the clips: each is decoded once, frames are scored by a pool of processes, models see them in batches.

Processes that a launcher has started take the blocks of clips in turn, and all have all values in the end.
"""

import contextlib
import logging
import os
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from tqdm import tqdm

from common.cli import choose_device
from common.files import UserError, atomic_path, fingerprint
from common.readers import ArrayClips
from common.workers import n_cores, pool_map
from Evaluation_Metrics.results import load_npz

log = logging.getLogger(__name__)

# clips in memory: two (reconstruction and truth) for each in flight in the pool or in the block that waits for the
# models, and one side of that block as a model's input: 56
IN_FLIGHT, BLOCK = 16, 8
OF_TRUTH = " of the truth"  # ending of the columns that hold what the truth itself scores, of metrics of the reconstruction alone


def model_of(need):
    """Kind of the model that gives what a metric needs: "video" for "video.token"."""
    return need.partition(".")[0]


def output_of(need):
    """Name of the model's output that a metric needs: "token" for "video.token", "features" for "video"."""
    return need.partition(".")[2] or "features"


def split_truth(columns):
    """Values of a method and, of those columns that have any, of the truth itself: two dicts."""
    own = {column: values for column, values in columns.items() if not column.endswith(OF_TRUTH)}
    return own, {column.removesuffix(OF_TRUTH): values for column, values in columns.items() if column.endswith(OF_TRUTH)}


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
    columns : tuple of str
        names of the values that it gives
    function : function
        of frames (pred[N,F,H,W,3], gt) or, when `needs` names models, of what it names, (N, ...) each; returns (N,) or a tuple
        of such, one a column
    needs : tuple
        what it reads of models, pairs of a kind and a side ("pred", "gt" or "both", of a model that sees pairs);
        "video.token" is another output of the model "video"
    chance : dict
        column -> level of random predictions
    still : dict
        column -> level that the same frame all the time reaches
    least_clips : int
        clips without which no clip has a value
    """

    columns: tuple
    function: object
    needs: tuple = ()
    chance: dict = field(default_factory=dict)
    still: dict = field(default_factory=dict)
    least_clips: int = 1

    @property
    def models(self):
        """Kinds of the models that it needs, set."""
        return {model_of(need) for need, _ in self.needs}

    @property
    def shown(self):
        """Its columns, without those that hold the truth's own values."""
        return tuple(column for column in self.columns if not column.endswith(OF_TRUTH))

    def identity(self):
        """What tells it from the same metric with other options."""
        function, options = self.function, {}
        if isinstance(function, partial):
            function, options = function.func, function.keywords
        return [list(self.columns), function.__name__, options, *map(list, self.needs)]

    def values(self, *inputs):
        """{column: (N,) values}; a UserError for clips that the metric is not defined for."""
        try:
            result = self.function(*inputs)
        except ValueError as error:
            raise UserError(f"{self.columns[0]} cannot be computed ({error}); score other clips, or by another protocol") from None
        return dict(zip(self.columns, result if isinstance(result, tuple) else (result,), strict=True))


# ---------------------------------------------------------------------------------------------- processes


def join_processes():
    """accelerate's state of these processes; None where this is the only one, which then needs no torch."""
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        return None
    from accelerate import PartialState

    return PartialState(cpu=choose_device("auto").type == "cpu")


@contextlib.contextmanager
def first_before_others():
    """Let the first process through, then the others; gives whether this is the first."""
    state = join_processes()
    with state.main_process_first() if state else contextlib.nullcontext():
        yield state is None or state.is_main_process


class ClipScorer:
    """Read one clip and score its pixels by metrics of frames: the work of a pool's process. With `keep_frames` it hands these back as well."""

    def __init__(self, pairs, metrics, keep_frames):
        self.pairs, self.metrics, self.keep_frames = pairs, metrics, keep_frames

    def __call__(self, item):
        """(number, {column: float} or the UserError that the clip gave, frames (pred, gt) or None)."""
        number, made = item
        values = {}
        try:
            pred, gt = self.pairs.read(number) if made is None else (made, self.pairs.gt.read(number))
            for metric in self.metrics:
                values |= {column: float(value[0]) for column, value in metric.values(pred[None], gt[None]).items()}
        except UserError as error:
            return number, error, None
        return number, values, (pred, gt) if self.keep_frames else None


_scorer = None  # of a worker process, which gets it once


def _set_scorer(scorer):
    global _scorer
    _scorer = scorer


def _score(item):
    return _scorer(item)


def pool_limits(workers):
    """Number of processes, one per core where `workers` is None, and of clips that they and their queue may hold."""
    workers = min(workers or max(1, n_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))), IN_FLIGHT)
    return workers, min(2 * workers, IN_FLIGHT)


# ---------------------------------------------------------------------------------------------- one pass over the clips


class BlockCache:
    """Arrays of blocks of clips on disk, each file whole or absent; None as folder keeps nothing.

    A file is named by the hash of what it was computed from, so that nothing stale is ever read and several processes
    may share the folder.
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


_SIDES = {"pred": (0,), "gt": (1,), "both": (0, 1)}  # which clips of a pair a model sees


class _Pass:
    """One pass over the clips of `pairs`, in blocks; see score_pairs.

    `found` is per block {(kind, side): {name: array}}, None where it is not known yet; `lost` {clip that is left out: why}.
    """

    def __init__(self, pairs, metrics, towers, cache, allow_missing):
        self.pairs, self.towers, self.cache, self.allow_missing = pairs, towers, BlockCache(cache), allow_missing
        self.metrics, self.of_pixels = metrics, [metric for metric in metrics if not metric.needs]
        self.of_features = [metric for metric in metrics if metric.needs]
        needs = {need for metric in metrics for need in metric.needs}
        # two kinds may be one model: it sees the frames once
        self.twin = {kind: towers.twin(kind) for kind in sorted({model_of(need) for need, _ in needs})}
        self.views = {}  # (kind, side) -> names of its outputs that are needed
        for need, side in needs:
            self.views.setdefault((self.twin[model_of(need)], side), set()).add(output_of(need))
        self.identities = {model: towers.identity(model) for model in self.twin.values()}
        self.readers = {"pred": pairs.pred, "gt": pairs.truth()}
        self.blocks = [pairs.numbers[i : i + BLOCK] for i in range(0, len(pairs.numbers), BLOCK)]
        self.found = [{part: self._load(part, identity) for part, identity in self.parts(block).items()} for block in self.blocks]
        self.lost = dict.fromkeys(pairs.absent, "it is not there")

    def parts(self, block):
        """What a block is made of, {(kind, side): identity on disk}."""
        who = {side: reader.identity(block) for side, reader in self.readers.items()}
        parts = {}
        if self.of_pixels:
            parts["pixels", "both"] = [[metric.identity() for metric in self.of_pixels], who["pred"], who["gt"]]
        who["both"] = [who["pred"], who["gt"]]
        return parts | {(model, side): [self.identities[model], who[side]] for model, side in sorted(self.views)}

    def _load(self, part, identity):
        """A part of a block from the cache; None when it is not there, or lacks an output that is needed."""
        content = self.cache.load(part[0], identity)
        return content if content is None or self.views.get(part, set()) <= content.keys() else None

    def work(self, workers, desc):
        """Score the blocks that are not all there."""
        state = join_processes()
        own = range(len(self.blocks))[state.process_index :: state.num_processes] if state else range(len(self.blocks))
        todo = [i for i in own if any(content is None for content in self.found[i].values())]
        numbers = [number for i in todo for number in self.blocks[i]]
        # frames are handed over only where a model has yet to see them
        keep_frames = any(content is None for i in todo for (kind, _), content in self.found[i].items() if kind != "pixels")
        for reader in self.readers.values() if todo else ():
            if isinstance(reader, ArrayClips):
                reader.verify()
        made_here = getattr(self.pairs.pred, "made_in_main_process", False)
        items = ((number, self.pairs.pred.read(number) if made_here else None) for number in numbers)
        scorer = ClipScorer(self.pairs, self.of_pixels, keep_frames)
        results = pool_map(_score, items, *pool_limits(workers), _set_scorer, (scorer,))
        results = iter(tqdm(results, total=len(numbers), desc=desc, unit="clip", disable=not todo))
        for i in todo:
            self._fill(i, [next(results) for _ in self.blocks[i]])
        next(results, None)  # there is none: the processes and the bar end
        if state:
            from accelerate.utils import gather_object

            for found, lost in gather_object([({i: self.found[i] for i in own}, self.lost)]):
                self.lost |= lost
                for i, parts in found.items():
                    self.found[i] = parts

    def _fill(self, i, results):
        """Take a block's results in and show its clips to the models."""
        block, pixels, before = self.blocks[i], {}, len(self.lost)
        for row, (number, values, _) in enumerate(results):
            if isinstance(values, UserError):
                self._leave_out(number, values)
            else:
                for column, value in values.items():
                    pixels.setdefault(column, np.full(len(block), np.nan))[row] = value
        clips = _of_one_shape({number: clip for number, _, clip in results if clip})
        made = {part: identity for part, identity in self.parts(block).items() if self.found[i][part] is None}
        for kind, side in made:
            if kind == "pixels":
                self.found[i][kind, side] = pixels
            elif clips:
                self.found[i][kind, side] = self._features(kind, side, block, clips)
        if len(self.lost) == before:
            for part, identity in made.items():
                self.cache.save(part[0], identity, self.found[i][part])

    def _features(self, kind, side, block, clips):
        """A model's outputs for a block's clips, {name: (n, ...)}; a clip that could not be read is black."""
        blank = np.zeros_like(next(iter(clips.values()))[0])
        seen = [np.stack([clips[number][which] if number in clips else blank for number in block]) for which in _SIDES[side]]
        if alike := all(np.array_equal(clip, frames[0]) for frames in seen for clip in frames[1:]):  # a baseline of one picture: seen once
            seen = [frames[:1] for frames in seen]
        tower = self.towers[kind]
        if side == "both":
            outputs = tower.of_pairs(*seen)
        else:
            outputs = tower.outputs(*seen) if hasattr(tower, "outputs") else {"features": tower(*seen)}
        if alike:
            outputs = {name: np.repeat(values, len(block), axis=0) for name, values in outputs.items()}
        finite = np.all([np.isfinite(values).reshape(len(block), -1).all(1) for values in outputs.values()], axis=0)
        for row in np.flatnonzero(~finite):
            self._leave_out(block[row], UserError(f"clip {block[row]}: the {kind} model answers with NaN ({side}); check the model"))
        return outputs

    def _leave_out(self, number, error):
        if not self.allow_missing:
            raise error
        log.warning("%s", error)
        self.lost[number] = str(error)

    def table(self):
        """{column: (clips that should be there,) values, NaN where a clip is lost}."""
        wanted = self.pairs.wanted
        columns = {column: np.full(len(wanted), np.nan) for metric in self.metrics for column in metric.columns}
        row_of = {number: row for row, number in enumerate(wanted)}
        good = [(i, row) for i, block in enumerate(self.blocks) for row, number in enumerate(block) if number not in self.lost]
        if not good:
            reason = next(iter(self.lost.values())).partition("; ")[0]
            raise UserError(f"none of {len(wanted)} clips can be scored, the first because: {reason}; check the files, --layout and --gt")
        rows = [row_of[self.blocks[i][row]] for i, row in good]
        for metric in self.of_pixels:
            for column in metric.columns:
                columns[column][rows] = [self.found[i]["pixels", "both"][column][row] for i, row in good]
        for metric in self.of_features:  # stacked for one metric after another: some features are large
            for column, values in metric.values(*(self._stack(need, side, good) for need, side in metric.needs)).items():
                columns[column][rows] = values
        return columns

    def _stack(self, need, side, good):
        """What a metric needs of one side, (N, ...); `good`: block and row of each clip."""
        view, name = (self.twin[model_of(need)], side), output_of(need)
        return np.stack([self.found[i][view][name][row] for i, row in good])


def _of_one_shape(clips):
    """The clips, {number: (pred, gt)}; a UserError when they differ in frames or size."""
    shapes = {number: clip[0].shape for number, clip in clips.items()}
    first = next(iter(shapes), None)
    for number, shape in shapes.items():
        if shape != shapes[first]:
            found, wanted = ("{} frames of {} x {}".format(*of) for of in (shape, shapes[first]))
            raise UserError(f"clip {number} has {found}, clip {first} {wanted}; leave one of them out with --clips")
    return clips


def score_pairs(pairs, metrics, towers, *, cache=None, workers=None, allow_missing=False, desc="clips"):
    """Every metric of every clip in one pass: each clip is decoded once, frames are scored by a pool, models in batches.

    Parameters
    ----------
    pairs : Pairs
    metrics : list of Metric
        whose models are all in `towers`
    towers : Towers
    cache : Path, optional
        folder for finished blocks, from which interrupted work goes on
    workers : int, optional
        processes, one per core by default
    allow_missing : bool
        leave out clips that cannot be read or that a model answers by NaN
    desc : str
        of the progress bar

    Returns
    -------
    columns : dict
        name -> values, (len(pairs.wanted),) float64, NaN where a clip is left out
    lost : list of int
        clips that are left out, missing ones included

    Raises
    ------
    UserError
        a clip that cannot be scored, unless allowed; no clip that can
    """
    work = _Pass(pairs, metrics, towers, cache, allow_missing)
    work.work(workers, desc)
    return work.table(), sorted(work.lost)
