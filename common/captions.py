"""Caption files: HDF5, plain text, CSV."""

import csv
import io
from pathlib import Path

import h5py

from common.cli import one_line
from common.files import UserError, check_sum, missing, read_sums, sha256, write_bytes, write_sums

_ADVICE = "give a file with one caption per clip, in clip order"
_AGAIN = "run step3_video_captioning.py again with --overwrite; captions of your own go there as --captions_train and --captions_test"


def read_captions(path, n=None, key=None):
    """Read the captions of a split.

    Parameters
    ----------
    path : str or Path
        .h5 or .hdf5 with one data set of strings (or `key`); .txt with one caption a line; .csv with a column "caption"
        or "captions", or with a single column and no heading
    n : int, optional
        captions that the file must have
    key : str, optional
        name of the HDF5 data set

    Returns
    -------
    list of str

    Raises
    ------
    UserError
        missing, unreadable, changed since it was written, of another kind, an empty caption, or another number than n
    """
    path = Path(path)
    readers = {".h5": _read_h5, ".hdf5": _read_h5, ".txt": _read_txt, ".csv": _read_csv}
    if not path.is_file():
        raise missing(path, "check the path, or run step3_video_captioning.py")
    if path.suffix.lower() not in readers:
        raise UserError(f"{path} is not a caption file by its ending; give one that ends in {', '.join(readers)}")
    check_sum(path, do=_AGAIN)
    try:
        captions = readers[path.suffix.lower()](path, key)
    except UserError:
        raise
    except Exception as error:  # h5py meets damaged bytes with errors of almost any kind
        raise UserError(f"{path} is not a readable caption file ({one_line(error)}); {_ADVICE}") from None
    captions = [caption.strip() for caption in captions]
    if n is not None and len(captions) != n:
        raise UserError(f"{path} has {len(captions)} captions, not {n}; {_ADVICE}")
    if "" in captions:
        raise UserError(f"{path}: caption number {captions.index('') + 1} is empty; {_ADVICE}")
    return captions


def _read_h5(path, key):
    with h5py.File(path, "r") as file:
        keys = [name for name, item in file.items() if isinstance(item, h5py.Dataset)]
        if key is None and len(keys) == 1:
            key = keys[0]
        if key not in keys:
            wanted = f"no data set {key!r}" if key else "not one data set"
            raise UserError(f"{path} has {wanted} but {', '.join(keys) or 'none'}; {_ADVICE}")
        if h5py.check_string_dtype(file[key].dtype) is None:
            raise UserError(f"{path}:{key} holds values of type {file[key].dtype}, not text; {_ADVICE}")
        return list(file[key].asstr("utf-8")[()].reshape(-1))


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
        raise UserError(f"{path} has the columns {', '.join(rows[0])}, none of them named 'caption'; {_ADVICE}")
    return [row[0] for row in rows]


def write_captions(path, split, captions):
    """Write the captions of a split as HDF5 `{Split}_captions`, variable-length UTF-8, and its SHA-256 into the folder's SHA256SUMS.

    Parameters
    ----------
    path : str or Path
        an .h5
    split : str
        "train" or "test"
    captions : list of str
        in clip order
    """
    path = Path(path)
    buffer = io.BytesIO()  # h5py does not always end well on a full disk
    with h5py.File(buffer, "w") as file:
        file.create_dataset(f"{split.capitalize()}_captions", data=list(captions), dtype=h5py.string_dtype("utf-8"))
    write_bytes(path, buffer.getvalue())
    write_sums(path.parent, read_sums(path.parent) | {path.name: sha256(path)})
