"""Caption files: HDF5, plain text, CSV."""

import csv
from pathlib import Path

import h5py

from common.files import UserError, missing, strings_digest, write_h5_strings

_ADVICE = "give a file with one caption per clip, in clip order"


def read_captions(path, n=None, key=None):
    """Read the captions of a split.

    Parameters
    ----------
    path : .h5 or .hdf5 with one data set of strings (or `key`); .txt with one caption a line; .csv with a column
        'caption' or 'captions', or with a single column and no heading
    n : int, number of captions that the file must have, optional
    key : str, name of the HDF5 data set, optional

    Returns
    -------
    list of str

    Raises
    ------
    UserError : missing, unreadable, of another kind, an empty caption, or another number than n
    """
    path = Path(path)
    if not path.is_file():
        raise missing(path, "a caption file", "check the path, or run step3_video_captioning.py")
    readers = {".h5": _read_h5, ".hdf5": _read_h5, ".txt": _read_txt, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise UserError(path, f"a file ending in {', '.join(readers)}", path.suffix or "no ending", "convert it")
    try:
        captions = readers[path.suffix.lower()](path, key)
    except UserError:
        raise
    except Exception as error:  # h5py meets damaged bytes with errors of almost any kind
        raise UserError(path, "a readable caption file", f"'{(str(error) or type(error).__name__).splitlines()[0]}'", _ADVICE) from None
    captions = [caption.strip() for caption in captions]
    if n is not None and len(captions) != n:
        raise UserError(path, f"{n} captions", str(len(captions)), _ADVICE)
    if "" in captions:
        raise UserError(path, "a caption for every clip", f"an empty one at number {captions.index('') + 1}", _ADVICE)
    return captions


def _read_h5(path, key):
    with h5py.File(path, "r") as file:
        keys = [name for name, item in file.items() if isinstance(item, h5py.Dataset)]
        if key is None and len(keys) == 1:
            key = keys[0]
        if key not in keys:
            raise UserError(path, f"a data set {key!r}" if key else "one data set", ", ".join(keys) or "none", _ADVICE)
        if h5py.check_string_dtype(file[key].dtype) is None:
            raise UserError(f"{path}:{key}", "strings", f"type {file[key].dtype}", _ADVICE)
        captions = list(file[key].asstr("utf-8")[()].reshape(-1))
        if file[key].attrs.get("sha256", None) not in (None, strings_digest(captions)):
            raise UserError(path, "the captions that its SHA-256 is of", "others", "run step3_video_captioning.py again with --overwrite")
        return captions


def _read_txt(path, key):
    return path.read_text(encoding="utf-8").splitlines()


def _read_csv(path, key):
    with open(path, encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.reader(handle) if row]
    heading = [cell.strip().lower() for cell in rows[0]] if rows else []
    for name in ("caption", "captions"):
        if name in heading:
            column = heading.index(name)
            return [row[column] if column < len(row) else "" for row in rows[1:]]
    if any(len(row) != 1 for row in rows):
        raise UserError(path, "a column named 'caption', or one column", f"the columns {', '.join(rows[0])}", _ADVICE)
    return [row[0] for row in rows]


def write_captions(path, split, captions):
    """Write the captions of a split as HDF5 `{Split}_captions`, variable-length UTF-8.

    Parameters
    ----------
    path : path of the .h5
    split : 'train' or 'test'
    captions : list of str, in clip order
    """
    write_h5_strings(path, f"{split.capitalize()}_captions", captions)
