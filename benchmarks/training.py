"""Speed of the training against its plain form, side by side in one run.

Prints   an epoch of the full-size structure decoder: rows taken by index and the fused Adam, against a sample at a time, collated, and Adam
         a parameter at a time
         augmented captions of some epochs: each distinct one encoded once, against every caption of every epoch

The decoder has the paper's size and random weights, the text encoder is the phantom's, so that the second ratio is of small models.

    python benchmarks/training.py
    python benchmarks/training.py --clips 32 --epochs 2

About 1 min on two cores; 3 GB.
"""

import argparse

import numpy as np
import torch
from timing import compare
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from common.augment import load_synonyms
from common.cli import PROJECT
from Feature_decoding.contrastive import CaptionBank, draw_captions
from Feature_decoding.training import make_adam
from models.encoders import encode_clip_text
from models.loading import load_clip
from models.structure_decoder import StructureDecoder

BATCH = 64


class Clips(Dataset):
    """A sample at a time."""

    def __init__(self, *arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, row):
        return tuple(torch.from_numpy(array[row]) for array in self.arrays)


def train(model, optimizer, batches):
    for step, (fmri, latents) in enumerate(batches):
        torch.manual_seed(step)  # of the dropout
        loss = F.mse_loss(model(fmri), latents)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def compare_epochs(n_clips):
    """One epoch of the structure decoder, in both forms, from the same weights."""
    rng = np.random.default_rng(0)
    models = [StructureDecoder() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    fmri = rng.standard_normal((n_clips, models[0].in_dim), dtype=np.float32)
    latents = rng.standard_normal((n_clips, *models[0].arguments["latent_shape"]), dtype=np.float32)
    plain_adam, adam = torch.optim.Adam(models[0].parameters(), lr=1e-5, foreach=False), make_adam(models[1], 1e-5)

    def plain():
        return train(models[0], plain_adam, DataLoader(Clips(fmri, latents), batch_size=BATCH))

    def ours():
        rows = np.split(np.arange(n_clips), range(BATCH, n_clips, BATCH))
        return train(models[1], adam, ((torch.from_numpy(fmri[part]), torch.from_numpy(latents[part])) for part in rows))

    losses = compare(f"an epoch of {n_clips} clips of the structure decoder", plain, ours, repeats=3)
    print(f"  losses differ by {abs(losses[0] - losses[1]) / losses[0]:.1e} of their value")


def compare_captions(n_clips, n_epochs):
    """CLIP features of the augmented captions of some epochs."""
    model, _, tokenizer = load_clip(str(PROJECT / "phantom/models/clip"))
    rng, words = np.random.default_rng(0), sorted(load_synonyms())
    captions = [" ".join(words[i] for i in rng.integers(0, len(words), 9)) for _ in range(n_clips)]

    def plain():
        drawn = [draw_captions(captions, 0, epoch) for epoch in range(1, n_epochs + 1)]
        return [torch.cat([encode_clip_text(model, tokenizer, part[i : i + BATCH]) for i in range(0, n_clips, BATCH)]) for part in drawn]

    def ours():
        bank, found = CaptionBank(captions, n_epochs, 0, lambda texts: {"text": encode_clip_text(model, tokenizer, texts)}, 2048), []
        for epoch in range(1, n_epochs + 1):
            bank.open(epoch)
            found.append(bank.take(np.arange(n_clips), epoch)["text"])
        return found

    expected, found = compare(f"augmented captions of {n_clips} clips in {n_epochs} epochs", plain, ours, repeats=3)
    print(f"  largest difference {(torch.stack(found) - torch.stack(expected)).abs().max():.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=256, help="number of clips of an epoch (default: 256)")
    parser.add_argument("--epochs", type=int, default=50, help="number of epochs of the captions (default: 50)")
    args = parser.parse_args()
    torch.manual_seed(0)
    compare_epochs(args.clips)
    compare_captions(args.clips, args.epochs)


if __name__ == "__main__":
    main()
