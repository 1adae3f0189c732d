"""Consistency Motion Generator: a transformer that predicts each latent frame from the earlier ones and fMRI.

One token is one whole latent frame. What to read first: `ConsistencyMotionGenerator.forward` (teacher forcing), then
`generate`, which computes the same frame by frame without redoing anything.
"""

import math
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from models.layers import ResidualTrunk, TokenAttention, check_mask, check_n_frames, check_shape, continue_frames, dense, xavier_weights


def sparse_causal_mask(size, keep_ratio, generator=None):
    """Draw which of `size` frames each frame may attend to, (1, size, size) bool, True: may attend.

    A frame sees itself and earlier frames. From the third row on, every column but the first is hidden, independently,
    with probability 1 - keep_ratio (the released flag `mask_ratio`), the frame itself included; the first frame stays visible.

    References
    ----------
    Mind-Animator, sparse causal mask.
    """
    if not 0 <= keep_ratio <= 1:
        raise ValueError(f"keep_ratio: expected 0 to 1, given {keep_ratio}")
    device = generator.device if generator is not None else None
    kept = torch.rand(size, size, generator=generator, device=device) < keep_ratio
    kept[:2] = True
    kept[:, :1] = True
    return kept.tril()[None]


# ---------------------------------------------------------------------------------------------- parts


class BranchNorm(nn.Module):
    """gain * (x - mean) / (std + eps) + bias with the unbiased standard deviation, as in The Annotated Transformer.

    Not torch.nn.LayerNorm, whose variance is the biased one and has eps added inside the root.
    """

    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.a_2 = nn.Parameter(torch.ones(dim))
        self.b_2 = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x):
        # torch.std_mean in other words, on a CPU three times as fast; twice, as the mean of large equal numbers is rounded
        centred = x - x.mean(-1, keepdim=True)
        centred = centred - centred.mean(-1, keepdim=True)
        std = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / math.sqrt(x.shape[-1] - 1)
        return torch.addcmul(self.b_2, centred / (std + self.eps), self.a_2)


class Sublayer(nn.Module):
    """x + Norm(Dropout(branch)): the norm stands on the branch."""

    def __init__(self, dim, dropout):
        super().__init__()
        self.norm = BranchNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, branch):
        return x + self.norm(self.dropout(branch))


class FrameAttention(TokenAttention):
    """Masked self-attention over frames."""

    def attend(self, query, key, value, mask=None):
        """Heads of queries (B, heads, m, d) over keys and values (B, heads, n, d); mask (B or 1, m, n), True: attend."""
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if mask is not None:
            # -1e9, not -inf: a row with nothing visible is then uniform, as released, and not NaN
            scores = scores.masked_fill(~mask[:, None], -1e9)
        return self.merge(self.dropout(scores.softmax(-1)) @ value)

    def forward(self, x, mask):
        query, key, value = (self.split(linear(x)) for linear in self.linears)
        return self.attend(query, key, value, mask)


class FeedForward(nn.Module):
    def __init__(self, dim, hidden_dim, dropout):
        super().__init__()
        self.w_1 = nn.Linear(dim, hidden_dim)
        self.w_2 = nn.Linear(hidden_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.w_2(self.dropout(self.w_1(x).relu()))


@dataclass
class LayerCache:
    """What one decoder layer remembers of a clip while its frames are generated one by one."""

    from_memory: torch.Tensor  # (B, 1, d_model), normalised branch of the cross-attention, the same for every frame
    from_first: torch.Tensor | None = None  # likewise of self-attention to frame 0 alone
    keys: list = field(default_factory=list)  # of the frames so far, each (B, heads, 1, attn_dim / heads)
    values: list = field(default_factory=list)


class DecoderLayer(nn.Module):
    def __init__(self, dim, n_heads, attn_dim, d_ff, dropout):
        super().__init__()
        self.self_attn = FrameAttention(dim, attn_dim, n_heads)
        self.src_attn = TokenAttention(dim, attn_dim, n_heads)
        self.feed_forward = FeedForward(dim, d_ff, dropout)
        self.sublayer = nn.ModuleList(Sublayer(dim, dropout) for _ in range(3))

    def forward(self, x, memory, mask):
        x = self.sublayer[0](x, self.self_attn(x, mask))
        x = self.sublayer[1](x, self.src_attn(memory, x.shape[1]))
        return self.sublayer[2](x, self.feed_forward(x))

    def new_cache(self, memory):
        return LayerCache(self.sublayer[1].norm(self.src_attn(memory, 1)))

    def step(self, x, cache, sees_first_only):
        """The next frame x (B, 1, d_model) through the layer, given the cache of the frames before it."""
        attention = self.self_attn
        is_first = not cache.keys
        if is_first or not sees_first_only:
            cache.keys.append(attention.split(attention.linears[1](x)))
            cache.values.append(attention.split(attention.linears[2](x)))
        if is_first:
            # the softmax over one visible frame is 1, so its value is the whole result, whatever the query
            cache.from_first = self.sublayer[0].norm(attention.merge(cache.values[0]))
        if is_first or sees_first_only:
            x = x + cache.from_first
        else:
            query = attention.split(attention.linears[0](x))
            x = self.sublayer[0](x, attention.attend(query, torch.cat(cache.keys, 2), torch.cat(cache.values, 2)))
        x = x + cache.from_memory
        return self.sublayer[2](x, self.feed_forward(x))


class FrameDecoder(nn.Module):
    def __init__(self, n_layers, dim, n_heads, attn_dim, d_ff, dropout):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(dim, n_heads, attn_dim, d_ff, dropout) for _ in range(n_layers))
        self.norm = BranchNorm(dim)

    def forward(self, x, memory, mask):
        for layer in self.layers:
            x = layer(x, memory, mask)
        return self.norm(x)

    def step(self, x, caches, sees_first_only):
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer.step(x, cache, sees_first_only)
        return self.norm(x)


class MemoryEncoder(ResidualTrunk):
    """fMRI to one memory token."""

    def __init__(self, in_dim, hidden_dim, n_blocks, out_dim):
        super().__init__()
        self.lin0 = dense(in_dim, hidden_dim, 0.3)
        self.mlp = nn.ModuleList(dense(hidden_dim, hidden_dim, 0.15) for _ in range(n_blocks))
        self.lin1 = nn.Linear(hidden_dim, out_dim)

    def forward(self, fmri):
        return self.lin1(self.trunk(fmri))


class PositionCode(nn.Module):
    """Add sin on even, cos on odd channels, base 10000; then dropout."""

    def __init__(self, dim, max_len, dropout):
        super().__init__()
        angle = torch.arange(max_len)[:, None] * torch.exp(torch.arange(0, dim, 2) * (-math.log(10000) / dim))
        pe = torch.zeros(max_len, dim)
        pe[:, 0::2] = angle.sin()
        pe[:, 1::2] = angle.cos()[:, : dim // 2]
        self.register_buffer("pe", pe[None])
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, start=0):
        return self.dropout(x + self.pe[:, start : start + x.shape[1]])


# ---------------------------------------------------------------------------------------------- the model


class ConsistencyMotionGenerator(nn.Module):
    """Autoregressive transformer over latent frames, conditioned on one fMRI token.

    Parameters
    ----------
    in_dim : int
        number of vertices
    d_model : int
        width of a token: channels * height * width of a latent frame
    n_layers : int
        decoder layers
    n_heads : int
        attention heads
    attn_dim : int
        width of queries, keys and values over all heads
    d_ff : int
        hidden width of the feed-forward branches
    encoder_dim : int
        width of the fMRI encoder
    encoder_blocks : int
        its residual blocks
    dropout : float
        on the position code and on the branches
    max_len : int
        most frames that have a position

    References
    ----------
    Mind-Animator, consistency motion generator; parameter names are those of the released checkpoints.
    """

    def __init__(
        self, in_dim=4500, d_model=16384, n_layers=2, n_heads=4, attn_dim=1024, d_ff=768, encoder_dim=768,
        encoder_blocks=1, dropout=0.2, max_len=10,
    ):  # fmt: skip
        super().__init__()
        self.arguments = dict(
            in_dim=in_dim, d_model=d_model, n_layers=n_layers, n_heads=n_heads, attn_dim=attn_dim, d_ff=d_ff,
            encoder_dim=encoder_dim, encoder_blocks=encoder_blocks, dropout=dropout, max_len=max_len,
        )  # fmt: skip
        self.in_dim, self.d_model, self.max_len = in_dim, d_model, max_len
        self.encoder = MemoryEncoder(in_dim, encoder_dim, encoder_blocks, d_model)
        self.decoder = FrameDecoder(n_layers, d_model, n_heads, attn_dim, d_ff, dropout)
        # the Identity gives the position code its released name, tgt_embed.1
        self.tgt_embed = nn.Sequential(nn.Identity(), PositionCode(d_model, max_len, dropout))
        xavier_weights(self)

    def forward(self, fmri, frames, mask):
        """Predict every next frame, teacher forcing; an input of another shape is a ValueError.

        Parameters
        ----------
        fmri : tensor, shape (B, in_dim)
        frames : tensor, shape (B, F, d_model)
            F up to max_len
        mask : tensor, shape (B or 1, F, F), bool
            True: row may attend to column

        Returns
        -------
        (B, F, d_model), position i predicts frame i + 1
        """
        check_shape("fmri", fmri, ("B", self.in_dim))
        check_shape("frames", frames, (len(fmri), "F", self.d_model))
        if frames.shape[1] > self.max_len:
            raise ValueError(f"frames: expected at most {self.max_len} frames, given shape {tuple(frames.shape)}")
        check_mask(mask, len(fmri), frames.shape[1])
        return self.decoder(self.tgt_embed(frames), self.encoder(fmri), mask)

    @torch.no_grad()
    def generate(self, fmri, first_frame, n_frames=8, visibility="released", chunk_size=128):
        """Predict the later frames of clips from their first, one after the other, without dropout.

        Equal to running `forward` on the frames so far again and again, but no earlier frame is computed twice. The
        released greedy loop masks with keep ratio 0: frames 0 and 1 see all before them, later ones frame 0 alone, so
        that their two attention branches are constants of the clip and only the feed-forward branch is left to do.

        Parameters
        ----------
        fmri : tensor, shape (B, in_dim)
        first_frame : tensor, shape (B, d_model)
        n_frames : int
            1 to max_len + 1
        visibility : str
            "released", or "causal": every frame sees all earlier ones
        chunk_size : int
            clips at a time; bounds the memory

        Returns
        -------
        (B, n_frames, d_model), frame 0 is `first_frame`

        Raises
        ------
        ValueError
            an input of another shape, or an unknown visibility
        """
        check_shape("fmri", fmri, ("B", self.in_dim))
        check_shape("first_frame", first_frame, (len(fmri), self.d_model))
        check_n_frames(n_frames, self.max_len + 1)
        if visibility not in ("released", "causal"):
            raise ValueError(f"visibility: expected 'released' or 'causal', given {visibility!r}")
        return continue_frames(self, partial(self._continue, visibility), fmri, first_frame, n_frames, chunk_size)

    def _continue(self, visibility, fmri, frames):
        """Fill frames[:, 1:] from frames[:, 0]."""
        memory = self.encoder(fmri)
        caches = [layer.new_cache(memory) for layer in self.decoder.layers]
        position = self.tgt_embed[1]
        for i in range(frames.shape[1] - 1):
            frame = position(frames[:, i : i + 1], start=i)
            frames[:, i + 1 : i + 2] = self.decoder.step(frame, caches, visibility == "released" and i >= 2)
