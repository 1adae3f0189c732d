"""Building blocks that several decoders share."""

import torch
from einops import rearrange
from torch import nn


def check_shape(name, given, expected):
    """Raise a ValueError that names the expected and the given shape; a letter in `expected` stands for any size."""
    if len(given.shape) != len(expected) or any(isinstance(n, int) and n != m for n, m in zip(expected, given.shape, strict=True)):
        raise ValueError(f"{name}: expected shape ({', '.join(map(str, expected))}), given {tuple(given.shape)}")


def check_mask(mask, batch, size):
    """Raise a ValueError unless `mask` is bool of shape (batch or 1, size, size)."""
    if mask.dtype != torch.bool:
        raise ValueError(f"mask: expected type bool (True: may attend), given {mask.dtype}")
    if mask.ndim != 3 or mask.shape[0] not in (1, batch) or tuple(mask.shape[1:]) != (size, size):
        raise ValueError(f"mask: expected shape ({batch} or 1, {size}, {size}), given {tuple(mask.shape)}")


def check_n_frames(n_frames, most):
    """Raise a ValueError unless so many frames can be generated."""
    if not 1 <= n_frames <= most:
        raise ValueError(f"n_frames: expected 1 to {most}, given {n_frames}")


def continue_frames(model, fill, fmri, first_frame, n_frames, chunk_size):
    """Clips (B, n_frames, ...) of a first frame (B, ...) and of what a model makes of it, without dropout.

    `fill` is a function of fMRI and clips, which writes the later frames of these into them; chunk_size clips at a time.
    """
    frames = first_frame.new_empty(len(fmri), n_frames, *first_frame.shape[1:])
    frames[:, 0] = first_frame
    was_training = model.training
    model.eval()
    try:
        for chunk, signal in zip(frames.split(chunk_size), fmri.split(chunk_size), strict=True):
            fill(signal, chunk)
    finally:
        model.train(was_training)
    return frames


FMRI_LAYERS = ("lin0.0", "encoder.lin0.0", "linear", "fMRI_to_spatial.1", "fMRI_to_temporal.1")  # of the decoders, those that read fMRI


@torch.no_grad()
def blind(model, vertices):
    """Set a decoder's weights of some vertices (V,) bool to 0, so that their fMRI has no effect; 0 in training, it leaves them so."""
    layers = [layer for name, layer in model.named_modules() if name in FMRI_LAYERS]
    if not layers or any(layer.in_features != len(vertices) for layer in layers):
        raise ValueError(f"vertices: expected those of a decoder's fMRI, given {len(vertices)} for a {type(model).__name__}")
    for layer in layers:
        layer.weight[:, torch.as_tensor(vertices, device=layer.weight.device)] = 0


def xavier_weights(model):
    """Draw every weight matrix of a model Xavier-uniform; vectors stay as they are."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def dense(in_dim, out_dim, dropout):
    """Linear, LayerNorm, GELU, Dropout: the stem of the fMRI encoders and the inside of their residual blocks."""
    return nn.Sequential(nn.Linear(in_dim, out_dim), nn.LayerNorm(out_dim), nn.GELU(), nn.Dropout(dropout))


class ResidualTrunk(nn.Module):
    """What reads fMRI by the layers `lin0`, of which the first is linear, and the residual blocks `mlp`."""

    def trunk(self, fmri):
        """fMRI (B, in_dim) through both, (B, hidden_dim); another shape is a ValueError."""
        check_shape("fmri", fmri, ("B", self.lin0[0].in_features))
        x = self.lin0(fmri)
        for block in self.mlp:
            x = block(x) + x
        return x


class TokenAttention(nn.Module):
    """Multi-head attention to ONE memory token.

    The softmax over a single token is 1, so every query gets the token's value, whatever query and key say. Their
    weights (`linears.0`, `linears.1`) exist because the released checkpoints hold them.

    Parameters
    ----------
    dim, attn_dim : int
        width of what comes in and goes out, and inside, split into `n_heads`
    dropout : float
        on the attention weights
    """

    def __init__(self, dim, attn_dim, n_heads, dropout=0.15):
        super().__init__()
        if attn_dim % n_heads:
            raise ValueError(f"attention: expected a width that {n_heads} heads divide, given {attn_dim}")
        self.n_heads = n_heads
        self.linears = nn.ModuleList(nn.Linear(dim, attn_dim) for _ in range(3))  # query, key, value
        self.linears1 = nn.Linear(attn_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def split(self, x):
        """Separate the heads: (B, n, attn_dim) -> (B, heads, n, attn_dim / heads)."""
        return rearrange(x, "b n (heads d) -> b heads n d", heads=self.n_heads)

    def merge(self, x):
        """Join the heads and map them to the output: (B, heads, n, attn_dim / heads) -> (B, n, dim)."""
        return self.linears1(rearrange(x, "b heads n d -> b n (heads d)"))

    def forward(self, memory, n_queries):
        """memory (B, dim) -> (B, n_queries, dim); (B, 1, dim) outside training, where all queries get the same."""
        value = self.split(self.linears[2](memory[:, None]))
        n_queries = n_queries if self.training else 1
        weights = value.new_ones(len(memory), self.n_heads, n_queries, 1)
        return self.merge(self.dropout(weights) * value)
