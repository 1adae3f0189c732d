"""Patch CMG: the motion generator on patches of the latent frames, in the manner of a video DiT.

The authors found it to overfit and to draw grids; it is here for comparison.
"""

import torch
from einops import rearrange
from torch import nn

from models.layers import TokenAttention, check_mask, check_n_frames, check_shape, continue_frames


def sin_cos(positions, dim):
    """Position code (n, dim): sines, then cosines, of positions * 10000^(-2k / dim)."""
    frequencies = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) * 2 / dim)
    angle = positions.to(torch.float64)[:, None] * frequencies
    return torch.cat([angle.sin(), angle.cos()], 1).float()


def grid_code(side, dim):
    """Position code (side * side, dim) of row-major patches: one half of the channels for the column, one for the row."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.cat([sin_cos(columns.flatten(), dim // 2), sin_cos(rows.flatten(), dim // 2)], 1)


# ---------------------------------------------------------------------------------------------- parts


class TemporalAttention(nn.Module):
    """Self-attention over the frames at each patch."""

    def __init__(self, dim, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, mask=None, past=None):
        """x (B, P, T, dim), mask (B or 1, T, T); `past` is a list that holds keys and values of earlier frames."""
        query, key, value = rearrange(self.qkv(x), "b p t (three heads d) -> three b p heads t d", three=3, heads=self.n_heads)
        if past is not None:
            past.append((key, value))
            key, value = (torch.cat(parts, 3) for parts in zip(*past, strict=True))
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], -1e9)
        return self.proj(rearrange(scores.softmax(-1) @ value, "b p heads t d -> b p t (heads d)"))


class Mlp(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class PatchBlock(nn.Module):
    """Attention over time, attention to fMRI, MLP, each added to its input.

    adaLN_modulation, temporal_norm1 and temporal_fc are in the released weights and take part in nothing.
    """

    def __init__(self, dim, n_heads, mlp_ratio):
        super().__init__()
        self.temporal_attention = TemporalAttention(dim, n_heads)
        self.spatial_attention = TokenAttention(dim, dim, n_heads)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))
        self.temporal_norm1 = nn.LayerNorm(dim)
        self.temporal_fc = nn.Linear(dim, dim)

    def forward(self, x, spatial, mask=None, past=None):
        """x (B, T, P, dim), spatial (B, dim)."""
        n_times, n_patches = x.shape[1:3]
        attended = self.temporal_attention(rearrange(x, "b t p d -> b p t d"), mask, past)
        x = x + rearrange(attended, "b p t d -> b t p d")
        # one token to attend to: what the released code normalises to form the query does not matter
        attended = self.spatial_attention(spatial, n_times * n_patches)
        x = rearrange(x, "b t p d -> b (t p) d") + attended
        x = rearrange(x, "b (t p) d -> b t p d", t=n_times)
        return x + self.mlp(self.norm(x))


class PatchEmbedding(nn.Module):
    def __init__(self, in_channels, dim, patch_size):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)

    def forward(self, frames):
        """(B, T, C, H, W) -> (B, T, P, dim), patches row by row."""
        x = self.proj(rearrange(frames, "b t c h w -> (b t) c h w"))
        return rearrange(x, "(b t) d h w -> b t (h w) d", t=frames.shape[1])


class FinalLayer(nn.Module):
    def __init__(self, dim, out_dim):
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(dim, out_dim)

    def forward(self, x):
        return self.linear(self.norm(x))


# ---------------------------------------------------------------------------------------------- the model


class PatchCMG(nn.Module):
    """Transformer over patches of latent frames, conditioned on fMRI.

    Parameters
    ----------
    input_size : int
        height and width of the latents
    patch_size : int
        side of a patch
    in_channels : int
        latent channels
    in_dim : int
        number of vertices
    hidden_dim : int
        width
    depth : int
        blocks
    n_heads : int
        attention heads
    mlp_ratio : float
        hidden width of the MLPs over `hidden_dim`
    n_frames : int
        most frames that have a time code

    References
    ----------
    Mind-Animator, patch size of the consistency motion generator; parameter names are those of the released checkpoints.
    """

    def __init__(
        self, input_size=64, patch_size=4, in_channels=4, in_dim=4500, hidden_dim=512, depth=4, n_heads=8,
        mlp_ratio=4.0, n_frames=7,
    ):  # fmt: skip
        super().__init__()
        if input_size % patch_size or hidden_dim % 4 or hidden_dim % n_heads:
            raise ValueError(
                "PatchCMG: expected patch_size to divide input_size, 4 and n_heads to divide hidden_dim, "
                f"given {input_size=}, {patch_size=}, {hidden_dim=}, {n_heads=}"
            )
        self.arguments = dict(
            input_size=input_size, patch_size=patch_size, in_channels=in_channels, in_dim=in_dim, hidden_dim=hidden_dim,
            depth=depth, n_heads=n_heads, mlp_ratio=mlp_ratio, n_frames=n_frames,
        )  # fmt: skip
        self.in_dim, self.n_frames, self.patch_size = in_dim, n_frames, patch_size
        self.frame_shape = (in_channels, input_size, input_size)
        self.side = input_size // patch_size
        self.frame_embedder = PatchEmbedding(in_channels, hidden_dim, patch_size)
        self.fMRI_to_spatial = nn.Sequential(nn.SiLU(), nn.Linear(in_dim, hidden_dim))
        self.fMRI_to_temporal = nn.Sequential(nn.SiLU(), nn.Linear(in_dim, hidden_dim))  # released, but not used
        self.pos_embed = nn.Parameter(grid_code(self.side, hidden_dim)[None], requires_grad=False)
        self.time_embed = nn.Parameter(sin_cos(torch.arange(n_frames), hidden_dim)[None], requires_grad=False)
        self.blocks = nn.ModuleList(PatchBlock(hidden_dim, n_heads, mlp_ratio) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_dim, patch_size**2 * in_channels)
        self._initialise()

    def _initialise(self):
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        projection = self.frame_embedder.proj
        nn.init.xavier_uniform_(projection.weight.view(len(projection.weight), -1))
        nn.init.zeros_(projection.bias)
        nn.init.zeros_(self.final_layer.linear.weight)

    def forward(self, fmri, frames, mask):
        """Predict every next frame, teacher forcing; an input of another shape is a ValueError.

        Parameters
        ----------
        fmri : tensor, shape (B, in_dim)
        frames : tensor, shape (B, T, C, H, W)
            T up to n_frames
        mask : tensor, shape (B or 1, T, T), bool
            True: row may attend to column

        Returns
        -------
        (B, T, C, H, W), position i predicts frame i + 1
        """
        check_shape("fmri", fmri, ("B", self.in_dim))
        check_shape("frames", frames, (len(fmri), "T", *self.frame_shape))
        if frames.shape[1] > self.n_frames:
            raise ValueError(f"frames: expected at most {self.n_frames} frames, given shape {tuple(frames.shape)}")
        check_mask(mask, len(fmri), frames.shape[1])
        x, spatial = self._embed(frames, 0), self.fMRI_to_spatial(fmri)
        for block in self.blocks:
            x = block(x, spatial, mask)
        return self._unpatchify(self.final_layer(x))

    def _embed(self, frames, start):
        times = self.time_embed[:, start : start + frames.shape[1], None]
        return self.frame_embedder(frames) + self.pos_embed[:, None] + times

    def _unpatchify(self, x):
        p = self.patch_size
        return rearrange(x, "b t (h w) (p q c) -> b t c (h p) (w q)", h=self.side, p=p, q=p)

    @torch.no_grad()
    def generate(self, fmri, first_frame, n_frames=8, chunk_size=16):
        """Predict the later frames of clips from their first, each frame seeing all earlier ones, without dropout.

        Parameters
        ----------
        fmri : tensor, shape (B, in_dim)
        first_frame : tensor, shape (B, C, H, W)
        n_frames : int
            1 to self.n_frames + 1
        chunk_size : int
            clips at a time; bounds the memory

        Returns
        -------
        (B, n_frames, C, H, W), frame 0 is `first_frame`

        Raises
        ------
        ValueError
            an input of another shape
        """
        check_shape("fmri", fmri, ("B", self.in_dim))
        check_shape("first_frame", first_frame, (len(fmri), *self.frame_shape))
        check_n_frames(n_frames, self.n_frames + 1)
        return continue_frames(self, self._continue, fmri, first_frame, n_frames, chunk_size)

    def _continue(self, fmri, frames):
        """Fill frames[:, 1:] from frames[:, 0], with the keys and values of earlier frames kept."""
        spatial = self.fMRI_to_spatial(fmri)
        pasts = [[] for _ in self.blocks]
        for i in range(frames.shape[1] - 1):
            x = self._embed(frames[:, i : i + 1], i)
            for block, past in zip(self.blocks, pasts, strict=True):
                x = block(x, spatial, past=past)
            frames[:, i + 1 : i + 2] = self._unpatchify(self.final_layer(x))
