"""What preprocessing asks of movies: their headers, frames at a constant rate, frames stretched to a size."""

from dataclasses import dataclass
from fractions import Fraction

import av
import cv2

from common.video import check_whole, iterate_frames, unreadable


@dataclass(frozen=True)
class MovieInfo:
    """What a movie's header says: frames per second, number of frames (0: not said), pixels."""

    rate: Fraction
    n_frames: int
    width: int
    height: int


def movie_info(path):
    """Read a movie's header, MovieInfo."""
    check_whole(path)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return MovieInfo(stream.average_rate, stream.frames, stream.codec_context.width, stream.codec_context.height)
    except (av.FFmpegError, IndexError) as error:
        raise unreadable(path, error) from None


def resample(path, fps):
    """Frames of a movie at a constant rate: for every k/fps the frame whose timestamp is nearest (ties: the earlier).

    Parameters
    ----------
    path : str or Path
        of a movie of any rate, constant or not
    fps : int or Fraction
        wanted frames per second

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
    """Resize a frame to size x size pixels, whatever its proportions, with an area filter.

    Parameters
    ----------
    frame : array, shape (H, W, 3), uint8
    size : int
        pixels

    Returns
    -------
    array, shape (size, size, 3), uint8
    """
    height, width = frame.shape[:2]
    # OpenCV averages over areas only when both sides shrink: first shrink the longer sides, then enlarge the shorter
    smaller = cv2.resize(frame, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
    return cv2.resize(smaller, (size, size), interpolation=cv2.INTER_LINEAR)
