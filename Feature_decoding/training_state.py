"""What an unfinished training resumes from: one file with weights and optimiser, and the log of its epochs."""

import hashlib
import json

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from common import files
from common.files import UserError, one_line, read_json, write_json, write_text
from models.checkpoints import record_path, safetensors_path

# ---------------------------------------------------------------------------------------------- weights and optimiser


def save_state(path, model, optimizer, epoch, best):
    """Write all that training goes on from, as one .safetensors file that is whole or absent.

    Its entries are `model.{name}` and `optimizer.{parameter}.{name}`. `epoch` is the last whole one, `best` the best one so far
    with its loss.
    """
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    for index, entry in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor.contiguous() for name, tensor in entry.items()}
    about = {"epoch": epoch, "best": best}
    about["sha256"] = _sha256(tensors, about)
    with safetensors_path(path) as temporary:
        save_file(tensors, temporary, metadata={"about": json.dumps(about)})


def load_state(path, model, optimizer):
    """Put model and optimiser where `save_state` found them; a UserError for a state that is damaged or of another model.

    Returns
    -------
    epoch : int
        the last whole one; 0 when there is no state
    best : dict or None
    """
    if not path.exists():
        return 0, None
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
        tensors = load_file(path)
        if about.pop("sha256") != _sha256(tensors, about):
            raise ValueError("its content has changed")
        parts = {"model": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, name = name.partition(".")
            parts[part][name] = tensor
        model.load_state_dict(parts["model"])
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a training state that can be resumed ({one_line(error)}); use --overwrite to train again") from None
    state = {}
    for name, tensor in parts["optimizer"].items():
        index, _, entry = name.partition(".")
        state.setdefault(int(index), {})[entry] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return about["epoch"], about["best"]


def _sha256(tensors, about):
    """SHA-256 of tensors by name, and of what is said about them."""
    total = hashlib.sha256(json.dumps(about).encode())
    for name, tensor in sorted(tensors.items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().numpy().reshape(-1).view(np.uint8))
    return total.hexdigest()


def set_finished(path):
    """Note in a checkpoint's JSON that its training has finished, so that nothing will replace the weights."""
    write_json(record_path(path), read_json(record_path(path)) | {"finished": True})


# ---------------------------------------------------------------------------------------------- log.jsonl


def read_log(path):
    """Epochs of a log.jsonl, list of dict; lines that were cut off are left out."""
    return files.read_log(path, {"epoch": int})


def cut_log(path, epoch):
    """Leave the epochs up to `epoch` in a log.jsonl: a kill may have come between a line and its checkpoint."""
    entries = [entry for entry in read_log(path) if entry["epoch"] <= epoch]
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in entries))
