"""A 2-D Stable Diffusion UNet that runs on all frames of a clip at once, with no weight added or copied.

The UNet keeps its modules and weights; a few of them change their class in place. Frames are folded into the batch, so
convolutions, resampling, cross-attention and the group norm of the transformer blocks work per frame. What mixes frames
is the self-attention (sparse-causal) and the group norms of the residual blocks (statistics over the whole clip).

References
----------
Wu et al. 2023, Tune-A-Video: One-Shot Tuning of Image Diffusion Models for Text-to-Video Generation, section 3.2.
"""

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from einops import rearrange
from torch import nn

_MORE_INPUTS = (  # settings of UNets with further inputs, without which they fail or compute something else
    "addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim", "encoder_hid_dim_type", "time_cond_proj_dim",
    "dual_cross_attention", "only_cross_attention",
)  # fmt: skip


class ClipLength:
    """How many frames of one clip lie next to each other in the batch: one object shared by the parts of a UNet."""

    def __init__(self, num_frames=1):
        self.num_frames = num_frames


# ---------------------------------------------------------------------------------------------- what mixes frames


class ClipGroupNorm(nn.GroupNorm):
    """Group norm with statistics over all frames of a clip jointly (channels of the group x F x H x W)."""

    def forward(self, hidden_states):
        clips = rearrange(hidden_states, "(b f) c h w -> b c f h w", f=self.clip.num_frames)
        return rearrange(super().forward(clips), "b c f h w -> (b f) c h w")


class SparseCausalAttnProcessor:
    """Self-attention in which frame i sees the tokens of frame 0 and of frame i-1, and frame 0 those of frame 0.

    Parameters
    ----------
    clip : ClipLength, optional
        number of frames when a call does not give it

    References
    ----------
    Tune-A-Video, section 3.2.
    """

    def __init__(self, clip=None):
        self.clip = clip or ClipLength()

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, num_frames=None):
        """Attend: (B*F, L, C), the frames of a clip next to each other, to the same shape.

        `attn` is the attn1 of a transformer block; what is not used is part of diffusers' signature.
        """
        num_frames = num_frames or self.clip.num_frames
        if len(hidden_states) % num_frames:
            raise ValueError(f"hidden states of shape {tuple(hidden_states.shape)} are no multiple of {num_frames} frames")
        query, key, value = (
            rearrange(project(hidden_states), "(b f) l (h d) -> b f l h d", f=num_frames, h=attn.heads)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        # Frames 0 and 1 would see frame 0 twice. Softmax splits the weight between equal keys, so once gives the same.
        out = _attend(rearrange(query[:, :2], "b f l h d -> b (f l) h d"), key[:, 0], value[:, 0], attn.scale)
        out = rearrange(out, "b (f l) h d -> b f l h d", l=query.shape[2])
        if num_frames > 2:
            later = rearrange(query[:, 2:], "b f l h d -> (b f) l h d")
            later = _attend(later, _first_and_previous(key), _first_and_previous(value), attn.scale)
            out = torch.cat([out, rearrange(later, "(b f) l h d -> b f l h d", b=len(out))], dim=1)
        out = attn.to_out[0](rearrange(out, "b f l h d -> (b f) l (h d)"))
        return attn.to_out[1](out)


def _first_and_previous(tokens):
    """Tokens of frame 0 followed by those of frame i-1, for the frames i = 2...F-1."""
    previous = tokens[:, 1:-1]
    return rearrange(torch.cat([tokens[:, :1].expand_as(previous), previous], dim=2), "b f l h d -> (b f) l h d")  # l: 2 L tokens


def _attend(query, key, value, scale):
    """Scaled-dot-product attention of tensors (batch, tokens, heads, width)."""
    query, key, value = (rearrange(tokens, "n l h d -> n h l d") for tokens in (query, key, value))
    return rearrange(F.scaled_dot_product_attention(query, key, value, scale=scale), "n h l d -> n l h d")


class TemporalTransformerBlock(BasicTransformerBlock):
    """Transformer block that ends in Tune-A-Video's attention over the frames at each position."""

    def forward(self, hidden_states, *args, **kwargs):
        hidden_states = super().forward(hidden_states, *args, **kwargs)
        n_frames, n_tokens = self.clip.num_frames, hidden_states.shape[1]
        over_time = rearrange(hidden_states, "(b f) l c -> (b l) f c", f=n_frames)
        over_time = self.attn_temp(self.norm_temp(over_time))
        return hidden_states + rearrange(over_time, "(b l) f c -> (b f) l c", l=n_tokens)


# ---------------------------------------------------------------------------------------------- the UNet


class InflatedUNet2DConditionModel(UNet2DConditionModel):
    """diffusers' UNet on clips; made by `inflate_unet`, not by its constructor."""

    def forward(self, sample, timestep, encoder_hidden_states, cross_attention_kwargs=None, return_dict=True):
        """Predict the noise (or v) of all frames, UNet2DConditionOutput with .sample (B, C, F, H, W); a tuple without `return_dict`.

        Parameters
        ----------
        sample : torch.Tensor, shape (B, C, F, H, W)
            latents; any F, H, W
        timestep : number, or torch.Tensor, shape () or (B,)
        encoder_hidden_states : torch.Tensor, shape (B, L, D)
            text embedding of each clip
        cross_attention_kwargs : dict, optional
            for diffusers' attention layers
        """
        if sample.ndim != 5:
            raise ValueError(f"latents must have the shape (B, C, F, H, W), not {tuple(sample.shape)}")
        batch, _, num_frames, _, _ = sample.shape
        if encoder_hidden_states.ndim != 3 or len(encoder_hidden_states) != batch:
            raise ValueError(f"encoder_hidden_states must have the shape ({batch}, L, D), not {tuple(encoder_hidden_states.shape)}")
        if torch.is_tensor(timestep) and timestep.ndim:
            if timestep.shape != (batch,):
                raise ValueError(f"timestep must have the shape () or ({batch},), not {tuple(timestep.shape)}")
            timestep = timestep.repeat_interleave(num_frames)
        self.clip.num_frames = num_frames
        (folded,) = super().forward(
            rearrange(sample, "b c f h w -> (b f) c h w"),
            timestep,
            encoder_hidden_states.repeat_interleave(num_frames, dim=0),
            cross_attention_kwargs=cross_attention_kwargs,
            return_dict=False,
        )
        out = rearrange(folded, "(b f) c h w -> b c f h w", b=batch)
        return UNet2DConditionOutput(sample=out) if return_dict else (out,)

    def set_attention_slice(self, slice_size="auto"):
        """Slice the cross-attention. The sparse-causal attention holds no matrix of scores and stays as it is."""
        super().set_attention_slice(slice_size)
        _set_sparse_causal(self)


def _blocks(unet):
    return [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]


def _set_sparse_causal(unet):
    for block in _blocks(unet):
        block.attn1.set_processor(SparseCausalAttnProcessor(unet.clip))


def _share_statistics(norm, clip):
    norm.__class__ = ClipGroupNorm
    norm.clip = clip


def _add_temporal_attention(block, clip):
    """Append Tune-A-Video's layers to a block, with an output of zero until weights are loaded."""
    attn1, weight = block.attn1, block.attn1.to_q.weight
    block.attn_temp = Attention(
        query_dim=attn1.query_dim,
        heads=attn1.heads,
        dim_head=attn1.inner_dim // attn1.heads,
        dropout=attn1.dropout,
        bias=attn1.use_bias,
        upcast_attention=attn1.upcast_attention,
    )
    block.norm_temp = nn.LayerNorm(attn1.query_dim)
    nn.init.zeros_(block.attn_temp.to_out[0].weight)
    nn.init.zeros_(block.attn_temp.to_out[0].bias)
    block.to(device=weight.device, dtype=weight.dtype).train(block.training)
    block.__class__ = TemporalTransformerBlock
    block.clip = clip


def check_unet(config):
    """Raise a ValueError for a UNet, by its configuration, that takes more than latents, a timestep and one text."""
    more = [f"{key}={config[key]}" for key in _MORE_INPUTS if config.get(key)]
    if config.get("attention_type") not in (None, "default"):
        more.append(f"attention_type={config['attention_type']}")
    if not isinstance(config.get("cross_attention_dim", 0), int):
        more.append(f"cross_attention_dim={config['cross_attention_dim']}")
    if more:
        raise ValueError(f"is a UNet of another kind ({', '.join(more)}), such as SDXL's, a distilled or an upscaling one")


def inflate_unet(unet, temporal_attention=False):
    """Turn a 2-D UNet of Stable Diffusion 1.x or 2.x into one for clips, in place; an inflated one stays inflated.

    Parameters
    ----------
    temporal_attention : bool
        add Tune-A-Video's temporal attention (`attn_temp`, `norm_temp` of each transformer block), which is an
        identity until fine-tuned weights are loaded with `load_state_dict`

    Returns
    -------
    InflatedUNet2DConditionModel
        the same object, called as unet(latents[B,C,F,H,W], timestep, embeddings[B,L,D])

    References
    ----------
    Tune-A-Video, section 3.2. Joint group norms follow its code, whose residual blocks normalise 5-D tensors.
    """
    if not isinstance(unet, UNet2DConditionModel):
        raise ValueError(f"a diffusers UNet2DConditionModel can be inflated, not a {type(unet).__name__}")
    check_unet(unet.config)
    if not isinstance(unet, InflatedUNet2DConditionModel):
        unet.__class__ = InflatedUNet2DConditionModel
        unet.clip = ClipLength()
        _set_sparse_causal(unet)
        for module in unet.modules():
            if isinstance(module, ResnetBlock2D):
                _share_statistics(module.norm1, unet.clip)
                _share_statistics(module.norm2, unet.clip)
        _share_statistics(unet.conv_norm_out, unet.clip)
    if temporal_attention:
        for block in _blocks(unet):
            if not isinstance(block, TemporalTransformerBlock):
                _add_temporal_attention(block, unet.clip)
    return unet
