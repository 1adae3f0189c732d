"""Frames of one clip: out of the bytes of its file, at the wanted times, of the wanted size."""

import io
from bisect import bisect_right
from fractions import Fraction

import av
import cv2
import numpy as np
from PIL import Image

from common.video import to_rgb

BORDER = 2  # pixels around the pictures of a released grid
NO_DURATION = 100  # ms that viewers show a GIF's frame for which no time is said


# ---------------------------------------------------------------------------------------------- one file to frames


def read_npz(content):
    """`frames` of an .npz."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return arrays["frames"]


def read_gif(content):
    """Frames, (F, H, W, 3) uint8, and for how long each is shown, in ms."""
    frames, durations = [], []
    with Image.open(io.BytesIO(content)) as picture:
        for index in range(getattr(picture, "n_frames", 1)):
            picture.seek(index)
            frames.append(np.asarray(picture.convert("RGB")))
            durations.append(int(picture.info.get("duration", 0)) or NO_DURATION)
    if len(frames) == 1 and not content.endswith(b";"):
        raise ValueError("cut off after the first frame")
    return np.stack(frames), durations


def read_zipped_video(content):
    """All frames of a movie, (F, H, W, 3) uint8."""
    with av.open(io.BytesIO(content), options={"err_detect": "explode"}) as container:
        return np.stack([to_rgb(frame) for frame in container.decode(video=0)])


def read_images(contents):
    """Pictures as the frames of a clip."""
    return np.stack([np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in contents])


# ---------------------------------------------------------------------------------------------- frames to the wanted form


def clip_times(dataset):
    """Places of a data set's frames within a clip, tuple of Fraction in 0..1."""
    return tuple(Fraction(index, dataset.clip_frames) for index in dataset.frame_indices)


def choose_frames(durations, n_frames=None, times=None):
    """Indices of the frames of a clip that are shown at the wanted times.

    A clip of exactly n_frames, or of as many frames as `times` has entries, is taken to hold the wanted ones.

    Parameters
    ----------
    durations : sequence of int
        of the frames that there are, in any unit; the shortest is the time between frames, a longer one stands for
        equal frames that were merged
    n_frames : int, optional
        number of wanted frames; by default all, merged ones repeated
    times : tuple of Fraction, optional
        see `clip_times`; n_frames of them are wanted, evenly chosen; even times by default

    Returns
    -------
    list of int; fewer than n_frames when the clip does not have as many
    """
    tick, ends = min(durations), np.cumsum(durations).tolist()
    repeated = [index for index, duration in enumerate(durations) for _ in range(round(duration / tick))]
    if n_frames is None or len(repeated) <= n_frames:
        return repeated
    places = [Fraction(i, n_frames) for i in range(n_frames)]
    if times is not None and n_frames <= len(times):
        kept = [int(place * len(times) + Fraction(1, 2)) for place in places]
        places = [Fraction(i, len(times)) if len(repeated) == len(times) else times[i] for i in kept]
    return [min(bisect_right(ends, place * ends[-1] + Fraction(tick, 2)), len(durations) - 1) for place in places]


def resize_frames(frames, size):
    """Stretch frames to size x size pixels, with an area filter when they shrink."""
    if frames.shape[1:3] == (size, size):
        return frames
    how = cv2.INTER_AREA if size < min(frames.shape[1:3]) else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, (size, size), interpolation=how) for frame in frames])


def split_grid(frames, borders=False):
    """Cut side-by-side frames into ground truth (left) and reconstruction (right).

    Parameters
    ----------
    frames : array, (F, H, W, 3)
        two square pictures side by side, or a released grid with 2-pixel borders
    borders : bool
        keep a grid's borders, which the released metrics did: halves of 516 x 515 for pictures of 512 x 512

    Returns
    -------
    left, right : arrays, (F, h, w, 3)

    Raises
    ------
    ValueError
        the frames are neither
    """
    height, width = frames.shape[1:3]
    b = BORDER
    if width == 2 * height:
        return frames[:, :, :height], frames[:, :, height:]
    if width - 3 * b == 2 * (height - 2 * b):
        if borders:
            return frames[:, :, : width // 2], frames[:, :, width // 2 :]
        side = height - 2 * b
        return frames[:, b:-b, b : b + side], frames[:, b:-b, 2 * b + side : -b]
    raise ValueError(f"frames of {height} x {width} are not two square pictures side by side")
