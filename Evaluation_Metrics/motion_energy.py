"""Motion-energy correlation: do reconstruction and truth excite the same filters of a spatiotemporal Gabor pyramid?

The pyramid is pymoten's (8 directions, 0 and 1 Hz, filters 8 frames wide, log energies), computed here for all filters at
once. `static` compares the filters of 0 Hz. `moving` compares opponent energies at 1 Hz, each direction minus the opposite
one: without the difference a wrong direction and a still score nearly as high as the right one.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt)
Writes   motion-static.npy, motion-moving.npy (N,) float64 and motion-static.csv, one row per clip, below --out

    python Evaluation_Metrics/motion_energy.py --dataset phantom --subj_ID 1

About 0.05 s per clip of 8 frames on one core.
"""

from functools import lru_cache, partial
from itertools import product

import cv2
import numpy as np

from common import cli
from Evaluation_Metrics import metric_script, per_clip

SIZE = 96  # pixels, height and width that frames are brought to
# pymoten's defaults: cycles an image, directions (the opposite ones are their conjugates), envelope as a share of a cycle and at
# most, distance of the centres in envelopes, edge of a filter, offset of the logarithm
SPATIAL_FREQUENCIES, DIRECTIONS = (2, 4, 8, 16), (0, 45, 90, 135)
ENVELOPE, LARGEST_ENVELOPE, SPACING, EDGE, OFFSET = 0.6, 0.3, 3.5, 0.001, 1e-5
WIDTH, TEMPORAL_ENVELOPE, MOVING = 8, 0.3, 1.0  # frames of a filter, its envelope as a share of them, Hz of the moving ones
NO_SPREAD = 1e-9  # log energies that differ less are equal: opponent energies of a still are its rounding errors


def lightness(clip):
    """CIE L* of the frames of a clip, (F, SIZE, SIZE) float64, 0..100."""
    levels = np.arange(256) / 255
    linear = np.where(levels < 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    small = np.stack([cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for frame in clip])
    luminance = linear[small] @ (0.212671, 0.715160, 0.072169)
    return 116 * np.where(luminance < 0.008856, 7.787 * luminance + 4 / 29, np.cbrt(luminance)) - 16


@lru_cache(maxsize=1)
def spatial_filters():
    """Gabor filters of all places, real parts above imaginary ones, (2 n, pixels) float64, and which of the n have a direction."""
    axis, filters, directed = np.linspace(0, 1, SIZE), [], []
    for frequency in SPATIAL_FREQUENCIES:
        envelope = min(ENVELOPE / frequency, LARGEST_ENVELOPE)
        step = SPACING * envelope
        reach = max(np.floor((1 - step) / step / 2), 0)
        places = step * np.arange(-reach, reach + 1) + 0.5
        # at each place one of every direction, and one that has none
        waves = [(0, 0)] + [(frequency * np.cos(angle), frequency * np.sin(angle)) for angle in np.radians(DIRECTIONS)]
        for (right, up), x, y in product(waves, places, places):
            dx, dy = axis[None] - x, axis[:, None] - y
            phase = 2 * np.pi * (dy * up - dx * right)
            gabor = np.exp(-(dx**2 + dy**2) / (2 * envelope**2) + 1j * phase).ravel()
            filters.append(np.where(np.abs(gabor.real) + np.abs(gabor.imag) > EDGE, gabor, 0))
            directed.append((right, up) != (0, 0))
    stack = np.stack(filters)
    return np.concatenate([stack.real, stack.imag]), np.array(directed)


def temporal_filter(n_frames, frequency, fps):
    """Filter of a temporal frequency (Hz) as a matrix, (frames that answer, frames that are seen) complex; nothing beyond the clip."""
    share = np.arange(WIDTH) / WIDTH - 0.5
    weights = np.exp(-(share**2) / (2 * TEMPORAL_ENVELOPE**2) + 2j * np.pi * frequency * WIDTH / fps * share)
    delay = np.subtract.outer(np.arange(n_frames), np.arange(n_frames)) + (WIDTH + 1) // 2 - 1
    return np.where((delay >= 0) & (delay < WIDTH), weights[delay.clip(0, WIDTH - 1)], 0)


def answers(frames):
    """Answers of the spatial filters to frames (F, H, W, 3), (filters, F) complex."""
    real, imaginary = np.split(spatial_filters()[0] @ lightness(frames).reshape(len(frames), -1).T, 2)
    return real + 1j * imaginary


def log_energies(answers, fps):
    """Log energies of a clip from the answers of the spatial filters: those of 0 Hz and opponent ones, each (F, filters)."""
    directed, n_frames = spatial_filters()[1], answers.shape[1]
    moving = temporal_filter(n_frames, MOVING, fps).T
    there, back = (np.log(np.abs(part @ moving) + OFFSET) for part in (answers[directed], answers[directed].conj()))
    static = np.log(np.abs(answers @ temporal_filter(n_frames, 0, fps).T) + OFFSET)
    return static.T, (there - back).T


def motion_energy(clip, fps=3.75):
    """Log energies of the filters, frame by frame.

    Parameters
    ----------
    clip : array, (F, H, W, 3) uint8
        RGB
    fps : float
        frames a second

    Returns
    -------
    static : array, (F, 300) float64
        of the filters of 0 Hz
    moving : array, (F, 240) float64
        of those of 1 Hz, each of four directions minus the opposite one

    References
    ----------
    Nishimoto et al. 2011, Reconstructing visual experiences from brain activity evoked by natural movies; pymoten.
    """
    return motion_energies([clip], fps)[0]


def motion_energies(clips, fps=3.75):
    """`motion_energy` of several clips of one size, list of (static, moving)."""
    return [log_energies(of_clip, fps) for of_clip in np.split(answers(np.concatenate(clips)), len(clips), axis=1)]


def normalise(energies):
    """Energies (..., filters) less their mean and of length 1, so that products are correlations; 0 where there is no spread."""
    centred = energies - energies.mean(-1, keepdims=True)
    flat = np.abs(centred).max(-1, keepdims=True) < NO_SPREAD
    return np.where(flat, 0, centred) / np.where(flat, 1, np.linalg.norm(centred, axis=-1, keepdims=True))


def frame_correlations(pred, true):
    """Pearson correlation over the filters, (F,): 0 where only `pred` has no spread, NaN where `true` has none."""
    x, y = normalise(pred), normalise(true)
    return np.where(y.any(1), (x * y).sum(1), np.nan)


def moving_correlations(pred, true, fps=3.75):
    """Correlation of opponent energies of N reconstructions with M truths, (F, H, W, 3) uint8 each: (N, M), mean over frames.

    The diagonal is the metric; the mean off it the level of chance of these very clips. As `frame_correlations` treats what has no spread.
    """
    blocks = ([clips[i : i + per_clip.BLOCK] for i in range(0, len(clips), per_clip.BLOCK)] for clips in (pred, true))
    x, y = (normalise(np.stack([moving for block in of for _, moving in motion_energies(block, fps)])) for of in blocks)
    r = np.einsum("nfd,mfd->nm", x, y) / x.shape[1]
    return np.where(y.any(-1).all(-1), r, np.nan)


def motion_energy_correlation(pred, gt, fps=3.75):
    """Correlation of the log energies of reconstruction and truth over the filters, averaged over the frames of each clip.

    Parameters
    ----------
    pred, gt : arrays, (N, F, H, W, 3) uint8
        RGB
    fps : float
        frames a second

    Returns
    -------
    dict
        "static" and "moving" -> (N,) float64. A reconstruction without spread, such as a still's opponent energies, counts 0;
        NaN where that holds for a frame of the truth

    Raises
    ------
    ValueError
        shapes or types differ, or fewer than two frames

    References
    ----------
    Brain Netflix (motion-energy correlation); the opponent difference is this project's.
    """
    per_clip.check_pairs(pred, gt)
    if pred.shape[1] < 2:
        raise ValueError(f"motion energy needs two frames or more, got clips of {pred.shape[1]}")
    values = np.empty((2, len(pred)))
    for clip, (p, g) in enumerate(zip(pred, gt, strict=True)):
        pairs = zip(*motion_energies((p, g), fps), strict=True)
        values[:, clip] = [frame_correlations(*pair).mean() for pair in pairs]
    return {"static": values[0], "moving": values[1]}


def _columns(pred, gt, fps):
    found = motion_energy_correlation(pred, gt, fps)
    return found["static"], found["moving"]


def metric(columns=("motion-static", "motion-moving"), fps=3.75):
    """The metric as columns of a protocol."""
    return per_clip.Metric(tuple(columns), partial(_columns, fps=fps), chance={columns[1]: 0.0}, still={columns[1]: 0.0})


get_parser, main = metric_script.script(__doc__, metric)

if __name__ == "__main__":
    cli.run(main, get_parser)
