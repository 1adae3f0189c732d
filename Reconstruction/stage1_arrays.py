"""Stage 1 as arrays, so that any decoder can go through stage 2: latents.npy, tokens.npy and, optional, embedding.npy.

latents.npy      (N, 4, 8, h, w)   latents of eight frames, scaled as Stable Diffusion's are (x 0.18215), clip after clip
tokens.npy       (N, 19, D)        hidden states of Stable Diffusion's text encoder for the prompt, without the start token
embedding.npy    (N, E)            CLIP text embedding, for the nearest captions of the gallery
"""

import logging
from pathlib import Path

import numpy as np
import torch

from common.files import UserError, load_array, save_array
from models.decoding import Decoded

NAMES = ("latents", "tokens", "embedding")
UNITS = {"latents": "Stable Diffusion's latents x 0.18215", "tokens": "text encoder's hidden states", "embedding": "CLIP embedding"}
MOST_TOKENS = 76  # CLIP's text encoder has 77 positions, of which the start token takes one
SAME = 0.02  # of the start token's length, by which one that was given differs from it
CLIPS = 64  # of the training, whose latents say what is usual
FAR = 3  # times that latents' standard deviation is from the training's, where their scale is hardly Stable Diffusion's
log = logging.getLogger(__name__)


def stage1_files(folder):
    """The arrays that there are, {name: Path}."""
    paths = {name: Path(folder) / f"{name}.npy" for name in NAMES}
    return {name: path for name, path in paths.items() if name != "embedding" or path.is_file()}


def count_clips(folder):
    """Clips that the arrays of a folder hold."""
    return len(load_array(stage1_files(folder)["latents"], mmap=True, finite=False, do="check --stage1_from"))


def save_stage1(folder, decoded, made_by):
    """Write what stage 1 decoded of all clips, Decoded; `made_by` names the script."""
    for name, array in zip(NAMES, decoded, strict=True):
        if array is not None:
            save_array(Path(folder) / f"{name}.npy", array.cpu().numpy(), rows="clips", units=UNITS[name], made_by=made_by)


def check_tokens(folder, tokens, start):
    """Raise a UserError for tokens (N, L, D) of which the first is the start token (D,) in all clips.

    The word "a" is the same in all clips too, where all captions begin with it: only the start token itself tells.
    """
    start = start.to(tokens)
    if (tokens[:, 0] - start).norm(dim=1).max() <= SAME * start.norm():
        raise UserError(f"{Path(folder) / 'tokens.npy'}: the first token is the same in all clips: this is the start token; leave it out")


def check_scale(path, latents, contents):
    """Warn of latents whose standard deviation is far from that of the training's (a file), or from 1 where this is not there."""
    spread, usual = latents.std().item(), 1.0
    if contents.is_file():
        usual = float(np.std(load_array(contents, finite=False, mmap=True)[:CLIPS], dtype=np.float64))
    if not usual / FAR <= spread <= usual * FAR:
        whose = f"the training's {usual:.3g}" if contents.is_file() else "about 1 of Stable Diffusion's"
        log.warning("warning: %s has a standard deviation of %.3g, far from %s; multiply by 0.18215?", path, spread, whose)


def load_stage1(folder, n_clips, n_frames, channels, token_dim, contents):
    """Read and check the arrays of a folder, Decoded; n_clips None for any number.

    `channels` and `token_dim` are those of Stable Diffusion's latents and tokens, `contents` is the file of the training's latents,
    if it is there. A UserError for an array that is missing, damaged, has NaN, or does not fit.
    """
    wanted = {"latents": (n_clips, channels, n_frames, None, None), "tokens": (n_clips, None, token_dim), "embedding": (n_clips, None)}
    sizes = {
        "latents": f"(clips, {channels}, {n_frames}, height, width)",
        "tokens": f"(clips, tokens, {token_dim}), the width of Stable Diffusion's text encoder",
        "embedding": "(clips, width)",
    }
    arrays = {}
    for name, path in stage1_files(folder).items():
        clips = "" if n_clips is None else f" for {n_clips} clips"
        array = load_array(path, shape=wanted[name], verify=True, do=f"write it as {sizes[name]}{clips}")
        arrays[name] = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        n_clips = len(array)
        wanted = {key: (n_clips, *shape[1:]) for key, shape in wanted.items()}
    if not 1 <= arrays["tokens"].shape[1] <= MOST_TOKENS:
        raise UserError(
            f"{folder}: tokens.npy has {arrays['tokens'].shape[1]} tokens a clip; give 1 to {MOST_TOKENS}, without the start token"
        )
    check_scale(Path(folder) / "latents.npy", arrays["latents"], contents)
    return Decoded(arrays["latents"], arrays["tokens"], arrays.get("embedding"))
