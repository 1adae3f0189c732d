"""Where models come from, a folder or a hub id by flag or by data set, and loading Stable Diffusion and CLIP."""

import contextlib
import logging
from pathlib import Path

from common.cli import one_line
from common.files import UserError, missing

_HELP = {
    "sd": "Stable Diffusion in the diffusers layout, folder or hub id (default: the data set's, SD 1.5 or the phantom's own)",
    "clip": "CLIP, open_clip folder or name:weights (default: the data set's, ViT-B-32:openai or the phantom's own)",
}
_SD_PARTS = {  # part -> library and class
    "vae": ("diffusers", "AutoencoderKL"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "scheduler": ("diffusers", "DDIMScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
}
_WEIGHTS = ("diffusion_pytorch_model", "model", "pytorch_model", "open_clip_model", "open_clip_pytorch_model")


# ---------------------------------------------------------------------------------------------- flags


def add_model_flags(parser, *names):
    """Add --sd_path and --clip_path, those of `names` ("sd", "clip")."""
    group = parser.add_argument_group("models")
    for name in names:
        group.add_argument(f"--{name}_path", metavar="SOURCE", help=_HELP[name])


def model_path(args, name):
    """Source of a model: what its flag names, or else the data set's default.

    Parameters
    ----------
    args : argparse.Namespace
    name : str
        sd, clip, vifi, image_classifier, clip_classifier or caption_model

    Returns
    -------
    str or None
        hub id, folder or file; None where neither says one
    """
    from common.datasets import get_dataset

    given = getattr(args, f"{name}_path", None) or getattr(args, name, None) or get_dataset(args.dataset).models.get(name)
    return str(given) if given else None


def model_files(path, *parts):
    """Files that a model in a folder is read from, for a run's record; none for one from the hub.

    Parameters
    ----------
    path : str or Path
        folder or hub id
    *parts : str
        subfolders of a diffusers folder; none for an open_clip folder
    """
    folders = [Path(path) / part for part in parts] if parts else [Path(path)]
    files = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())]
    return [file for file in files if file.suffix in (".json", ".txt") or file.stem in _WEIGHTS]


# ---------------------------------------------------------------------------------------------- loading


@contextlib.contextmanager
def _quiet():
    """Keep the libraries' reports of every step out of ours."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def load_sd_part(path, part, dtype=None):
    """One part of Stable Diffusion, in evaluation mode and without gradients.

    Parameters
    ----------
    path : str or Path
        folder in the diffusers layout, or hub id
    part : str
        vae, unet, scheduler, text_encoder or tokenizer
    dtype : torch.dtype, optional
        of the weights, float32 by default

    Raises
    ------
    UserError
        the folder or the part is missing or broken, or the hub does not answer
    """
    import importlib

    import torch

    _check_folder("--sd_path", path)
    library, name = _SD_PARTS[part]
    kind = getattr(importlib.import_module(library), name)
    try:
        with _quiet():
            loaded = kind.from_pretrained(str(path), subfolder=part)
    except Exception as error:  # the libraries raise almost any kind for a missing or broken file
        raise _no_model("--sd_path", path, f"Stable Diffusion's {part} in the diffusers layout", error) from None
    if part == "tokenizer" and len(loaded) <= len(set(loaded.all_special_ids)):
        raise UserError(f"{Path(path) / part} is a tokenizer without a vocabulary; copy its files again")
    if part in ("tokenizer", "scheduler"):
        return loaded
    with _quiet():
        return loaded.to(dtype=dtype or torch.float32).eval().requires_grad_(False)


def load_clip(path):
    """A CLIP model of open_clip, in evaluation mode and without gradients.

    Parameters
    ----------
    path : str or Path
        open_clip folder (open_clip_config.json and weights), or name:weights such as ViT-B-32:openai

    Returns
    -------
    model : torch.nn.Module
        with encode_text and encode_image
    preprocess : function
        PIL image -> tensor, (3, H, W)
    tokenizer : function
        list of str -> tensor, (B, L)

    Raises
    ------
    UserError
        missing or broken, or not to be had from the hub
    """
    import open_clip

    _check_folder("--clip_path", path)
    if Path(path).is_dir():
        name, weights = f"local-dir:{path}", None
    elif str(path).startswith("hf-hub:"):
        name, weights = str(path), None
    else:
        name, _, weights = str(path).partition(":")
    try:
        # without weights open_clip would go on with random ones
        if Path(path).is_dir() and not any(file.stem in _WEIGHTS and file.suffix != ".json" for file in Path(path).iterdir()):
            raise FileNotFoundError("a folder without weights")
        if weights == "":
            raise FileNotFoundError("neither a folder nor name:weights")
        with _quiet():
            # OpenAI's weights were trained with the quick GELU, which the name alone does not choose
            model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=weights, force_quick_gelu=weights == "openai")
            tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # open_clip raises RuntimeError, ValueError, KeyError, ... for a missing or broken file
        raise _no_model("--clip_path", path, "a CLIP of open_clip, a folder or name:weights", error) from None
    return model.eval().requires_grad_(False), preprocess, tokenizer


def _no_model(flag, path, wanted, error):
    return UserError(f"{flag} {path} could not be loaded as {wanted} ({one_line(error)}); give another folder or hub id")


def _check_folder(flag, path):
    """Raise a UserError for what can only be a folder and is not there, before a hub is asked for it."""
    folder = Path(path)
    looks_local = folder.is_absolute() or str(path).startswith(".") or (len(folder.parts) > 1 and folder.parent.is_dir())
    if looks_local and not folder.exists():
        raise missing(folder, f"give another folder or hub id with {flag}")
