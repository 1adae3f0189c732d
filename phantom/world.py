"""The world of the digital phantom: what its scenes contain, how they look, what a caption says of them.

A scene lasts 2 s at 30 fps on a 64 x 64 frame: one object (shape, colour, size) starts on a 3 x 3 grid and moves
in one of four directions at one of two speeds over a periodic texture that pans at 0.6 of the object's velocity.
Everything that makes a picture is precomputed on a grid eight times finer and area-averaged, so that a frame is
two table look-ups and a blend.
"""

from dataclasses import asdict, dataclass
from functools import cache
from itertools import product

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

SIZE = 64  # pixels
FPS = 30
SCENE_FRAMES = 60
OVERSAMPLE = 8
PERIOD = 32  # pixels after which a background repeats
BACKGROUND_PAN = 0.6  # of the object's velocity; a static background would make nearly all flow zero
SOFTNESS = 1.0  # Gaussian blur of the backgrounds, pixels
OUTLINE = 1.4  # pixels

SHAPES = ("circle", "square", "triangle", "star")
COLOURS = {
    "red": (215, 40, 40),
    "yellow": (240, 215, 50),
    "green": (40, 185, 70),
    "blue": (50, 80, 230),
    "pink": (240, 110, 205),
    "white": (248, 248, 248),
}
BACKGROUNDS = {
    "bricks": "on a brick wall",
    "meadow": "in a flower meadow",
    "waves": "over the sea waves",
    "tiles": "on a tile floor",
}
SIZES = {"small": 10.0, "large": 14.0}  # radius in pixels
GRID = (20.0, 32.0, 44.0)  # start positions of the object's centre, per axis
DIRECTIONS = {"right": (1, 0), "down": (0, 1), "left": (-1, 0), "up": (0, -1)}
SPEEDS = (2.0, 3.5)  # pixels per 8 movie frames


@dataclass(frozen=True)
class Scene:
    """The factors of one scene; `phase` is the background's random offset in pixels, (x, y)."""

    shape: str
    colour: str
    background: str
    size: str
    column: int
    row: int
    direction: str
    speed: float
    phase: tuple

    @property
    def caption(self):
        """What a caption says: neither position nor motion, which stills and words must not give away."""
        return f"a {self.size} {self.colour} {self.shape} {BACKGROUNDS[self.background]}"

    def velocity(self):
        """Pixels per movie frame, (x, y)."""
        return tuple(self.speed / 8 * d for d in DIRECTIONS[self.direction])

    def to_json(self):
        return asdict(self)

    @classmethod
    def from_json(cls, entry):
        return cls(**{**entry, "phase": tuple(entry["phase"])})


def random_scene(rng):
    """A Scene; every factor is drawn independently of the others."""

    def pick(values):
        return list(values)[rng.integers(len(values))]

    return Scene(
        shape=pick(SHAPES), colour=pick(COLOURS), background=pick(BACKGROUNDS), size=pick(SIZES),
        column=int(rng.integers(3)), row=int(rng.integers(3)), direction=pick(DIRECTIONS), speed=float(pick(SPEEDS)),
        phase=tuple(float(v) for v in rng.uniform(0, PERIOD, 2).round(3)),
    )  # fmt: skip


# what the phantom's classifiers tell apart: all combinations of three factors, the last one fastest
IMAGE_FACTORS = {"shape": SHAPES, "colour": tuple(COLOURS), "background": tuple(BACKGROUNDS)}  # 96 classes
CLIP_FACTORS = {"shape": SHAPES, "direction": tuple(DIRECTIONS), "background": tuple(BACKGROUNDS)}  # 64 classes


def image_class_names():
    """Names of the classes of stills, in order: "red circle on a brick wall"."""
    return [f"{colour} {shape} {BACKGROUNDS[place]}" for shape, colour, place in product(*IMAGE_FACTORS.values())]


def clip_class_names():
    """Names of the classes of clips, in order: "circle moving right on a brick wall"."""
    return [f"{shape} moving {direction} {BACKGROUNDS[place]}" for shape, direction, place in product(*CLIP_FACTORS.values())]


def factor_numbers(scenes, factors):
    """Which value each scene has of each factor, (N, len(factors)) int."""
    return np.array([[values.index(getattr(scene, name)) for name, values in factors.items()] for scene in scenes])


# ---------------------------------------------------------------------------------------------- look-up tables


def _texture(kind):
    """One period of a background on the fine grid, (PERIOD * OVERSAMPLE,) * 2 + (3,) float32 in 0..255."""
    n = PERIOD * OVERSAMPLE
    y, x = np.mgrid[:n, :n] / OVERSAMPLE  # in pixels
    if kind == "bricks":
        course = (y // 16).astype(int)
        along = (x + 16 * course) % 32
        mortar = (y % 16 < 2.5) | (along < 2.5)
        picture = np.where(mortar[..., None], (206, 196, 186), (140, 74, 56))
    elif kind == "meadow":
        picture = np.broadcast_to((70, 118, 58), (n, n, 3))
        for cx, cy, r, colour in (
            (7, 8, 5.0, (212, 206, 128)),
            (22, 12, 5.5, (38, 72, 34)),
            (15, 25, 4.5, (216, 212, 196)),
            (29, 27, 4.0, (46, 82, 40)),
        ):
            dx, dy = np.abs(x - cx), np.abs(y - cy)
            distance = np.hypot(np.minimum(dx, PERIOD - dx), np.minimum(dy, PERIOD - dy))
            picture = np.where((distance < r)[..., None], colour, picture)
    elif kind == "waves":
        angle = 2 * np.pi / PERIOD
        crest = np.sin(angle * 2 * y + 1.8 * np.sin(angle * x)) + 0.7 * np.sin(angle * (x + y))
        picture = np.array((62, 98, 136)) + np.multiply.outer(crest, (26, 30, 32))
    elif kind == "tiles":
        light = (x // 16 + y // 16) % 2
        picture = np.where(light[..., None] > 0, (186, 186, 190), (92, 90, 96)) + 16 * (y // 16)[..., None]
    else:
        raise ValueError(f"no background {kind!r}; there are {', '.join(BACKGROUNDS)}")
    softened = gaussian_filter(picture.astype(np.float32), (SOFTNESS * OVERSAMPLE, SOFTNESS * OVERSAMPLE, 0), mode="wrap")
    return softened.clip(0, 255)


@cache
def _averaged_texture(kind):
    """The texture averaged over one pixel around every fine-grid point (periodic)."""
    fine = _texture(kind)
    padded = np.concatenate([fine, fine[:OVERSAMPLE]], axis=0)
    padded = np.concatenate([padded, padded[:, :OVERSAMPLE]], axis=1)
    sums = np.pad(padded.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0), (0, 0)))
    k, n = OVERSAMPLE, len(fine)
    box = sums[k : k + n, k : k + n] - sums[:n, k : k + n] - sums[k : k + n, :n] + sums[:n, :n]
    return (box / k**2).astype(np.float32)


def _signed_distance(shape, x, y, radius):
    """Distance in pixels to the outline of a shape centred on 0, negative inside."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.88 * radius
    if shape == "triangle":  # equilateral, apex up
        return np.maximum(0.866 * np.abs(x) - 0.5 * (y - 0.15 * radius), y - 0.15 * radius) - 0.6 * radius
    if shape == "star":  # five points: fold the angle onto half a point, then one straight edge
        wedge = np.pi / 5
        angle = np.arctan2(x, -y)
        folded = np.abs((angle + wedge) % (2 * wedge) - wedge)
        px, py = np.hypot(x, y) * np.cos(folded), np.hypot(x, y) * np.sin(folded)
        tip, notch = np.array([1.15 * radius, 0.0]), 0.52 * radius * np.array([np.cos(wedge), np.sin(wedge)])
        edge = (notch - tip) / np.linalg.norm(notch - tip)
        return (px - tip[0]) * edge[1] - (py - tip[1]) * edge[0]
    raise ValueError(f"no shape {shape!r}; there are {', '.join(SHAPES)}")


HALF = 20  # half the width of an object's stamp, pixels


@cache
def _stamp(shape, size, phase_x, phase_y):
    """Coverage of fill and of fill + outline by a shape at a sub-pixel phase, two (2 HALF, 2 HALF) arrays in 0..1."""
    n = 2 * HALF * OVERSAMPLE
    y, x = (np.mgrid[:n, :n] + 0.5) / OVERSAMPLE - HALF
    distance = _signed_distance(shape, x - phase_x / OVERSAMPLE, y - phase_y / OVERSAMPLE, SIZES[size])

    def cover(inside):
        return inside.reshape(2 * HALF, OVERSAMPLE, 2 * HALF, OVERSAMPLE).mean((1, 3), dtype=np.float32)

    return cover(distance < -OUTLINE), cover(distance < 0)


# ---------------------------------------------------------------------------------------------- pictures


def object_centre(scene, frames):
    """Centre of the object in pixels at the given frames of its scene, (T, 2) as (x, y)."""
    start = np.array([GRID[scene.column], GRID[scene.row]])
    return start + np.multiply.outer(np.asarray(frames, dtype=float), scene.velocity())


def render(scene, frames, opacity=1.0):
    """Draw frames of a scene, (T, 64, 64, 3) uint8 RGB.

    Parameters
    ----------
    scene : Scene
    frames : sequence of int
        counted from 0 at the scene's start
    opacity : float, or array, shape (T,)
        of the object, for all frames or each
    """
    texture = _averaged_texture(scene.background)
    period = PERIOD * OVERSAMPLE
    grid = np.arange(SIZE) * OVERSAMPLE
    colour = np.array(COLOURS[scene.colour], np.float32)
    pictures = np.empty((len(frames), SIZE, SIZE, 3), np.uint8)
    shown = np.broadcast_to(np.float32(opacity), len(frames))
    for picture, frame, centre, alpha in zip(pictures, frames, object_centre(scene, frames), shown, strict=True):
        pan = [int(round((p - BACKGROUND_PAN * v * frame) * OVERSAMPLE)) for p, v in zip(scene.phase, scene.velocity(), strict=True)]
        canvas = texture[np.ix_((grid + pan[1]) % period, (grid + pan[0]) % period)]
        (left, phase_x), (top, phase_y) = (divmod(int(round(c * OVERSAMPLE)), OVERSAMPLE) for c in centre)
        fill, whole = _stamp(scene.shape, scene.size, phase_x, phase_y)
        x0, y0 = left - HALF, top - HALF
        inside = np.s_[max(y0, 0) : max(min(y0 + 2 * HALF, SIZE), 0), max(x0, 0) : max(min(x0 + 2 * HALF, SIZE), 0)]
        of_stamp = np.s_[max(-y0, 0) : SIZE - y0, max(-x0, 0) : SIZE - x0]
        fill, whole = alpha * fill[of_stamp][..., None], alpha * whole[of_stamp][..., None]
        canvas[inside] = canvas[inside] * (1 - whole) + 20.0 * (whole - fill) + colour * fill
        picture[:] = np.round(canvas)
    return pictures


def halve_chroma(picture):
    """A picture as a 4:2:0 movie holds it (H, W, 3 uint8): colour at half the resolution."""
    return cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420), cv2.COLOR_YUV2RGB_I420)


def vocabulary():
    """Every word that a caption of this world can hold, in alphabetical order."""
    captions = [
        f"a {size} {colour} {shape} {place}" for size in SIZES for colour in COLOURS for shape in SHAPES for place in BACKGROUNDS.values()
    ]
    return sorted({word for caption in captions for word in caption.split()})
