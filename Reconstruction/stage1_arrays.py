"""Stage 1 as arrays, so that any decoder can go through stage 2: latents.npy, tokens.npy and, optional, embedding.npy.

latents.npy      (N, 4, 8, h, w)   latents of eight frames, scaled as Stable Diffusion's are (x 0.18215), clip after clip
tokens.npy       (N, 19, D)        hidden states of Stable Diffusion's text encoder for the prompt, without the start token
embedding.npy    (N, E)            CLIP text embedding, for the nearest captions of the gallery
"""

from pathlib import Path

import numpy as np
import torch

from common.files import UserError, load_array, save_array
from models.decoding import Decoded

NAMES = ("latents", "tokens", "embedding")
UNITS = {"latents": "Stable Diffusion's latents x 0.18215", "tokens": "text encoder's hidden states", "embedding": "CLIP embedding"}
MOST_TOKENS = 76  # CLIP's text encoder has 77 positions, of which the start token takes one


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


def load_stage1(folder, n_clips, n_frames, channels, token_dim):
    """Read and check the arrays of a folder, Decoded; n_clips None for any number.

    `channels` and `token_dim` are those of Stable Diffusion's latents and tokens. A UserError for an array that is missing,
    damaged, has NaN, or does not fit.
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
    return Decoded(arrays["latents"], arrays["tokens"], arrays.get("embedding"))
