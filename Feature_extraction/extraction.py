"""What the feature extraction scripts share: where their records lie, and arrays that are filled batch by batch."""

import contextlib
import logging

from tqdm import tqdm

from common.files import SUMS, sha256
from common.layout import part
from Feature_extraction.array_writer import ArrayWriter

log = logging.getLogger(__name__)
ROWS = "clips in the data set's order"  # of every data card


def record_folder(layout, script, split):
    """Folder of the record of one split."""
    return layout.features / "records" / f"{script}_{part(split)}"


def frame_sums(layout, dataset, split):
    """File with the SHA-256 of all frames of a split, as a list; empty where step 2 has not written it."""
    path = layout.frames(split, dataset.clip_names(split)[0]).parent / SUMS
    return [path] if path.is_file() else []


def fill_arrays(arrays, compute, n, batch_size, record, what):
    """Compute rows batch by batch and write them; interrupted work goes on where it stopped.

    Parameters
    ----------
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
        ]
        done = min(writer.done for writer in writers)
        for start in tqdm(range(done, n, batch_size), desc=what, unit="batch"):
            rows = range(start, min(start + batch_size, n))
            for writer, values in zip(writers, compute(rows), strict=False):
                writer.write(start, values)
    for path, shape, dtype, _ in arrays:
        log.info("%s: %s %s", path, (n, *shape), dtype)
