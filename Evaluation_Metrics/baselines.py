"""Reconstructions that cost nothing: what a number is worth shows beside them.

Each is a reader of clips (see common/readers.py), made from the data at hand.
"""

from pathlib import Path

import numpy as np
from einops import rearrange
from tqdm import tqdm

from common.readers import FolderClips
from Evaluation_Metrics.pairs import Pairs
from Evaluation_Metrics.towers import source_sha256
from models.loading import load_sd_part

SAMPLE = 200  # clips that the mean frame is taken over


class ConstantClips:
    """The same frame (H, W, 3) uint8 in every clip; `path` is its name for messages."""

    def __init__(self, path, frame, n_frames, numbers):
        self.path, self.frame, self.n_frames, self.numbers = path, frame, n_frames, list(numbers)

    def identity(self, numbers):
        return [self.path, self.frame.shape, int(self.frame.sum(dtype=np.int64)), self.n_frames, list(numbers)]

    def read(self, number):
        return np.broadcast_to(self.frame, (self.n_frames, *self.frame.shape)).copy()


class RenumberedClips:
    """Clips of another reader in another order: `origin` {number: number in the reader}; `path` is a name for messages."""

    def __init__(self, path, reader, origin):
        self.path, self.reader, self.origin, self.numbers = path, reader, origin, sorted(origin)

    def identity(self, numbers):
        return [self.path, list(numbers), self.reader.identity([self.origin[number] for number in numbers])]

    def read(self, number):
        return self.reader.read(self.origin[number])


class AutoencodedClips:
    """The true clips through Stable Diffusion's autoencoder: the best that any reconstruction by it could be.

    Parameters
    ----------
    truth : FolderClips or ArrayClips
        the true clips
    sd_path : str
        Stable Diffusion, folder or hub id, with a `vae`
    device : torch.device or str
    """

    path = "ground truth through the VAE"
    made_in_main_process = True  # torch does not run in forked workers

    def __init__(self, truth, sd_path, device="cpu"):
        import torch

        self.vae = load_sd_part(sd_path, "vae").to(device)
        self.truth, self.numbers, self.device, self.torch = truth, truth.numbers, device, torch
        self.vae_identity = source_sha256(Path(sd_path) / "vae") or str(sd_path)

    def identity(self, numbers):
        return [self.path, self.vae_identity, self.truth.identity(numbers)]

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key not in ("vae", "torch")}

    def read(self, number):
        clip = self.torch.from_numpy(self.truth.read(number)).to(self.device)
        frames = rearrange(clip, "f h w c -> f c h w").float() / 127.5 - 1
        with self.torch.inference_mode():
            latents = self.vae.encode(frames).latent_dist.mode()
            decoded = (self.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
        return rearrange((decoded * 255).round().to(self.torch.uint8).cpu(), "f c h w -> f h w c").numpy()


def shuffled(numbers, seed):
    """Each of two or more clips' numbers to another's: a random cycle, so that none keeps its own."""
    order = np.random.default_rng(seed).permutation(numbers).tolist()
    return dict(zip(order, order[1:] + order[:1], strict=True))


def mean_frame(reader, seed):
    """Mean of all frames of up to SAMPLE clips, drawn at random, (H, W, 3) uint8."""
    numbers = reader.numbers
    if len(numbers) > SAMPLE:
        numbers = np.random.default_rng(seed).choice(numbers, SAMPLE, replace=False)
    total = 0
    for number in tqdm(numbers, desc="mean frame", unit="clip"):
        total = total + reader.read(int(number)).mean(0)
    return np.round(total / len(numbers)).astype(np.uint8)


def make_baselines(pairs, numbers, training, seed, sd_path=None, device="cpu"):
    """The free baselines that the data at hand allow: two dicts, name -> reader, and name -> why there is none.

    Parameters
    ----------
    pairs : Pairs
        of the method that they stand beside
    numbers : list of int
        clips that it was scored on
    training : FolderClips, optional
        training clips
    seed : int
        of the random ones
    sd_path : str, optional
        Stable Diffusion, for the autoencoder
    """
    truth = pairs.truth()
    shape = truth.read(numbers[0]).shape
    made, absent = {}, {}
    if training is not None and training.read(training.numbers[0]).shape != shape:
        training = None  # grids with borders: nothing but the same borders compares
    if training is None:
        made["mean frame"] = ConstantClips(f"mean frame of {min(SAMPLE, len(truth.numbers))} test clips", mean_frame(truth, seed), shape[0], numbers)
        absent["random training clip"] = "no training frames of this size (stimuli_frames/Train)"
    else:
        made["mean frame"] = ConstantClips(f"mean frame of {min(SAMPLE, len(training.numbers))} training clips", mean_frame(training, seed), shape[0], numbers)
        drawn = np.random.default_rng(seed).choice(training.numbers, len(numbers)).tolist()
        made["random training clip"] = RenumberedClips("random training clip", training, dict(zip(numbers, drawn, strict=True)))
    made["black"] = ConstantClips("black", np.zeros(shape[1:], np.uint8), shape[0], numbers)
    if len(numbers) > 1:
        made["clip-shuffled"] = RenumberedClips("clip-shuffled", pairs.pred, shuffled(numbers, seed))
    else:
        absent["clip-shuffled"] = "one clip alone"
    if sd_path is None:
        absent["truth through VAE"] = "no --sd_path"
    elif shape[1] != shape[2]:
        absent["truth through VAE"] = "frames with borders"
    else:
        made["truth through VAE"] = AutoencodedClips(truth, sd_path, device)
    return made, absent


def score_baselines(pairs, numbers, score, *, frames, names, form, seed, sd_path=None, device="cpu"):
    """Score the free baselines on the clips that a method was scored on.

    Parameters
    ----------
    pairs, numbers, seed, sd_path, device
        as in make_baselines
    score : function
        of Pairs and a `desc` -> columns, lost
    frames : Path
        stimuli_frames/Train, which need not exist
    names : list of str
        of the training clips, in order
    form : dict
        n_frames, size, times, as the protocol wants them

    Returns
    -------
    values, made_of, absent : dict
        baseline -> {column: values}, what it was made of, or why it was not made
    """
    training = FolderClips(frames, "ours", resize=True, names=names, **form) if frames.is_dir() else None
    made, absent = make_baselines(pairs, numbers, training, seed, sd_path, device)
    values = {name: score(Pairs(reader, pairs.truth(), numbers=numbers), desc=name)[0] for name, reader in made.items()}
    return values, {name: reader.path for name, reader in made.items()}, absent
