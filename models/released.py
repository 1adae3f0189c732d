"""Find out what the authors' .pth files are: kind and sizes by their entries, subject and epoch by their names."""

import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path

from common.files import MissingFile, UserError, missing
from models.checkpoints import DECODERS, KINDS, empty_model, load_released, read_released

log = logging.getLogger(__name__)

_WORDS = (  # what a name may call each kind, and the kinds that it can then be; the first that fits counts
    (r"retriev", ("RetrievalDecoder",)),
    (r"cmg|motion|consist|patch", ("ConsistencyMotionGenerator", "PatchCMG")),
    (r"struct|content", ("StructureDecoder",)),
    (r"semantic", ("SemanticDecoder",)),
)
_SUBJECT = r"(?<![a-z])sub(?:j|ject)?[_-]?0*(\d+)"


@dataclass(frozen=True)
class Released:
    """One released checkpoint."""

    path: Path  # .pth file
    kind: str  # name of the class in KINDS
    arguments: dict  # to build the model with
    subject: int | None  # None where the path does not say
    epoch: int | None  # likewise

    def load(self):
        """The model with the released weights, in evaluation mode."""
        return load_released(empty_model(KINDS[self.kind], self.arguments), self.path).eval()


# ---------------------------------------------------------------------------------------------- by the entries


def infer(state, n_heads=None, token_dim=768):
    """Kind and constructor arguments of a released state dict {name: tensor}, or None for weights of something else.

    Parameters
    ----------
    n_heads : int
        attention heads of a CMG or patch CMG, which no shape shows; default the paper's
    token_dim : int
        width of a text token, which the semantic decoder's last layer shows only times their number
    """
    shape = {name: tuple(tensor.shape) for name, tensor in state.items()}
    heads = {} if n_heads is None else {"n_heads": n_heads}
    try:
        if "decoder.norm.a_2" in shape:
            return "ConsistencyMotionGenerator", _cmg(shape) | heads
        if "frame_embedder.proj.weight" in shape:
            return "PatchCMG", _patch_cmg(shape) | heads
        if "lin0.0.weight" in shape:
            hidden, vertices = shape["lin0.0.weight"]
            common = {"in_dim": vertices, "hidden_dim": hidden, "n_blocks": _count(shape, r"mlp\.(\d+)\.0\.weight")}
            if "logit_scale" not in shape:
                return "StructureDecoder", common | {"latent_shape": _latent_shape(shape["lin1.2.weight"][0])}
            if not any(name.startswith("lin1.") for name in shape):
                return "RetrievalDecoder", common
            return "SemanticDecoder", common | _projector(shape, token_dim)
    except (KeyError, IndexError, ValueError):
        return None
    return None


def _count(shape, pattern):
    return len({match[1] for name in shape if (match := re.fullmatch(pattern, name))})


def _latent_shape(size):
    side = math.isqrt(size // 4)
    if 4 * side**2 != size:
        raise ValueError(f"{size} is no 4 x side x side")
    return (4, side, side)


def _projector(shape, token_dim):
    names = [name for name in shape if re.fullmatch(r"lin1\.\d+\.weight", name) and len(shape[name]) == 2]
    widths = [shape[name][0] for name in sorted(names, key=lambda name: int(name.split(".")[1]))]
    if widths[-1] % token_dim:
        raise ValueError(f"{widths[-1]} is no multiple of {token_dim}")
    return {"n_tokens": widths[-1] // token_dim, "token_dim": token_dim, "projector_dims": tuple(widths[:-1])}


def _cmg(shape):
    layer = "decoder.layers.0"
    return {
        "in_dim": shape["encoder.lin0.0.weight"][1],
        "d_model": shape["decoder.norm.a_2"][0],
        "n_layers": _count(shape, r"decoder\.layers\.(\d+)\.feed_forward\.w_1\.weight"),
        "attn_dim": shape[f"{layer}.self_attn.linears.0.weight"][0],
        "d_ff": shape[f"{layer}.feed_forward.w_1.weight"][0],
        "encoder_dim": shape["encoder.lin0.0.weight"][0],
        "encoder_blocks": _count(shape, r"encoder\.mlp\.(\d+)\.0\.weight"),
        "max_len": shape["tgt_embed.1.pe"][1],
    }


def _patch_cmg(shape):
    hidden, channels, patch, _ = shape["frame_embedder.proj.weight"]
    return {
        "input_size": math.isqrt(shape["pos_embed"][1]) * patch,
        "patch_size": patch,
        "in_channels": channels,
        "in_dim": shape["fMRI_to_spatial.1.weight"][1],
        "hidden_dim": hidden,
        "depth": _count(shape, r"blocks\.(\d+)\.mlp\.fc1\.weight"),
        "mlp_ratio": shape["blocks.0.mlp.fc1.weight"][0] / hidden,
        "n_frames": shape["time_embed"][1],
    }


# ---------------------------------------------------------------------------------------------- by the name


def subject_of(path):
    """Subject number in a path ('sub1', 'subj_01', 'subject-3'; the innermost counts), or None."""
    for part in reversed(Path(path).parts):
        if match := re.search(_SUBJECT, part, re.IGNORECASE):
            return int(match[1])
    return None


def epoch_of(path):
    """Epoch in a file name ('epoch30', 'ep_30', or a number at the end), or None."""
    stem = re.sub(_SUBJECT, "", Path(path).stem, flags=re.IGNORECASE)
    match = re.search(r"(?<![a-z])(?:epochs?|ep)[_-]?(\d+)", stem, re.IGNORECASE) or re.search(r"(?<!\d)[_-](\d+)$", stem)
    return int(match[1]) if match else None


def kinds_of_name(path):
    """Kinds that a file's name, or else the folders above it from the inside out, speak of; all where none does."""
    for part in reversed(Path(path).parts):
        for words, kinds in _WORDS:
            if re.search(words, part, re.IGNORECASE):
                return kinds
    return tuple(KINDS)


# ---------------------------------------------------------------------------------------------- a folder of them


def identify(path, token_dim=768):
    """Say what a released .pth file is, Released; a UserError for one that is none of the decoders.

    The entries decide on the kind; a file whose name says another is taken too, with a warning.
    """
    found = infer(read_released(path, mmap=True), token_dim=token_dim)
    if found is None:
        raise UserError(
            f"{path} does not hold the entries of a decoder with text tokens of width {token_dim}; "
            "give a released decoder, or --token_dim for another text encoder"
        )
    return _named(path, Path(*path.parts[-3:]), *found)


def _named(path, named, kind, arguments):
    """Released of a file of some kind, by what the part `named` of its path says."""
    if kind not in kinds_of_name(named):
        log.warning(
            "%s: its name says %s, but its entries are those of a %s, as which it is taken", named, " or ".join(kinds_of_name(named)), kind
        )
    return Released(path, kind, arguments, subject_of(named), epoch_of(named))


def find_released(root, n_heads=None, token_dim=768):
    """All released decoders below a folder, in the order of their paths; other .pth files are named and left out.

    n_heads and token_dim are as for `infer`. A UserError for no folder, a broken file, or no decoder in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise missing(root, "check --released_root")
    released = []
    for path in sorted(path for path in root.rglob("*") if path.suffix in (".pth", ".pt") and path.is_file()):
        found = infer(read_released(path, mmap=True), n_heads, token_dim)
        if found is None:
            log.warning("%s: not a decoder, left out", path.relative_to(root))
        else:
            released.append(_named(path, path.relative_to(root), *found))
    if not released:
        raise UserError(f"{root} holds no .pth file of {', '.join(KINDS)}; check --released_root and --token_dim")
    return released


def find_checkpoint(folder, decoder, subjects, epoch, names=(), others=(), token_dim=768):
    """Find the .pth of a decoder by its entries and its path, and log which it is.

    A path that names another subject or data set is out; one that names the subject goes before one that names none,
    and the epoch decides between those that are left.

    Parameters
    ----------
    decoder : str
        semantic, structure, CMG or retrieval
    subjects : tuple of int
        numbers by which paths may call the participant
    names, others : iterable of str
        words by which paths name the data set, and other data sets
    token_dim : int
        width of the text encoder's tokens

    Raises
    ------
    UserError
        no file fits, or more than one
    """
    kinds, folder, fitting = [kind.__name__ for kind in DECODERS[decoder]], Path(folder), []
    for item in find_released(folder, token_dim=token_dim):
        path = item.path.relative_to(folder).as_posix().lower()
        foreign = any(word in path for word in others) and not any(word in path for word in names)
        if item.kind in kinds and item.subject in (None, *subjects) and not foreign:
            fitting.append(item)
    for better in (lambda item: item.subject is not None, lambda item: item.kind == kinds[0], lambda item: item.epoch == epoch):
        fitting = [item for item in fitting if better(item)] or fitting
    if not fitting:
        raise MissingFile(f"{folder} has no {decoder} decoder of subject {subjects[0]}; give its path with --{decoder}_model_path")
    if len(fitting) > 1:
        found = ", ".join(item.path.relative_to(folder).as_posix() for item in fitting)
        raise UserError(
            f"{folder} has several {decoder} decoders of subject {subjects[0]} ({found}); choose one with --{decoder}_model_path"
        )
    log.info("%s decoder of subject %s: %s", decoder, subjects[0], fitting[0].path)
    return fitting[0].path
