"""Caption files: one data set of strings in HDF5."""

import io
import re
from pathlib import Path

import h5py
import numpy as np

from common.apart import read_apart
from common.files import UserError, check_sum, held_signals, missing, one_line, read_sums, sha256, write_bytes, write_sums

_ADVICE = "give a file with one caption per clip, in clip order"
_AGAIN = "run step3_video_captioning.py again with --overwrite; captions of your own go there as --captions_train and --captions_test"


def read_captions(path, n=None):
    """Captions of a split, list of str.

    Parameters
    ----------
    path : str or Path
        .h5 with one data set of strings
    n : int, optional
        captions that the file must have

    Raises
    ------
    UserError
        missing, unreadable, changed since it was written, an empty caption, or another number than n
    """
    path = Path(path)
    if not path.is_file():
        raise missing(path, "check the path, or run step3_video_captioning.py")
    check_sum(path, do=_AGAIN)
    # libhdf5 answers some damage with an endless loop; a file whose checksum is known and right has none
    found = read_texts(path) if path.name in read_sums(path.parent) else read_apart(read_texts, path, _ADVICE)
    if len(found) != 1:
        raise UserError(f"{path} has not one data set of text but {', '.join(found) or 'none'}; {_ADVICE}")
    (texts,) = found.values()
    return check_captions(path, texts.tobytes().decode().split("\0") if texts.size else [], n)


def check_captions(path, captions, n=None):
    """Captions without blanks and line breaks around and in them; a UserError for another number than n, or one that is none."""
    captions = [re.sub(r"\s*[\t\r\n]\s*", " ", caption.strip()) for caption in captions]
    if n is not None and len(captions) != n:
        raise UserError(f"{path} has {len(captions)} captions, not {n}; {_ADVICE}")
    for number, caption in enumerate(captions, 1):
        bad = re.search(r"[\x00-\x1f\x7f]", caption)
        if bad or caption.lower() in ("", "n/a", "nan"):
            what = f"has the control character {bad[0]!r}" if bad else f"is {caption!r}" if caption else "is empty"
            raise UserError(f"{path}: caption number {number} {what}; {_ADVICE}")
    return captions


def read_texts(path):
    """Data sets of text of an HDF5 file, dict of name -> UTF-8 bytes with a zero byte between two texts, uint8."""
    found = {}
    try:
        with h5py.File(path, "r") as file:
            for name, item in file.items():
                if isinstance(item, h5py.Dataset) and h5py.check_string_dtype(item.dtype) is not None:
                    texts = np.atleast_1d(item.asstr("utf-8")[()]).ravel()
                    found[name] = np.frombuffer("\0".join(text.replace("\0", "\x01") for text in texts).encode(), np.uint8)
    except Exception as error:  # h5py meets damaged bytes with errors of almost any kind
        raise UserError(f"{path} is not a readable caption file ({one_line(error)}); {_ADVICE}") from None
    return found


def write_captions(path, split, captions, key="{}_captions"):
    """Write the captions of a split, in clip order, into an .h5, and its SHA-256 into the folder's SHA256SUMS.

    The data set is `{Split}_captions`, variable-length UTF-8.
    """
    path = Path(path)
    buffer = io.BytesIO()  # h5py does not always end well on a full disk
    with held_signals(), h5py.File(buffer, "w") as file:  # an exception in mid-write becomes another one of h5py's
        file.create_dataset(key.format(split.capitalize()), data=list(captions), dtype=h5py.string_dtype("utf-8"))
    write_bytes(path, buffer.getvalue())
    write_sums(path.parent, read_sums(path.parent) | {path.name: sha256(path)})
