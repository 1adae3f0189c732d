"""Retrieval decoders, fMRI to a CLIP embedding: the semantic decoder without its projector, and a linear map."""

import math

import torch
from torch import nn

from models.layers import ResidualTrunk, check_shape, dense, xavier_weights


class RetrievalDecoder(ResidualTrunk):
    """Residual MLP.

    Parameters
    ----------
    in_dim : int
        number of vertices
    hidden_dim : int
        width of the embedding, CLIP's 512
    n_blocks : int
        residual blocks

    References
    ----------
    Mind-Animator, retrieval task; parameter names are those of the released checkpoints.
    """

    def __init__(self, in_dim=4500, hidden_dim=512, n_blocks=2):
        super().__init__()
        self.arguments = dict(in_dim=in_dim, hidden_dim=hidden_dim, n_blocks=n_blocks)
        self.in_dim = in_dim
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.lin0 = dense(in_dim, hidden_dim, 0.3)
        self.mlp = nn.ModuleList(dense(hidden_dim, hidden_dim, 0.15) for _ in range(n_blocks))
        xavier_weights(self)

    def forward(self, fmri):
        """Decode fMRI (B, in_dim) to an embedding (B, hidden_dim), not normalised; another shape is a ValueError."""
        return self.trunk(fmri)


class LinearDecoder(nn.Module):
    """One linear map of in_dim vertices to an embedding of hidden_dim, the paper's baseline."""

    def __init__(self, in_dim=4500, hidden_dim=512):
        super().__init__()
        self.arguments = dict(in_dim=in_dim, hidden_dim=hidden_dim)
        self.in_dim = in_dim
        self.linear = nn.Linear(in_dim, hidden_dim)
        xavier_weights(self)

    def forward(self, fmri):
        """Decode fMRI (B, in_dim) to an embedding (B, hidden_dim), not normalised; another shape is a ValueError."""
        check_shape("fmri", fmri, ("B", self.in_dim))
        return self.linear(fmri)
