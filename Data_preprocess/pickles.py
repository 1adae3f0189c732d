"""Arrays out of other people's pickles, without running what else may be in them."""

import pickle
from pathlib import Path

import numpy as np

from common.files import UserError, missing

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


def _to_bytes(text, encoding):
    return text.encode("latin-1")


def read_arrays(path):
    """Read a pickled dict of arrays.

    Parameters
    ----------
    path : path of the .pkl, of Python 2 or 3

    Returns
    -------
    dict, name -> np.ndarray of numbers

    Raises
    ------
    UserError : missing, broken, or anything in it but arrays of numbers; nothing of it has then been run
    """
    path, wanted, do = Path(path), "a pickled dict of arrays", "download it again"
    if not path.is_file():
        raise missing(path, wanted, do)
    try:
        with open(path, "rb") as handle:
            content = _ArraysAlone(handle, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise UserError(path, wanted, f"other objects or a broken file ({error})", do) from None
    except Exception as error:  # damaged bytes end in almost any kind
        raise UserError(path, wanted, f"a broken file ({(str(error) or type(error).__name__).splitlines()[0]})", do) from None
    if not isinstance(content, dict) or not all(isinstance(array, np.ndarray) and array.dtype.kind in "fiub" for array in content.values()):
        raise UserError(path, wanted, "other things", do)
    return content
