"""An array that is written batch by batch and continued where it was cut off."""

import contextlib
import os
from pathlib import Path

import numpy as np

from common.files import UserError, card_path, fingerprint, make_card, naming, read_json, sha256, write_json


class ArrayWriter:
    """An .npy that is filled row by row, goes on where it was cut off, and gets its name only when it is whole.

    Parameters
    ----------
    path, shape, dtype
        of the whole array
    key : anything that JSON holds
        what the array depends on; a half-done array of another key is thrown away
    card : dict
        for the data card: rows, units, made_by and any more facts
    fresh : bool
        throw a half-done array away even if it is of the same key

    Use::

        with ArrayWriter(path, (n, 512), "float32", key=key, card=card) as out:
            for i in range(out.done, n, batch):
                out.write(i, values)
    """

    def __init__(self, path, shape, dtype, *, key, card, fresh=False):
        self.fresh = fresh
        self.path, self.shape, self.dtype, self.card = Path(path), tuple(shape), np.dtype(dtype), card
        self.partial = self.path.with_name(f".partial-{self.path.name}")
        self.progress = self.path.with_name(f".partial-{self.path.name}.json")
        self.key = fingerprint([key, list(self.shape), str(self.dtype)])

    def __enter__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.done = 0
        if self.fresh:
            self.progress.unlink(missing_ok=True)
        with contextlib.suppress(UserError, OSError, ValueError, KeyError):
            state = read_json(self.progress)
            if state["key"] == self.key:
                self.array = np.lib.format.open_memmap(self.partial, mode="r+")
                if self.array.shape == self.shape and self.array.dtype == self.dtype:
                    self.done = state["done"]
        if not self.done:
            try:
                with naming(self.path):
                    self.array = np.lib.format.open_memmap(self.partial, mode="w+", dtype=self.dtype, shape=self.shape)
                    # a sparse map that outgrows the disk would end in a bus error: ask for the room now
                    with open(self.partial, "r+b") as handle:
                        os.posix_fallocate(handle.fileno(), 0, os.path.getsize(self.partial))
            except OSError:
                self.partial.unlink(missing_ok=True)  # the room that it has taken
                raise
        return self

    def write(self, start, rows):
        """Store rows from index `start` on and note that all before their end are done."""
        self.array[start : start + len(rows)] = rows
        self.array.flush()
        self.done = start + len(rows)
        write_json(self.progress, {"key": self.key, "done": self.done})

    def __exit__(self, kind, error, trace):
        if kind is None and self.done == self.shape[0]:
            card = make_card(self.path, self.array, **self.card, sha256=sha256(self.partial))
            write_json(card_path(self.path), card)
            os.replace(self.partial, self.path)
            self.progress.unlink(missing_ok=True)
        del self.array
        return False
