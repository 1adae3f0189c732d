"""Shuffle the frames of reconstructions: are adjacent frames more alike to CLIP in the true order than by chance?

Reads    recons/sub{ID}/{name}/, {name}_ablate_motion and control as far as they are there, CLIP (--clip_path), the VAE of
         --sd_path for the noise ceiling (the truth through the VAE)
Writes   explain/sub{ID}/shuffle_test/CLIP-pcc/metrics.json: p with its repeats, and the value of the reversed order, which is
         the same: CLIP-pcc does not see the direction of time

    python Explainable_analysis/shuffle_test/shuffle_for_CLIP_pcc.py --dataset phantom --subj_ID 1

One order is drawn and applied to all clips; the cosine of each pair of a clip's frames is computed once. Clips: the paper's 44 for
subject 1 of CC2017, else those whose VIFI-score (evaluate.py) is above --min_vifi. CLIP-pcc without its threshold.

About a second per clip on one CPU core with ViT-B/32.
"""

from functools import partial

import numpy as np
from tqdm import tqdm

from common import cli
from common.files import UserError
from Evaluation_Metrics.towers import Towers
from Explainable_analysis.shuffle_test import shuffling

BLOCK = 8  # clips whose features are computed at a time


def cosine_table(features):
    """Cosine of each pair of a clip's frames, (N, F, F) float64, of features (N, F, D)."""
    features = np.asarray(features, np.float64)
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    return np.einsum("nad,nbd->nab", unit, unit)


def look_up(tables, orders):
    """Mean cosine of adjacent frames over clips for each order of the frames, (K,)."""
    return np.array([tables[:, order[:-1], order[1:]].mean() for order in np.asarray(orders)])


def test_pairs(pairs, tower, args, desc):
    """The test on one kind of reconstruction, dict."""
    blocks = [pairs.numbers[i : i + BLOCK] for i in range(0, len(pairs.numbers), BLOCK)]
    tables = np.concatenate(
        [cosine_table(tower(np.stack([pairs.pred.read(number) for number in block]))) for block in tqdm(blocks, desc=desc, unit="block")]
    )
    return shuffling.shuffle_frames(partial(look_up, tables), tables.shape[1], lower_is_better=False, **shuffling.repeats_of(args))


def get_parser():
    return shuffling.get_shuffle_parser(__doc__, "clip")


def main(args):
    towers = Towers.of(args)
    if "clip" not in towers:
        raise UserError("--clip_path is needed; name a folder or a hub id")
    models = {"clip": towers.identity("clip")}
    shuffling.run_test(
        args, "CLIP-pcc", lambda pairs, word: test_pairs(pairs, towers["clip"], args, word), lower_is_better=False, models=models
    )


if __name__ == "__main__":
    cli.run(main, get_parser)
