"""What is measured on the phantom's results, clip by clip: factors decoded from the series, ranks, directions, what a classifier reads."""

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from Evaluation_Metrics.EPE import flows
from Evaluation_Metrics.ranking import ranks
from phantom.world import BACKGROUNDS, COLOURS, DIRECTIONS, IMAGE_FACTORS, SHAPES, SIZES, SPEEDS, factor_numbers

FACTORS = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "background": tuple(BACKGROUNDS),
    "size": tuple(SIZES),
    "column": (0, 1, 2),
    "row": (0, 1, 2),
    "direction": tuple(DIRECTIONS),
    "speed": SPEEDS,
}
RIDGE = 1e3


@dataclass(frozen=True)
class Measured:
    """What is measured on reconstructions of test clips, by arm: ranks of the own captions (N,) among n_gallery distinct ones, of all
    test clips; and of the reconstructed ones (n,):

    two_way, 2-way accuracy; structure, "PSNR" and "SSIM" of the first frame before stage 2, also of the "mean frame"; before and after
    stage 2 the end-point error, also of the "still", and whether the direction of the mean flow is right; read, {factor: whether
    the image classifier reads it right}, also in the "truth".
    """

    ranks: dict
    n_gallery: int
    two_way: dict
    structure: dict
    before: dict
    after: dict
    right_before: dict
    right: dict
    read: dict


# ---------------------------------------------------------------------------------------------- from series to factors


def one_hot(scenes):
    """All factors of scenes, each one-hot, (N, 28), and {factor: slice of its columns}."""
    columns, blocks, start = {}, [], 0
    for name, values in FACTORS.items():
        blocks.append([[float(getattr(scene, name) == value) for value in values] for scene in scenes])
        columns[name] = slice(start, start + len(values))
        start += len(values)
    return np.concatenate(blocks, axis=1), columns


def ridge(x, y):
    """Dual ridge regression on centred data: a function from rows like x's to rows like y's."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    dual = np.linalg.solve((x - x_mean) @ (x - x_mean).T + RIDGE * np.eye(len(x)), y - y_mean)
    weights = (x - x_mean).T @ dual
    return lambda new: (new - x_mean) @ weights + y_mean


def decode_factors(train, test, *, scenes):
    """Share of the eight factors that ridge regression decodes right, clip by clip, (M,); NaN for clips left out.

    `train` (N, V) and `test` (M, V) are series at one lag, NaN for a clip whose volume lies outside its run; `scenes` {split: list}.
    """
    wanted, columns = one_hot(scenes["train"])
    actual, _ = one_hot(scenes["test"])
    known, seen = np.isfinite(train).all(1), np.isfinite(test).all(1)
    predicted = ridge(train[known], wanted[known])(test[seen])
    right = [predicted[:, block].argmax(1) == actual[seen][:, block].argmax(1) for block in columns.values()]
    shares = np.full(len(test), np.nan)
    shares[seen] = np.mean(right, axis=0)
    return shares


def commonest_share(scenes):
    """Chance level of decode_factors: share of the commonest value, averaged over the factors."""
    wanted, columns = one_hot(scenes)
    return float(np.mean([wanted[:, block].sum(0).max() / len(wanted) for block in columns.values()]))


# ---------------------------------------------------------------------------------------------- semantics


def caption_ranks(embedding, text, captions):
    """Rank of each clip's own caption among the distinct captions by cosine, (N,) from 1, and the number of distinct captions.

    `embedding` (N, D) is decoded from fMRI, `text` (N, D) holds CLIP text features of the captions, of which equal ones count once.
    """
    _, first, own = np.unique(captions, return_index=True, return_inverse=True)
    return ranks(embedding, text[first], own), len(first)


# ---------------------------------------------------------------------------------------------- frames


def directions(clips):
    """Direction of each clip's mean flow, (N,) names."""
    names = list(DIRECTIONS)
    unit = np.array([DIRECTIONS[name] for name in names])
    return np.array([names[int((unit @ flows(clip, "rgb").mean((0, 1, 2))).argmax())] for clip in clips])


def read_factors(scores):
    """What a classifier reads in clips, {factor: (N,) int, numbers of the values}: the others summed out, frames averaged.

    `scores` (N, F, 96) are logits of the classes of phantom.world.IMAGE_FACTORS.
    """
    joint = softmax(scores, axis=-1).mean(1).reshape(-1, *map(len, IMAGE_FACTORS.values()))  # n (shape colour background)
    axes = {name: axis for axis, name in enumerate(IMAGE_FACTORS, 1)}
    return {name: joint.sum(tuple(set(axes.values()) - {axis})).argmax(1) for name, axis in axes.items()}


def read_right(scores, scenes):
    """Whether a classifier reads each factor right, {factor: {name: (N,) 0 or 1}}, of {name: (N, F, 96) logits} and N scenes."""
    actual = dict(zip(IMAGE_FACTORS, factor_numbers(scenes, IMAGE_FACTORS).T, strict=True))
    read = {name: read_factors(values) for name, values in scores.items()}
    return {factor: {name: (values[factor] == actual[factor]).astype(float) for name, values in read.items()} for factor in actual}
