"""Stage 1, from fMRI to what Stable Diffusion starts from: the three decoders, whether they fit, and what they decode."""

import logging
import math
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import nn

from common.files import UserError
from models.checkpoints import DECODERS, load_checkpoint
from models.cmg_patch import PatchCMG
from models.released import identify

log = logging.getLogger(__name__)


class Decoders(NamedTuple):
    """The three decoders, in evaluation mode."""

    semantic: nn.Module
    structure: nn.Module
    CMG: nn.Module


class Decoded(NamedTuple):
    """What stage 1 decodes of B clips."""

    latents: torch.Tensor  # (B, C, F, h, w), scaled as Stable Diffusion's are
    tokens: torch.Tensor  # (B, L, D), the prompt without its start token
    embedding: torch.Tensor | None  # (B, E), in CLIP's space


# ---------------------------------------------------------------------------------------------- decoding


@torch.no_grad()
def decode_fmri(decoders, fmri, n_frames=8, *, visibility="released", ablate=None, mean_latent=None):
    """Decode fMRI to latents and prompt tokens, Decoded.

    Parameters
    ----------
    fmri : torch.Tensor, shape (B, V)
    n_frames : int
        frames of a clip
    visibility : str
        earlier frames that the CMG sees: "released", the first alone, or "causal", all
    ablate : str, optional
        "structure" takes `mean_latent` for the first frame, "motion" repeats the first frame
    mean_latent : torch.Tensor, shape (C, h, w), optional

    References
    ----------
    Mind-Animator, section 3.
    """
    embedding, tokens = decoders.semantic(fmri)
    first = repeat(mean_latent.to(fmri), "c h w -> b c h w", b=len(fmri)) if ablate == "structure" else decoders.structure(fmri)
    if ablate == "motion":
        latents = repeat(first, "b c h w -> b c f h w", f=n_frames)
    elif isinstance(decoders.CMG, PatchCMG):
        latents = rearrange(decoders.CMG.generate(fmri, first, n_frames), "b f c h w -> b c f h w")
    else:  # one token is one whole latent frame
        _, channels, height, _ = first.shape
        frames = decoders.CMG.generate(fmri, rearrange(first, "b c h w -> b (c h w)"), n_frames, visibility=visibility)
        latents = rearrange(frames, "b f (c h w) -> b c f h w", c=channels, h=height)
    return Decoded(latents.contiguous(), tokens, embedding)


# ---------------------------------------------------------------------------------------------- loading


def load_decoders(paths, token_dim, *, subject=None, dataset=None, allow_unfinished=False):
    """Load the three decoders; one of another subject or data set is pointed out.

    Parameters
    ----------
    paths : dict
        "semantic", "structure" and "CMG" -> .safetensors with its JSON, or a released .pth
    token_dim : int
        width of the text encoder's tokens
    subject, dataset : optional
        whose fMRI will be decoded
    allow_unfinished : bool
        take checkpoints of a training that has not come to its end

    Returns
    -------
    Decoders, and {decoder: epoch}

    Raises
    ------
    UserError
        a checkpoint is missing, broken, of another kind, or of an unfinished training
    """
    whose = {"subject": subject, "dataset": dataset, "allow_unfinished": allow_unfinished}
    loaded = {name: load_decoder(paths[name], name, token_dim, **whose) for name in Decoders._fields}
    return Decoders(**{name: model for name, (model, _) in loaded.items()}), {name: epoch for name, (_, epoch) in loaded.items()}


def load_decoder(path, name, token_dim=768, *, subject=None, dataset=None, allow_unfinished=None):
    """Load one decoder, ready to decode; `name` is one of DECODERS, the rest as in `load_decoders`. Returns model and epoch.

    A script without the flag --allow_unfinished leaves it out here.
    """
    if path.suffix == ".safetensors":
        model, record = load_checkpoint(path)
    else:
        found = identify(path, token_dim=token_dim)
        model, record = found.load(), {"epoch": found.epoch, "subject": found.subject}
    if not isinstance(model, DECODERS[name]):
        kinds = " or ".join(kind.__name__ for kind in DECODERS[name])
        raise UserError(f"{path} is a {type(model).__name__}, not a {kinds}; give a checkpoint of the {name} decoder")
    if record.get("finished") is False and not allow_unfinished:
        hint = "" if allow_unfinished is None else ", or use --allow_unfinished"
        raise UserError(f"{path} is of a training that is not finished (epoch {record.get('epoch')}); train to the end{hint}")
    for key, wanted in (("subject", subject), ("dataset", dataset)):
        if wanted is not None and record.get(key) not in (None, wanted):
            log.warning("%s was trained on %s %s, and is used on %s", path, key, record[key], wanted)
    for key, words in (("roi", "only"), ("without_roi", "all but")):  # its weights of the other voxels are 0
        if record.get(key):
            log.info("%s reads %s %s", path, words, " ".join(record[key]))
    return model.eval().requires_grad_(False), record.get("epoch")


def check_fit(decoders, paths, n_vertices, channels, token_dim):
    """Raise a UserError unless decoders, fMRI and Stable Diffusion fit each other.

    Parameters
    ----------
    paths : dict
        decoder -> path, for the error
    n_vertices : int
        columns of the fMRI
    channels, token_dim : int
        of Stable Diffusion's latents, and width of its tokens
    """
    for name, model in decoders._asdict().items():
        if model.arguments["in_dim"] != n_vertices:
            raise UserError(
                f"{paths[name]} decodes {model.arguments['in_dim']} vertices, but the fMRI has {n_vertices}; "
                "give checkpoints that were trained on these vertices"
            )
    latent = decoders.structure.latent_shape
    frame = math.prod(decoders.CMG.frame_shape) if isinstance(decoders.CMG, PatchCMG) else decoders.CMG.d_model
    if frame != math.prod(latent):
        raise UserError(
            f"{paths['CMG']} generates latent frames of {frame} numbers, but those of {paths['structure']} have {math.prod(latent)}; "
            "give checkpoints that belong together"
        )
    if latent[0] != channels:
        raise UserError(
            f"{paths['structure']} decodes latents of {latent[0]} channels, but Stable Diffusion has {channels}; check --sd_path"
        )
    if decoders.semantic.token_dim != token_dim:
        raise UserError(
            f"{paths['semantic']} decodes tokens of width {decoders.semantic.token_dim}, but Stable Diffusion takes {token_dim}; check --sd_path"
        )
