"""Files that are either whole or absent, arrays with data cards, and the one-line error of a user's mistake."""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np


class UserError(Exception):
    """A user's mistake or a bad input: shown as one line, exit status 2.

    Parameters
    ----------
    where : path or flag that is at fault
    expected, found : str, what the script needed and what it got
    do : str, what the user can do about it
    """

    def __init__(self, where, expected, found, do):
        super().__init__(where, expected, found, do)  # as they are, or it could not come back from a worker process

    def __str__(self):
        return "{}: expected {}, found {}; {}".format(*self.args)


# ---------------------------------------------------------------------------------------------- a full disk

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_TEMPORARY = "No usable temporary directory"  # Python's words when not even a few bytes can be written


def full_disk(error):
    """Number of the system's error for want of room that an exception of any kind tells of; None if it is of another thing.

    h5py and safetensors have exceptions of their own, which say the system's error in words alone.
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        return error.errno
    if isinstance(error, UserError):
        return None
    text = str(error)
    told = [number for number in _FULL if os.strerror(number) in text or re.search(rf"\bos error {number}\b", text)]
    return told[0] if told else errno.ENOSPC if _NO_TEMPORARY in text else None


@contextlib.contextmanager
def naming(path):
    """Let a full disk inside the block be an OSError that names `path`, whatever the library that wrote makes of it."""
    try:
        yield
    except Exception as error:
        number = full_disk(error)
        named = str(getattr(error, "filename", None) or ".partial-")
        if number is None or ".partial-" not in named:  # another file, written inside this block, is named already
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


# ---------------------------------------------------------------------------------------------- atomic writes

CHECKSUM = "checksum"  # entry of the JSON files that `write_json` makes
_AGAIN = "delete the file and run the script that writes it again"


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, else delete it.

    The temporary name keeps the ending, which many writers go by.
    """
    path = Path(path)
    temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_files(folder):
    """Yield an empty temporary folder beside `folder`; its files move into `folder` when the block ends well."""
    folder = Path(folder)
    temporary = folder.with_name(f".partial-{os.getpid()}-{folder.name}")
    try:
        with naming(folder):
            temporary.mkdir(parents=True)
            yield temporary
            folder.mkdir(exist_ok=True)
            for path in temporary.iterdir():
                os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path, content):
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path, text):
    write_bytes(path, text.encode())


def write_json(path, content):
    """Write JSON; a dict gets its checksum as one more entry, which `read_json` compares and takes out."""
    if isinstance(content, dict):
        content = {**content, CHECKSUM: fingerprint(json.loads(json.dumps(content, default=_plain)))}
    write_text(path, json.dumps(content, indent=2, default=_plain) + "\n")


def _plain(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} does not go into JSON")


def read_json(path):
    """Parse a JSON file; a missing, broken or altered one is a UserError."""
    try:
        content = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise missing(path, "a JSON file") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(path, "JSON", f"{error}", _AGAIN) from None
    if isinstance(content, dict) and content.pop(CHECKSUM, None) not in (None, fingerprint(content)):
        raise UserError(path, f"the content that its {CHECKSUM} is of", "another", _AGAIN)
    return content


def _first_line(error):
    return (str(error) or type(error).__name__).splitlines()[0]


def missing(path, what, do="run the script that writes it, or check the path"):
    return UserError(path, what, "nothing there", do)


def sha256(path):
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fingerprint(content):
    """Short hash of anything that JSON holds."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=_plain).encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------------------------- arrays


def card_path(path):
    return Path(f"{path}.json")


def _card(path, array, rows, units, made_by, **facts):
    return {
        "file": Path(path).name,
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "rows": rows,
        "units": units,
        "made_by": made_by,
        **facts,
    }


def save_array(path, array, *, rows, units, made_by, **facts):
    """Write `X.npy` and its data card `X.npy.json`, both atomically.

    Parameters
    ----------
    path : path of the .npy
    array : np.ndarray
    rows : str, the order of the rows
    units : str
    made_by : str, script and what it did
    **facts : more entries of the card (vertex indices, say)
    """
    array = np.asarray(array, order="C")
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as handle:
            # not np.save, whose error for a full disk has no number to know it by
            np.lib.format.write_array_header_1_0(handle, np.lib.format.header_data_from_array_1_0(array))
            handle.write(array.data)
        card = _card(path, array, rows, units, made_by, **facts, sha256=sha256(temporary))
        write_json(card_path(path), card)  # before the array: a card alone is no array


def load_array(path, *, shape=None, dtype=None, finite=True, mmap=False, verify=False, do="run the script that writes it again"):
    """Read a .npy file and check it.

    Parameters
    ----------
    path : path of the .npy
    shape : tuple with None for any size, optional
    dtype : str or dtype that the file must have, optional
    finite : bool, refuse NaN and infinite values
    mmap : bool, return a read-only memory map
    verify : bool, compare the content with the SHA-256 of the data card
    do : str, advice for the error line

    Returns
    -------
    np.ndarray

    Raises
    ------
    UserError : missing, truncated, misshapen, of another type, altered, or not finite
    """
    path = Path(path)
    wanted = "an array of shape (" + ", ".join("any" if n is None else str(n) for n in shape) + ")" if shape else "a .npy array"
    if not path.is_file():
        raise missing(path, wanted, do)
    try:
        array = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except Exception as error:  # numpy meets a damaged header with errors of almost any kind
        raise UserError(path, wanted, f"a broken file ({_first_line(error)})", do) from None
    shape = (None,) * max(1, array.ndim) if shape is None else shape
    fits = len(shape) == array.ndim and all(n is None or n == m for n, m in zip(shape, array.shape, strict=True))
    if not fits:
        raise UserError(path, wanted, f"shape {array.shape}", do)
    if dtype is not None and array.dtype != np.dtype(dtype):
        raise UserError(path, f"type {np.dtype(dtype)}", f"type {array.dtype}", do)
    if card_path(path).exists():
        card = read_json(card_path(path))
        if card.get("shape") != list(array.shape) or card.get("dtype") != str(array.dtype):
            raise UserError(
                path, f"what its data card says ({card.get('shape')}, {card.get('dtype')})", f"{list(array.shape)}, {array.dtype}", do
            )
        if verify:
            check_card(path, do=do)
    if finite and array.dtype.kind == "f":
        step = max(1, 2**22 // max(1, int(np.prod(array.shape[1:]))))
        for i in range(0, len(array), step):
            bad = ~np.isfinite(array[i : i + step])
            if bad.any():
                raise UserError(path, "finite numbers", f"NaN or infinity from row {i + np.argwhere(bad)[0][0]} on", do)
    return array


def load_mask(path, n):
    """Read a mask of 0 and 1 with at least one 1, (n,) bool; a UserError when it is another thing."""
    mask = load_array(path, shape=(n,), do="give a mask of 0 and 1, one per vertex")
    if not np.isin(mask, (0, 1)).all() or not mask.any():
        raise UserError(path, "zeros and ones", f"values from {mask.min()} to {mask.max()}", "give a mask")
    return mask.astype(bool)


def check_card(path, digest=None, do=_AGAIN):
    """Raise a UserError when a file's data card, if it has one, is of other bytes.

    Parameters
    ----------
    path : path of the file
    digest : str, its SHA-256 where that is known already
    do : str, advice for the error line
    """
    if card_path(path).exists() and read_json(card_path(path)).get("sha256") != (digest or sha256(path)):
        raise UserError(path, "the content that its data card has the SHA-256 of", "other bytes", do)


def load_npz(path, do=_AGAIN):
    """Read a .npz file, {name: array}; a missing or broken one is a UserError. Its arrays carry checksums."""
    try:
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as content:
            arrays = dict(content)
            handle.seek(-12, os.SEEK_END)  # number of entries, which zipfile does not look at
            if int.from_bytes(handle.read(2), "little") != len(arrays):
                raise ValueError("a damaged directory")
            return arrays
    except FileNotFoundError:
        raise missing(path, "a .npz file", do) from None
    except Exception as error:  # zipfile and numpy meet damaged bytes with errors of almost any kind
        raise UserError(path, "a .npz file", f"a broken one ({_first_line(error)})", do) from None


class ArrayWriter:
    """An .npy that is filled row by row, goes on where it was cut off, and gets its name only when it is whole.

    Parameters
    ----------
    path : path of the final .npy
    shape, dtype : of the whole array
    key : anything JSON holds that identifies the run; a half-done array of another key is thrown away
    card : dict for the data card: rows, units, made_by and any more facts
    fresh : bool, throw a half-done array away even if it is of the same key

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
            card = _card(self.path, self.array, **self.card, sha256=sha256(self.partial))
            write_json(card_path(self.path), card)
            os.replace(self.partial, self.path)
            self.progress.unlink(missing_ok=True)
        del self.array
        return False


def strings_digest(strings):
    """SHA-256 of a list of strings, hexadecimal."""
    return hashlib.sha256("\0".join(strings).encode()).hexdigest()


def write_h5_strings(path, key, strings):
    """Write variable-length UTF-8 strings to `path:key`, atomically, with their SHA-256 as an attribute."""
    import h5py

    buffer = io.BytesIO()  # h5py does not always end well on a full disk
    with h5py.File(buffer, "w") as file:
        dataset = file.create_dataset(key, data=list(strings), dtype=h5py.string_dtype("utf-8"))
        dataset.attrs["sha256"] = strings_digest(strings)
    write_bytes(path, buffer.getvalue())


def scratch_folder(parent):
    """A temporary folder below `parent`, deleted at the end of the block."""
    Path(parent).mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=parent, prefix=".partial-")
