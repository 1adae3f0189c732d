"""Checkpoints: ours (safetensors and a JSON that says what they are), and the authors' released .pth files.

Nothing is unpickled. A file that does not fit is refused before anything of the model changes.
"""

import contextlib
import importlib.metadata
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from common.files import UserError, atomic_path, missing, naming, one_line, read_json, sha256, write_json
from models.cmg import ConsistencyMotionGenerator
from models.cmg_patch import PatchCMG
from models.loading import describe_faults, name_some
from models.retrieval_decoder import LinearDecoder, RetrievalDecoder
from models.semantic_decoder import SemanticDecoder
from models.structure_decoder import StructureDecoder

DECODERS = {  # classes that each of the decoders can be of, the paper's first
    "semantic": (SemanticDecoder,),
    "structure": (StructureDecoder,),
    "CMG": (ConsistencyMotionGenerator, PatchCMG),
    "retrieval": (RetrievalDecoder, LinearDecoder),
}
KINDS = {kind.__name__: kind for kinds in DECODERS.values() for kind in kinds}
TRAINING_STATE = "training_state.safetensors"  # in the folder of a training that has not finished
_OURS = ("kind", "arguments", "sha256")
_AGAIN = "run the training script again, or give another checkpoint"
_WEIGHTS_ALONE = "give a file that holds the state dict of a decoder and nothing else"


def record_path(path):
    """The JSON beside X.safetensors: X.json."""
    return Path(path).with_suffix(".json")


def statistics_path(path):
    """Mean and standard deviation of the fMRI that a checkpoint was trained on, for common.fmri.load_statistics.

    One file beside the checkpoints of a folder; absent where the input was no fMRI, and beside released checkpoints.
    """
    return Path(path).with_name("fmri_statistics.npy")


# ---------------------------------------------------------------------------------------------- our format


@contextlib.contextmanager
def safetensors_path(path):
    """Yield a temporary path for `save_file`; what is there when the block ends well becomes `path`.

    It lies in a folder of its own, because safetensors writes into a further temporary file beside it, which a kill leaves.
    """
    path = Path(path)
    folder = path.with_name(f".partial-{os.getpid()}-{path.stem}")
    try:
        with naming(path):
            folder.mkdir(parents=True, exist_ok=True)
            yield folder / path.name
            os.replace(folder / path.name, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def save_checkpoint(path, model, **record):
    """Write a model's weights and, beside them, the JSON that `load_checkpoint` builds it from, both atomically.

    Parameters
    ----------
    path : str or Path
        X.safetensors, else a ValueError; the JSON is X.json
    model : nn.Module
        one of KINDS
    **record
        what else the JSON should hold: epoch, seed, dataset, subject, git revision, ...; the dict `versions` adds to
        those of the packages used here. A name that this function writes is a ValueError
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path: expected one that ends in .safetensors, given {path}")
    taken = sorted(set(record) & set(_OURS))
    if taken:
        raise ValueError(f"record: expected other names than {', '.join(_OURS)}, given {', '.join(taken)}")
    versions = {name: importlib.metadata.version(name) for name in ("torch", "safetensors", "numpy")} | record.get("versions", {})
    # weights and JSON are both complete before the first of them gets its name; a kill between the two renames leaves
    # a pair that does not match, and loading says so
    with atomic_path(record_path(path)) as record_file, safetensors_path(path) as weights_file:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, weights_file)
        facts = {"kind": type(model).__name__, "arguments": model.arguments}
        write_json(record_file, {**facts, **record, "versions": versions, "sha256": sha256(weights_file)})
        shutil.copymode(record_file, weights_file)  # safetensors makes files that nobody else may read


def load_checkpoint(path):
    """Build the model that a checkpoint's JSON describes and fill it.

    Parameters
    ----------
    path : str or Path
        X.safetensors, with X.json beside it

    Returns
    -------
    model : nn.Module
        in evaluation mode, on the CPU
    record : dict
        the whole JSON. Those of the training scripts say `epoch` (after which the weights are), `of_epochs` (that the
        training was to have) and `finished` (False for weights that the training was still replacing: `best`)

    Raises
    ------
    UserError
        missing, truncated, altered, of an unknown kind, not finite, or weights that do not fit the JSON
    """
    path = Path(path)
    if not path.is_file():
        unfinished = (path.parent / TRAINING_STATE).exists()
        raise missing(
            path, "its training has not finished, run the training script again" if unfinished else "train the decoder, or check the path"
        )
    record = read_json(record_path(path))
    model = _build(record, record_path(path))
    if record.get("sha256") != sha256(path):
        raise UserError(f"{path} does not match its checksum in {record_path(path).name}; {_AGAIN}")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({one_line(error)}); {_AGAIN}") from None
    fill(model, state, path)
    return model.eval(), record


def _build(record, path):
    """Model of a record, its weights allocated but not drawn."""
    kind = KINDS.get(str(record.get("kind")))
    if kind is None:
        raise UserError(f"{path} describes a {record.get('kind')}, not one of {', '.join(KINDS)}; {_AGAIN}")
    try:
        return empty_model(kind, record["arguments"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} does not hold arguments of a {kind.__name__} ({one_line(error)}); {_AGAIN}") from None


def empty_model(kind, arguments):
    """A model whose weights are allocated and hold no values yet: drawing 300 million of them takes seconds."""
    with torch.device("meta"):
        model = kind(**arguments)
    return model.to_empty(device="cpu")


# ---------------------------------------------------------------------------------------------- the released format


def load_released(model, path):
    """Fill a model from a released .pth state dict, strictly, and return it.

    Parameters
    ----------
    model : nn.Module
        one of KINDS, of the right sizes
    path : str or Path
        .pth file; its names may all have the prefix 'module.'

    Raises
    ------
    UserError
        not a state dict, an entry missing, unexpected, of another shape or not finite; the model is then as it was
    """
    return fill(model, read_released(path), path)


def read_released(path, mmap=False):
    """Read a released .pth file, {name: tensor} on the CPU, without the prefix 'module.'.

    Parameters
    ----------
    mmap : bool
        map the tensors instead of reading them: enough to look at names and shapes, content unchecked

    Raises
    ------
    UserError
        missing, broken, or anything but a state dict of tensors
    """
    path = Path(path)
    if not path.is_file():
        raise missing(path, "check the path")
    try:
        is_zip = zipfile.is_zipfile(path)
        broken = zipfile.ZipFile(path).testzip() if is_zip and not mmap else None  # torch does not look at the checksums
        if broken:
            raise zipfile.BadZipFile(f"the checksum of {broken} does not match")
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zip)
    except Exception as error:  # torch.load raises almost any kind for a broken file
        if "Unsupported global" in str(error):  # not the message itself: it advises to unpickle everything
            raise UserError(f"{path} holds Python objects, which are not unpickled; {_WEIGHTS_ALONE}") from None
        why = "" if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error) else f" ({one_line(error)[:200]})"
        raise UserError(f"{path} is broken or not a PyTorch file{why}; download it again") from None
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not a state dict; {_WEIGHTS_ALONE}")
    if not state:
        raise UserError(f"{path} holds an empty state dict; {_WEIGHTS_ALONE}")
    others = [str(name) for name, value in state.items() if not isinstance(name, str) or not _is_plain(value)]
    if others:
        raise UserError(f"{path} has entries that are not plain tensors ({name_some(others)}); {_WEIGHTS_ALONE}")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)


def _is_plain(value):
    """Whether a value is a tensor that has its numbers one by one in memory: not sparse, nested or without storage."""
    return isinstance(value, torch.Tensor) and not value.is_nested and value.layout == torch.strided and value.device.type == "cpu"


def fill(model, state, path):
    """Copy a state dict into a model, if it fits in every name and shape and is finite; else a UserError, no change.

    Returns the model; `path` is where the state is from, for the error.
    """
    own = model.state_dict()
    faults = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ],
    }
    if any(faults.values()):
        sizes = ", ".join(f"{key}={value}" for key, value in getattr(model, "arguments", {}).items())
        raise UserError(
            f"{path} does not fit {type(model).__name__}({sizes}): {describe_faults(faults)}; "
            "give a checkpoint of this model, or a model of these sizes"
        )
    broken = [name for name, value in state.items() if not value.is_floating_point() or not value.to(own[name].dtype).isfinite().all()]
    if broken:
        raise UserError(f"{path} has NaN, infinity or whole numbers in {name_some(broken)}; give another checkpoint")
    model.load_state_dict(state)
    return model
