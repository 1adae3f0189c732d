"""Semantic decoder: fMRI to a CLIP embedding and to the tokens of Stable Diffusion's text condition."""

import math

import torch
from einops import rearrange
from torch import nn

from models.layers import ResidualTrunk, dense, xavier_weights


class SemanticDecoder(ResidualTrunk):
    """Residual MLP with a projector to text tokens.

    Parameters
    ----------
    in_dim : int
        number of vertices
    hidden_dim : int
        width of the embedding, CLIP's 512
    n_blocks : int
        residual blocks
    n_tokens : int
        text tokens, without the start token
    token_dim : int
        width of a token
    projector_dims : tuple of int
        hidden widths of the projector

    References
    ----------
    Mind-Animator, semantic decoder; parameter names are those of the released checkpoints.
    """

    def __init__(self, in_dim=4500, hidden_dim=512, n_blocks=3, n_tokens=19, token_dim=768, projector_dims=(2048, 4096)):
        super().__init__()
        self.arguments = dict(
            in_dim=in_dim, hidden_dim=hidden_dim, n_blocks=n_blocks, n_tokens=n_tokens, token_dim=token_dim,
            projector_dims=tuple(projector_dims),
        )  # fmt: skip
        self.in_dim, self.n_tokens, self.token_dim = in_dim, n_tokens, token_dim
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.lin0 = dense(in_dim, hidden_dim, 0.3)
        self.mlp = nn.ModuleList(dense(hidden_dim, hidden_dim, 0.15) for _ in range(n_blocks))
        widths = [hidden_dim, *projector_dims, n_tokens * token_dim]
        layers = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.LayerNorm(before), nn.GELU(), nn.Linear(before, after)]
        self.lin1 = nn.Sequential(*layers)
        xavier_weights(self)

    def forward(self, fmri):
        """Decode fMRI (B, in_dim); another shape is a ValueError.

        Returns
        -------
        embedding : tensor, shape (B, hidden_dim)
            to compare with CLIP embeddings, not normalised
        tokens : tensor, shape (B, n_tokens, token_dim)
            Stable Diffusion's text condition from its second token on
        """
        x = self.trunk(fmri)
        return x, rearrange(self.lin1(x), "b (n d) -> b n d", d=self.token_dim)
