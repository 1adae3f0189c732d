"""What the phantom's brain answers to: structure, motion and semantics of its scenes, from phantom_truth.json."""

import cv2
import numpy as np

from common.files import UserError, missing, read_json
from phantom import world

AREAS = {  # which areas answer to which features; all other areas answer to nothing
    "structure": ("V1", "V2", "V3", "V4"),
    "motion": ("V3A", "V3B", "MT", "MST"),
    "semantics": ("LO1", "LO2", "TPOJ1", "TPOJ2"),
}
EMBEDDING_DIMS = 32  # of the caption embedding that vertices see, by a fixed random projection
MAKE = "run Data_preprocess/Phantom/step1_make_stimuli.py, or check --data_root"


def load_scenes(path, split):
    """Scenes of a split in clip order, list of world.Scene; `path` is phantom_truth.json, the data set's `truth_path`."""
    if not path.is_file():
        raise missing(path, MAKE)
    try:
        return [world.Scene.from_json(entry["scene"]) for entry in read_json(path)[split]]
    except (KeyError, TypeError):
        raise UserError(f"{path} does not list the scenes of a phantom; {MAKE}") from None


def structure_features(scenes):
    """Coarse layout of the first frame, (N, 105): luminance 8 x 8, two colour channels 4 x 4, position 3 x 3."""
    rows = []
    for scene in scenes:
        first = world.render(scene, [0])[0]
        luma, *chroma = cv2.split(cv2.cvtColor(first, cv2.COLOR_RGB2YUV).astype(np.float32) / 255)
        layout = [cv2.resize(luma, (8, 8), interpolation=cv2.INTER_AREA)]
        layout += [cv2.resize(channel, (4, 4), interpolation=cv2.INTER_AREA) for channel in chroma]
        centre = world.object_centre(scene, [0])[0]
        grid = np.array([(x, y) for y in world.GRID for x in world.GRID])
        position = np.exp(-((grid - centre) ** 2).sum(1) / (2 * 8.0**2))
        rows.append(np.concatenate([*(plane.ravel() for plane in layout), position]))
    return np.array(rows)


def motion_features(scenes):
    """Motion-energy basis, (N, 16): eight preferred directions by two preferred speeds."""
    velocity = np.array([scene.velocity() for scene in scenes])
    direction = np.arctan2(velocity[:, 1], velocity[:, 0])[:, None] - np.arange(8) * np.pi / 4
    speed = np.log(np.hypot(*velocity.T)[:, None] * 8 / np.array(world.SPEEDS))
    tuning = np.exp(2 * (np.cos(direction) - 1))[:, :, None] * np.exp(-(speed**2) / (2 * 0.4**2))[:, None]
    return tuning.reshape(len(scenes), -1)


def semantic_features(scenes, clip_path):
    """Caption embedding of the phantom's CLIP, projected to 32 numbers, and the factors one-hot, (N, 48)."""
    import torch

    from models.loading import load_clip

    captions = sorted({scene.caption for scene in scenes})
    model, _, tokenizer = load_clip(clip_path)
    with torch.no_grad():
        embeddings = dict(zip(captions, model.encode_text(tokenizer(captions), normalize=True).numpy(), strict=True))
    projection = np.random.default_rng(0).standard_normal((len(embeddings[captions[0]]), EMBEDDING_DIMS))
    factors = [
        ("shape", world.SHAPES),
        ("colour", world.COLOURS),
        ("background", world.BACKGROUNDS),
        ("size", world.SIZES),
    ]
    one_hot = [[float(getattr(scene, name) == value) for name, values in factors for value in values] for scene in scenes]
    return np.concatenate([np.array([embeddings[scene.caption] for scene in scenes]) @ projection, one_hot], axis=1)


def feature_groups(scenes, clip_path):
    """Features of both splits' scenes, standardised with the training scenes' mean and std.

    Returns
    -------
    dict of dict
        "structure", "motion" and "semantics" -> "train" and "test" -> array, (N, D) float64
    """
    makers = {"structure": structure_features, "motion": motion_features, "semantics": lambda s: semantic_features(s, clip_path)}
    groups = {}
    for name, make in makers.items():
        raw = {split: make(of_split) for split, of_split in scenes.items()}
        mean, std = raw["train"].mean(0), raw["train"].std(0)
        groups[name] = {split: (values - mean) / np.where(std > 0, std, 1) for split, values in raw.items()}
    return groups


def true_features(groups, split):
    """All of the `feature_groups` of a split side by side, (N, 169) float32, which the oracle arm has in place of fMRI."""
    return np.concatenate([groups[name][split] for name in AREAS], axis=1).astype(np.float32)
