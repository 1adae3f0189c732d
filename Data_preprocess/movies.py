"""What preprocessing asks of movies: their headers, frames at a constant rate, frames stretched to a size."""

from dataclasses import dataclass
from fractions import Fraction

import cv2

from common.files import UserError
from common.video import iterate_frames, open_movie, unreadable, upright


@dataclass(frozen=True)
class MovieInfo:
    """What a movie says at its start: frames per second, number of frames (0: not said), pixels of an upright frame."""

    rate: Fraction
    n_frames: int
    width: int
    height: int


def movie_info(path):
    """Read a movie's header and first frame, MovieInfo."""
    with open_movie(path) as (container, stream):
        for frame in map(upright, container.decode(stream)):
            return MovieInfo(stream.average_rate, stream.frames, frame.width, frame.height)
    raise unreadable(path, "no frame in it")


def check_rate(path, info, rate):
    """Raise a UserError for a movie that does not have the frame rate that it must have; 0 allows any."""
    if rate and (info.rate is None or abs(info.rate - rate) > 0.01):
        raise UserError(f"{path} has {float(info.rate or 0):.3f} frames a second, not {rate}; copy or download the original movie")


def check_frames(path, info, n_frames):
    """Raise a UserError for a movie whose header says that it has fewer frames than are needed."""
    if info.n_frames and info.n_frames < n_frames:
        raise UserError(f"{path} has {info.n_frames} frames, fewer than the {n_frames} that are needed; copy or download it again")


def resample(path, fps):
    """Frames of a movie at a constant rate: for every k/fps the frame whose timestamp is nearest (ties: the earlier).

    Yields
    ------
    av.VideoFrame
        one for each k/fps before the movie's end; the same object again where a frame is repeated
    """
    k, last, last_start, last_end = 0, None, None, None
    for start, end, frame in iterate_frames(path):
        if last is not None:
            while Fraction(k) / fps <= (last_start + start) / 2:
                yield last
                k += 1
        last, last_start, last_end = frame, start, end
    while Fraction(k) / fps < last_end:
        yield last
        k += 1


def stretch(frame, size):
    """Resize a frame (H, W, 3) uint8 to size x size pixels, whatever its proportions, with an area filter."""
    height, width = frame.shape[:2]
    # OpenCV averages over areas only when both sides shrink: first shrink the longer sides, then enlarge the shorter
    smaller = cv2.resize(frame, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
    return cv2.resize(smaller, (size, size), interpolation=cv2.INTER_LINEAR)
