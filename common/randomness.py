"""Random generators that depend on what they are for, not on what was drawn before: the base of exact resuming."""

import hashlib

import numpy as np


def seed_of(*key):
    """A 63-bit seed from numbers and words, such as (seed, "mask", epoch, clip): the same on every machine."""
    digest = hashlib.sha256(repr(tuple(k if isinstance(k, str) else int(k) for k in key)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def numpy_generator(*key):
    """np.random.Generator of a key."""
    return np.random.default_rng(seed_of(*key))


def torch_generator(*key):
    """torch.Generator of a key, on the CPU, so that devices agree."""
    import torch

    return torch.Generator().manual_seed(seed_of(*key))
