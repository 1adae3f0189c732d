"""Structure decoder: fMRI to the VAE latent of a clip's first frame."""

import math

from einops import rearrange
from torch import nn

from models.layers import ResidualTrunk, xavier_weights


class StructureDecoder(ResidualTrunk):
    """Residual linear network with a normalised head.

    Parameters
    ----------
    in_dim : int
        number of vertices
    hidden_dim : int
        width
    n_blocks : int
        residual blocks
    latent_shape : tuple of int
        channels, height, width of the latent

    References
    ----------
    Mind-Animator, structure decoder; parameter names are those of the released checkpoints.
    """

    def __init__(self, in_dim=4500, hidden_dim=1024, n_blocks=2, latent_shape=(4, 64, 64)):
        super().__init__()
        self.arguments = dict(in_dim=in_dim, hidden_dim=hidden_dim, n_blocks=n_blocks, latent_shape=tuple(latent_shape))
        self.in_dim, self.latent_shape = in_dim, tuple(latent_shape)
        self.lin0 = nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.Dropout(0.2))
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(hidden_dim, hidden_dim), nn.Dropout(0.2)) for _ in range(n_blocks))
        self.lin1 = nn.Sequential(nn.LayerNorm(hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, math.prod(latent_shape)))
        xavier_weights(self)

    def forward(self, fmri):
        """Decode fMRI (B, in_dim) to latents (B, *latent_shape), scaled by 0.18215; another shape is a ValueError."""
        _, h, w = self.latent_shape
        return rearrange(self.lin1(self.trunk(fmri)), "b (c h w) -> b c h w", h=h, w=w)
