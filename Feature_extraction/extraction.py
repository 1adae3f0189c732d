"""What the feature extraction scripts share: their records, and arrays that are filled batch by batch.

Several processes (accelerate launch, torchrun) take the batches in turn; the first one writes.
"""

import contextlib
import logging

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from tqdm import tqdm

from common.cli import choose_device
from common.files import SUMS, sha256
from common.layout import part
from common.records import working
from Feature_extraction.array_writer import ArrayWriter
from models.precision import allow_tf32

log = logging.getLogger(__name__)
ROWS = "clips in the data set's order"  # of every data card


def record_folder(layout, script, split):
    """Folder of the record of one split."""
    return layout.features / "records" / f"{script}_{part(split)}"


def frame_sums(layout, dataset, split):
    """File with the SHA-256 of all frames of a split, as a list; empty where step 2 has not written it."""
    path = layout.frames(split, dataset.clip_names(split)[0]).parent / SUMS
    return [path] if path.is_file() else []


def join_processes(device):
    """This process among those that a launcher has started: accelerate's state, with its `device`; `device` is the flag."""
    allow_tf32(False)
    return PartialState(cpu=choose_device(device).type == "cpu")


@contextlib.contextmanager
def extracting(state, folder, args, **files):
    """`common.records.working` in every process, the first one before the others."""
    with contextlib.ExitStack() as stack:
        with state.main_process_first():
            record = stack.enter_context(working(folder, args, **files))
        yield record


def fill_arrays(state, arrays, compute, n, batch_size, record, what):
    """Compute rows batch by batch, write them and finish the record; interrupted work goes on where it stopped.

    Parameters
    ----------
    state : accelerate.PartialState
    arrays : list of (path, shape of a row, dtype, data card)
    compute : function
        of a range of rows; gives these rows of each of `arrays` (more are left out)
    n : int
        rows
    batch_size : int
        rows at a time
    record : common.records.Record
        started
    what : str
        for the progress bar
    """
    key = [record.settings(), [sha256(path) for path in record.inputs]]  # half an array of other inputs is thrown away
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(ArrayWriter(path, (n, *shape), dtype, key=key, card=card, fresh=record.overwrite))
            for path, shape, dtype, card in arrays
            if state.is_main_process
        ]
        (done,) = broadcast_object_list([min((writer.done for writer in writers), default=0)])
        batches = [range(start, min(start + batch_size, n)) for start in range(done, n, batch_size)]
        turns = [batches[i : i + state.num_processes] for i in range(0, len(batches), state.num_processes)]
        for turn in tqdm(turns, desc=what, unit="batch", disable=not state.is_main_process):
            own = turn[state.process_index : state.process_index + 1]  # the last turn may have none for it
            for rows, computed in zip(turn, gather_object([compute(rows) for rows in own]), strict=True):
                for writer, values in zip(writers, computed, strict=False):
                    writer.write(rows.start, values)
    if state.is_main_process:
        for path, shape, dtype, _ in arrays:
            log.info("%s: %s %s", path, (n, *shape), dtype)
        record.finish(clips=n)
