"""What the feature extraction scripts share: one run record a split, arrays that are filled batch by batch."""

import contextlib
import logging

from tqdm import tqdm

from common.files import ArrayWriter
from common.layout import Layout, part
from common.records import Record

log = logging.getLogger(__name__)
ROWS = "clips in the data set's order"  # of every data card
_HOW = ("split", "batch_size")  # flags that do not change what comes out


def pending_splits(args, script, inputs, outputs):
    """The splits of --split that are not done yet, each with its started run record.

    Parameters
    ----------
    args : parsed arguments
    script : str, name of the script
    inputs, outputs : functions of a split that give lists of paths

    Yields
    ------
    split, record : str, Record; call record.finish(...) when all is written
    """
    for split in args.split:
        folder = Layout.of(args).features / "records" / f"{script}_{part(split)}"
        record = Record(folder, args, inputs(split), _HOW)
        there = all(path.exists() for path in outputs(split))
        if not (there and record.is_done()):
            yield split, record.start()


def fill_arrays(arrays, compute, n, batch_size, record, what):
    """Compute rows batch by batch and write them; goes on where an earlier run stopped.

    Parameters
    ----------
    arrays : list of (path, shape of a row, dtype, data card)
    compute : function of a range of rows that gives these rows of each of `arrays` (more are left out)
    n : int, rows
    batch_size : int, rows at a time
    record : started Record
    what : str, for the progress bar
    """
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(ArrayWriter(path, (n, *shape), dtype, key=record.settings(), card=card, fresh=record.overwrite))
            for path, shape, dtype, card in arrays
        ]
        done = min(writer.done for writer in writers)
        for start in tqdm(range(done, n, batch_size), desc=what, unit="batch"):
            rows = range(start, min(start + batch_size, n))
            for writer, values in zip(writers, compute(rows), strict=False):
                writer.write(start, values)
    for path, shape, dtype, _ in arrays:
        log.info("%s: %s %s", path, (n, *shape), dtype)
