"""Arrays out of other people's pickles, without running what else may be in them."""

import pickle
from pathlib import Path

import numpy as np

from common.apart import read_apart
from common.files import UserError, missing, one_line

AGAIN = "copy or download it again"
_MULTIARRAY = np._core.multiarray
# all that a pickled dict of arrays names; numpy's modules have had two spellings
_ALLOWED = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
_ALLOWED |= {
    (f"numpy.{core}.multiarray", name): getattr(_MULTIARRAY, name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")
}
_ALLOWED |= {(f"numpy.{core}.numeric", "_frombuffer"): np._core.numeric._frombuffer for core in ("core", "_core")}


class _ArraysAlone(pickle.Unpickler):
    """An unpickler that knows numpy's arrays and the built-in containers."""

    def find_class(self, module, name):
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 writes bytes
            return _to_bytes
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return _ALLOWED[module, name]


def read_responses(path, shape):
    """Responses to videos that a pickle of Algonauts 2021 holds, (videos, repetitions, voxels).

    A UserError for what `read_arrays` raises, no array "train", or one of another shape than `shape`, None for any number.
    """
    arrays = read_arrays(path)
    if "train" not in arrays:
        raise UserError(f"{path} has no array 'train'; {AGAIN}")
    found = arrays["train"].shape
    if len(found) != len(shape) or 0 in found or any(n not in (None, m) for n, m in zip(shape, found, strict=True)):
        raise UserError(f"{path} has responses of shape {found}, not {shape}; {AGAIN}".replace("None", "any"))
    return arrays["train"]


def _to_bytes(text, encoding):
    return text.encode("latin-1")


def read_arrays(path):
    """Read a pickled dict of arrays of numbers, of Python 2 or 3.

    A UserError where the file is missing, damaged, or has anything else in it; nothing of it has then been run.
    """
    path = Path(path)
    if not path.is_file():
        raise missing(path, AGAIN)
    return read_apart(unpickle, path, AGAIN)


def unpickle(path):
    """What `read_arrays` returns, read in this process, which damaged bytes may keep busy for ever or out of memory."""
    try:
        with open(path, "rb") as handle:
            content = _ArraysAlone(handle, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is damaged, or holds other objects than arrays ({one_line(error)}); {AGAIN}") from None
    except Exception as error:  # damaged bytes end in almost any kind
        raise UserError(f"{path} is damaged ({one_line(error)}); {AGAIN}") from None
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(array, np.ndarray) and array.dtype.kind in "fiub" for name, array in content.items()
    ):
        raise UserError(f"{path} does not hold a dict of arrays of numbers; {AGAIN}")
    return content
