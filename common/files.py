"""Files that are either whole or absent, arrays with data cards, and the one-line error of a user's mistake."""

import contextlib
import errno
import hashlib
import json
import os
import re
import signal
from functools import lru_cache
from pathlib import Path

import numpy as np


class UserError(Exception):
    """A user's mistake or a bad input: shown as one line, exit status 2.

    The message is one sentence that names the file or flag and what is wrong with it, then, after a semicolon, what to do.
    """


class MissingFile(UserError):
    """A file that is not there."""


def missing(path, do="run the script that writes it, or check the path"):
    """MissingFile for a path, with what to do about it."""
    return MissingFile(f"file not found: {path}; {do}")


def one_line(error):
    """An error's message on one line, without control characters; the name of its class where it has none."""
    text = re.sub(r"\s*\n\s*", " ", str(error).strip()) or type(error).__name__
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


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


# ---------------------------------------------------------------------------------------------- signals


@contextlib.contextmanager
def held_signals():
    """Hold SIGINT and SIGTERM until the end of a block that an exception in the middle would spoil."""
    held = []
    before = {
        number: signal.signal(number, lambda number, _: held.append(number)) for number in (signal.SIGINT, signal.SIGTERM)
    }  # a blocked one goes to a thread
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in held:
            signal.raise_signal(number)


# ---------------------------------------------------------------------------------------------- atomic writes

_AGAIN = "delete the file and run the script that writes it again"
_MOST_JSON = 2**28  # bytes


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


def write_bytes(path, content):
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path, text):
    write_bytes(path, text.encode())


def write_json(path, content):
    """Write JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, default=_plain) + "\n")


def _plain(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} does not go into JSON")


def read_bytes(path, most, do="check the path"):
    """Content of a file; a UserError for one that is missing, unreadable, no file or larger than `most` bytes."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder where a file belongs; {do}")
    if not path.is_file():
        raise missing(path)
    if (size := path.stat().st_size) > most:
        raise UserError(f"{path} has {size} bytes, and a file of its kind at most {most}; {do}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {do}") from None


def read_json(path, kind=dict, do=_AGAIN):
    """Parse a JSON file.

    Parameters
    ----------
    kind : type, tuple of types, dict or list
        that the content must be of; {name: kind} for a dict that has such entries ("name?" for one that may be absent),
        {...: kind} for one whose entries are all so, [kind] for a list of such things
    do : str
        advice for the error line

    Raises
    ------
    UserError
        a missing or broken file, or content of another type
    """
    try:
        content = json.loads(read_bytes(path, _MOST_JSON, do).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({one_line(error)}); {do}") from None
    if wrong := _wrong_entry(content, kind):
        raise UserError(f"{path} {wrong}; {do}")
    return content


def _wrong_entry(content, kind, where=""):
    """What is wrong with parsed JSON, in words; None for nothing. For `kind` see `read_json`."""
    if isinstance(kind, (dict, list)):
        if not isinstance(content, type(kind)):
            return f"holds a {type(content).__name__} where a {type(kind).__name__} belongs{where}"
        parts = [(i, part, kind[0]) for i, part in enumerate(content)] if isinstance(kind, list) else []
        for name, inner in kind.items() if isinstance(kind, dict) else ():
            plain = name if name is ... else name.removesuffix("?")
            if plain is name is not ... and name not in content:
                return f"has no entry {name!r}"
            parts += [(key, part, inner) for key, part in content.items() if plain in (..., key)]
        return next(filter(None, (_wrong_entry(part, inner, f", as {key!r}") for key, part, inner in parts)), None)
    if not isinstance(content, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        return f"holds a {type(content).__name__} where a {kinds[0].__name__} belongs{where}"
    return None


def read_log(path, kind=dict):
    """Lines of a JSON-lines file that hold a thing of a kind (see `read_json`); none where there is no file.

    Lines that a kill has cut off or that are damaged are left out.
    """
    found = []
    for line in read_bytes(path, _MOST_JSON).splitlines() if Path(path).exists() else ():
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if not _wrong_entry(entry, kind):
                found.append(entry)
    return found


def sha256(path):
    """SHA-256 of a file, hexadecimal; a file that has not changed is not read twice."""
    stat = os.stat(path)
    return _sha256(str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256(path, inode, size, time):
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fingerprint(content):
    """Short hash of anything that JSON holds."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=_plain).encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------------------------- SHA256SUMS

SUMS = "SHA256SUMS"  # one a folder, as `sha256sum -c SHA256SUMS` reads it


def write_sums(folder, sums):
    """Write the SHA256SUMS of a folder, of {path below it: SHA-256}."""
    write_text(Path(folder) / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))


def read_sums(folder):
    """SHA-256 by path below the folder, dict; empty where the folder has no SHA256SUMS."""
    path = Path(folder) / SUMS
    if not path.is_file():
        return {}
    stat = path.stat()
    return _read_sums(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _read_sums(path, size, time):
    sums = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if not match:
            raise UserError(f"{path}, line {number}, is not a SHA-256 and a file name; {_AGAIN}")
        sums[match[2]] = match[1]
    return sums


def check_sum(path, folder=None, content=None, do=_AGAIN):
    """Raise a UserError when a file has changed since its folder's SHA256SUMS was written.

    Parameters
    ----------
    folder : str or Path, optional
        folder of the SHA256SUMS, the file's own by default
    content : bytes, optional
        of the file, where it has been read already
    do : str
        advice for the error line
    """
    path, folder = Path(path), Path(folder or Path(path).parent)
    known = read_sums(folder).get(path.relative_to(folder).as_posix())
    if known is not None and known != (sha256(path) if content is None else hashlib.sha256(content).hexdigest()):
        raise UserError(f"{path} does not match its checksum in {folder / SUMS}; {do}")


# ---------------------------------------------------------------------------------------------- arrays


def card_path(path):
    return Path(f"{path}.json")


def make_card(path, array, rows, units, made_by, **facts):
    """Data card of an array, dict."""
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
    rows, units : str
        the order of the rows, and the unit of the values
    made_by : str
        script and what it did
    **facts
        more entries of the card (vertex indices, say)
    """
    array = np.asarray(array, order="C")
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as handle:
            # not np.save, whose error for a full disk has no number to know it by
            np.lib.format.write_array_header_1_0(handle, np.lib.format.header_data_from_array_1_0(array))
            handle.write(array.data)
        card = make_card(path, array, rows, units, made_by, **facts, sha256=sha256(temporary))
        write_json(card_path(path), card)  # before the array: a card alone is no array


def load_array(path, *, shape=None, dtype=None, finite=True, mmap=False, verify=False, do="run the script that writes it again"):
    """Read a .npy file and check it.

    Parameters
    ----------
    shape : tuple, optional
        that it must have, None for any size
    dtype : str or dtype, optional
        that it must have
    finite : bool
        refuse NaN and infinite values
    mmap : bool
        return a read-only memory map
    verify : bool
        compare the content with the SHA-256 of the data card
    do : str
        advice for the error line

    Raises
    ------
    UserError
        missing, truncated, of another shape or type, changed since it was written, or not finite
    """
    path = Path(path)
    if not path.is_file():
        raise missing(path, do)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # finds a size that the file does not have before memory is asked for
        array = array if mmap or not isinstance(array, np.ndarray) else np.load(path, allow_pickle=False)
    except Exception as error:  # numpy meets a damaged header with errors of almost any kind
        reason = "damaged, or objects in it" if "allow_pickle" in str(error) else one_line(error)  # that is numpy's advice, not ours
        raise UserError(f"{path} is not a readable .npy array ({reason}); {do}") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise UserError(f"{path} is an .npz archive where a single .npy array belongs; {do}")
    shape = (None,) * max(1, array.ndim) if shape is None else shape
    if len(shape) != array.ndim or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise UserError(f"{path} has shape {array.shape}, not ({wanted}); {do}")
    if 0 in array.shape:
        raise UserError(f"{path} has shape {array.shape}, and nothing in it; {do}")
    if array.dtype.kind not in "fiub":
        raise UserError(f"{path} holds values of type {array.dtype}, not real numbers; {do}")
    if dtype is not None and array.dtype != np.dtype(dtype):
        raise UserError(f"{path} holds values of type {array.dtype}, not {np.dtype(dtype)}; {do}")
    if card_path(path).exists():
        card = read_json(card_path(path))
        if card.get("shape") != list(array.shape) or card.get("dtype") != str(array.dtype):
            described = f"{card.get('shape')}, {card.get('dtype')}"
            raise UserError(f"{path} is {list(array.shape)}, {array.dtype}, but its data card describes {described}; {do}")
        if verify:
            check_card(path, do=do)
    if finite and array.dtype.kind == "f":
        step = max(1, 2**22 // max(1, int(np.prod(array.shape[1:]))))
        for i in range(0, len(array), step):
            bad = ~np.isfinite(array[i : i + step])
            if bad.any():
                raise UserError(f"{path} has NaN or infinite values, the first in row {i + np.argwhere(bad)[0][0]}, counted from 0; {do}")
    return array


def load_mask(path, n, do="give a mask of zeros and ones, one per vertex"):
    """Read a mask of 0 and 1 with at least one 1, (n,) bool; a UserError when it is another thing."""
    mask = load_array(path, shape=(n,), do=do)
    if not np.isin(mask, (0, 1)).all():
        raise UserError(f"{path} has values from {mask.min()} to {mask.max()}; give a mask of zeros and ones")
    if not mask.any():
        raise UserError(f"{path} selects no vertex; give a mask with at least one 1")
    return mask.astype(bool)


def check_card(path, digest=None, do=_AGAIN):
    """Raise a UserError when a file's data card, if it has one, is of other bytes; `digest` is its SHA-256 where that is known already."""
    if card_path(path).exists() and read_json(card_path(path)).get("sha256") != (digest or sha256(path)):
        raise UserError(f"{path} does not match its checksum in {card_path(path).name}; {do}")
