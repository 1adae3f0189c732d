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
from common.datasets import get_dataset
from common.files import UserError
from common.layout import Layout
from common.records import working
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
    settings = {"seed": args.seed, "n_permutations": args.n_permutations, "n_repeats": args.n_repeats, "released": args.released_p}
    return shuffling.shuffle_frames(partial(look_up, tables), tables.shape[1], lower_is_better=False, **settings)


def get_parser():
    return shuffling.get_shuffle_parser(__doc__, "clip")


def main(args):
    dataset, place, towers = get_dataset(args.dataset), Layout.of(args), Towers.of(args)
    if "clip" not in towers:
        raise UserError("--clip_path is needed; name a folder or a hub id")
    numbers, how = shuffling.choose_clips(args, dataset, place)
    tested = shuffling.open_tested(args, dataset, place, numbers)
    identity = {word: pairs.pred.identity(numbers) for word, pairs in tested.items()} | {"clip": towers.identity("clip")}
    with working(shuffling.results_folder(args, "CLIP-pcc"), args, facts={"tested": identity, "clip_numbers": numbers}) as record:
        if record is None:
            return
        tests = {word: test_pairs(pairs, towers["clip"], args, word) for word, pairs in tested.items()}
        facts = shuffling.facts_of(args, numbers, how)
        shuffling.print_tests(dataset, "CLIP-pcc", facts, tests)
        record.finish(**facts, metric="CLIP-pcc", lower_is_better=False, tests=tests)


if __name__ == "__main__":
    cli.run(main, get_parser)
