"""What the phantom's brain answers to: structure, motion and semantics of its scenes, from phantom_truth.json."""

from pathlib import Path

import cv2
import numpy as np

from phantom import world as phantom_world
from common.files import missing, read_json

TRUTH = Path("phantom") / "phantom_truth.json"  # below --data_root
AREAS = {  # which areas answer to which features; all other areas answer to nothing
    "structure": ("V1", "V2", "V3", "V4"),
    "motion": ("V3A", "V3B", "MT", "MST"),
    "semantics": ("LO1", "LO2", "TPOJ1", "TPOJ2"),
}
EMBEDDING_DIMS = 32  # of the caption embedding that vertices see, by a fixed random projection


def load_scenes(data_root, split):
    """Scenes of a split in clip order, list of phantom_world.Scene."""
    path = Path(data_root) / TRUTH
    if not path.exists():
        raise missing(path, "the phantom's truth", "run Data_preprocess/Phantom/step1_make_stimuli.py")
    return [phantom_world.Scene.from_json(entry["scene"]) for entry in read_json(path)[split]]


def structure_features(scenes):
    """Coarse layout of the first frame, (N, 105): luminance 8 x 8, two colour channels 4 x 4, position 3 x 3."""
    rows = []
    for scene in scenes:
        first = phantom_world.render(scene, [0])[0]
        luma, *chroma = cv2.split(cv2.cvtColor(first, cv2.COLOR_RGB2YUV).astype(np.float32) / 255)
        layout = [cv2.resize(luma, (8, 8), interpolation=cv2.INTER_AREA)]
        layout += [cv2.resize(channel, (4, 4), interpolation=cv2.INTER_AREA) for channel in chroma]
        centre = phantom_world.object_centre(scene, [0])[0]
        grid = np.array([(x, y) for y in phantom_world.GRID for x in phantom_world.GRID])
        position = np.exp(-((grid - centre) ** 2).sum(1) / (2 * 8.0**2))
        rows.append(np.concatenate([*(plane.ravel() for plane in layout), position]))
    return np.array(rows)


def motion_features(scenes):
    """Motion-energy basis, (N, 16): eight preferred directions by two preferred speeds."""
    velocity = np.array([scene.velocity() for scene in scenes])
    direction = np.arctan2(velocity[:, 1], velocity[:, 0])[:, None] - np.arange(8) * np.pi / 4
    speed = np.log(np.hypot(*velocity.T)[:, None] * 8 / np.array(phantom_world.SPEEDS))
    tuning = np.exp(2 * (np.cos(direction) - 1))[:, :, None] * np.exp(-(speed**2) / (2 * 0.4**2))[:, None]
    return tuning.reshape(len(scenes), -1)


def semantic_features(scenes, clip_path):
    """Caption embedding of the phantom's CLIP, projected to 32 numbers, and the factors one-hot, (N, 48)."""
    import torch

    from common.model_sources import load_clip

    captions = sorted({scene.caption for scene in scenes})
    model, _, tokenizer = load_clip(clip_path)
    with torch.no_grad():
        embeddings = dict(zip(captions, model.encode_text(tokenizer(captions), normalize=True).numpy(), strict=True))
    projection = np.random.default_rng(0).standard_normal((len(embeddings[captions[0]]), EMBEDDING_DIMS))
    factors = [
        ("shape", phantom_world.SHAPES),
        ("colour", phantom_world.COLOURS),
        ("background", phantom_world.BACKGROUNDS),
        ("size", phantom_world.SIZES),
    ]
    one_hot = [[float(getattr(scene, name) == value) for name, values in factors for value in values] for scene in scenes]
    return np.concatenate([np.array([embeddings[scene.caption] for scene in scenes]) @ projection, one_hot], axis=1)


def feature_groups(data_root, clip_path):
    """Features of both splits, standardised with the training scenes' mean and std.

    Parameters
    ----------
    data_root : folder with phantom/phantom_truth.json
    clip_path : the phantom's CLIP

    Returns
    -------
    dict 'structure' | 'motion' | 'semantics' -> dict 'train' | 'test' -> (N, D) float64
    """
    scenes = {split: load_scenes(data_root, split) for split in ("train", "test")}
    makers = {"structure": structure_features, "motion": motion_features, "semantics": lambda s: semantic_features(s, clip_path)}
    groups = {}
    for name, make in makers.items():
        raw = {split: make(scenes[split]) for split in scenes}
        mean, std = raw["train"].mean(0), raw["train"].std(0)
        groups[name] = {split: (values - mean) / np.where(std > 0, std, 1) for split, values in raw.items()}
    return groups


def true_features(data_root, split, clip_path):
    """All features side by side: what the oracle arm has in place of fMRI, (N, 169) float32."""
    groups = feature_groups(data_root, clip_path)
    return np.concatenate([groups[name][split] for name in AREAS], axis=1).astype(np.float32)
