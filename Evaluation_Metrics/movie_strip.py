"""Movie strips: the frames of clips in rows of one picture, of which pages play any row."""

import numpy as np
from PIL import Image

from common.files import atomic_path
from common.readers import resize_frames

STRIP_FRAME = 128  # pixels to which wider frames are shrunk


def _gap(width):
    return max(1, width // 32)


def zoom(width):
    """Width of a frame with its gap over its width alone, for frames that were `width` pixels wide."""
    width = min(width, STRIP_FRAME)
    return 1 + _gap(width) / width


def write_strip(path, *clips):
    """Write clips (F, H, W, 3) uint8 of one size as one PNG, a row each; below and right of every frame is a transparent gap."""
    rows = []
    for clip in clips:
        height, width = clip.shape[1:3]
        if width > STRIP_FRAME:
            clip = resize_frames(clip, (round(STRIP_FRAME * height / width), STRIP_FRAME))
        opaque = np.concatenate([clip, np.full_like(clip[..., :1], 255)], axis=-1)
        gap = _gap(clip.shape[2])
        rows.append(np.concatenate(list(np.pad(opaque, ((0, 0), (0, gap), (0, gap), (0, 0)))), axis=1))  # h (f w) c
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(
            temporary, "png", compress_level=4
        )  # faster than the default 6 and hardly larger (benchmarks/writing.py)
