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
from common.layout import Layout, part
from common.records import working
from Feature_extraction.array_writer import ArrayWriter

log = logging.getLogger(__name__)


def frame_sums(layout, dataset, split):
    """File with the SHA-256 of all frames of a split, as a list; empty where step 2 has not written it."""
    path = layout.frames(split, dataset.clip_names(split)[0]).parent / SUMS
    return [path] if path.is_file() else []


def extract_splits(args, script, inputs, outputs, prepare):
    """Extract features of every split of --split, in this process and those that a launcher has started beside it.

    Parameters
    ----------
    script : str
        name of the script, for its records
    inputs, outputs : function of a split
        files that are read, and the arrays that are written
    prepare : function of a split and a device
        loads what is needed; gives the number of clips, of each array its (shape of a row, dtype, data card), and a function
        of a range of clips that computes these rows of each array (more are left out)
    """
    state = PartialState(cpu=choose_device(args.device).type == "cpu")
    for split in args.split:
        paths, folder = outputs(split), Layout.of(args).features / "records" / f"{script}_{part(split)}"
        with contextlib.ExitStack() as stack:
            with state.main_process_first():
                record = stack.enter_context(working(folder, args, inputs=inputs(split), outputs=paths))
            if record is None:
                continue
            n, kinds, compute = prepare(split, state.device)
            shared = {"rows": "clips in the data set's order", "made_by": script}
            arrays = [(path, shape, dtype, shared | card) for path, (shape, dtype, card) in zip(paths, kinds, strict=False)]
            fill_arrays(state, arrays, compute, n, args.batch_size, record, f"{split} clips")


def fill_arrays(state, arrays, compute, n, batch_size, record, what):
    """Compute rows batch by batch, write them and finish the record; interrupted work goes on where it stopped.

    Parameters
    ----------
    arrays : list of (path, shape of a row, dtype, data card)
    compute : function
        of a range of the n rows; gives these rows of each of `arrays` (more are left out)
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
