"""Movies in and out: frames by index, resampling by timestamp, mp4 files whose bytes depend on their content alone."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import Interpolation

from common.cli import one_line
from common.files import UserError, missing, write_bytes

try:
    import decord
except ImportError:  # wheels exist for x86-64 alone
    decord = None

_MP4_ENDINGS = {".mp4", ".m4v", ".mov"}
# AVColorSpace numbers that swscale takes for BT.601: unspecified, BT.470BG, SMPTE 170M
_BT601 = {2, 5, 6}
_FULL_RANGE = 2
_ACCURATE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
_ADVICE = "copy or download the file again"


# ---------------------------------------------------------------------------------------------- checks


def check_whole(path):
    """Raise a UserError unless a movie is there and, when it is an mp4, all of its boxes lie inside the file.

    A decoder reads a truncated mp4 without complaint as long as its index stands in front.
    """
    path = Path(path)
    if not path.is_file():
        raise missing(path, "check the path")
    if path.suffix.lower() not in _MP4_ENDINGS:
        return
    size, position, kinds = path.stat().st_size, 0, set()
    with open(path, "rb") as handle:
        while position + 8 <= size:
            handle.seek(position)
            head = handle.read(16)
            length, kind = struct.unpack(">I4s", head[:8])
            if length == 1 and len(head) == 16:
                length = struct.unpack(">Q", head[8:])[0]
            elif length == 0:  # up to the file's end
                length = size - position
            if length < 8:
                break
            kinds.add(kind)
            position += length
    if position > size or b"moov" not in kinds:
        raise UserError(f"{path} is a truncated mp4 file of {size} bytes; {_ADVICE}")
    if position < size or b"mdat" not in kinds:
        raise UserError(f"{path} is a damaged mp4 file; {_ADVICE}")


def unreadable(path, reason):
    return UserError(f"{path} is not a readable movie ({one_line(reason)}); {_ADVICE}")


# ---------------------------------------------------------------------------------------------- reading


def iterate_frames(path):
    """Decode a movie one frame at a time.

    Parameters
    ----------
    path : str or Path

    Yields
    ------
    start, end : Fraction
        seconds; 0 is the first frame's timestamp, whatever the file calls it
    frame : av.VideoFrame

    Raises
    ------
    UserError
        missing, truncated or damaged
    """
    check_whole(path)
    try:
        with av.open(str(path), options={"err_detect": "explode"}) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            one_frame = 1 / (stream.average_rate or Fraction(30))
            first, end = None, Fraction(0)
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise unreadable(path, f"a damaged frame at {float(end):.2f} s")
                start = end if frame.pts is None else frame.pts * frame.time_base - (first or 0)
                if first is None:
                    first, start = start, Fraction(0)
                duration = frame.duration * frame.time_base if frame.duration else one_frame
                end = start + duration
                yield start, end, frame
            if first is None:
                raise unreadable(path, "no frame in it")
    except (av.FFmpegError, IndexError) as error:
        raise unreadable(path, error) from None


def to_rgb(frame):
    """av.VideoFrame -> (H, W, 3) uint8 RGB."""
    return frame.to_ndarray(format="rgb24")


def read_frames(path, indices=None):
    """Frames of a clip.

    Parameters
    ----------
    path : str or Path
    indices : sequence of int, optional
        frames that are wanted, in any order; all by default

    Returns
    -------
    array, shape (T, H, W, 3), uint8
        RGB

    Raises
    ------
    UserError
        missing, truncated or damaged, or without a frame of such an index
    """
    check_whole(path)
    frames = _decord_frames(path, indices) if decord else None
    return _pyav_frames(path, indices) if frames is None else frames


def _decord_frames(path, indices):
    """The same by decord, which is faster; None where it gives up (GIF, AV1)."""
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        _check_indices(path, indices, len(reader))
        return reader.get_batch(list(range(len(reader)) if indices is None else indices)).asnumpy()
    except (RuntimeError, decord.DECORDError):
        return None


def _pyav_frames(path, indices):
    wanted = None if indices is None else set(indices)
    frames, n = {}, 0
    for n, (_, _, frame) in enumerate(iterate_frames(path), 1):
        if wanted is None or n - 1 in wanted:
            frames[n - 1] = to_rgb(frame)
    _check_indices(path, indices, n)
    return np.stack([frames[i] for i in (range(n) if indices is None else indices)])


def _check_indices(path, indices, n_frames):
    if indices is not None and len(indices) and not 0 <= min(indices) <= max(indices) < n_frames:
        raise UserError(f"{path} has {n_frames} frames, and at least {max(indices) + 1} are needed; cut the clip again")


# ---------------------------------------------------------------------------------------------- writing


def _ready_to_encode(frame):
    """yuv420p in BT.601, limited range. Frames that are so already are passed on as they are, without loss."""
    if isinstance(frame, av.VideoFrame):
        if frame.format.name == "yuv420p" and frame.colorspace in _BT601 and frame.color_range != _FULL_RANGE:
            return frame
        frame = frame.to_ndarray(format="rgb24", interpolation=_ACCURATE)
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return picture.reformat(format="yuv420p", dst_colorspace="ITU601", interpolation=_ACCURATE, threads=1)


def write_mp4(path, frames, fps, crf=12):
    """Write an H.264 movie, atomically; the same frames give the same bytes.

    Parameters
    ----------
    path : str or Path
    frames : iterable of arrays, shape (H, W, 3), uint8, or of av.VideoFrame
        RGB; an odd last row or column, which yuv420p cannot hold, is dropped
    fps : int or Fraction
    crf : int
        constant rate factor of x264: 0 is lossless, 51 worst

    Returns
    -------
    int
        frames written
    """
    fps = Fraction(fps)
    # encoded in memory: a full disk then shows as an ordinary OSError
    buffer, n = io.BytesIO(), 0
    with av.open(buffer, "w", format="mp4") as container:
        # x264's macroblock tree reads memory that it has not written when frames are small: its bytes then vary
        options = {"crf": str(crf), "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = 1 / fps
        for n, frame in enumerate(frames, 1):
            even = frame
            if not isinstance(frame, av.VideoFrame):
                even = frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]
            elif frame.width % 2 or frame.height % 2:
                even = to_rgb(frame)[: frame.height // 2 * 2, : frame.width // 2 * 2]
            even = _ready_to_encode(even)
            if n == 1:
                stream.width, stream.height = even.width, even.height
            even.pts, even.time_base = n - 1, 1 / fps
            even.pict_type = PictureType.NONE  # the source's would be imposed on the encoder
            container.mux(stream.encode(even))
        if not n:
            raise ValueError("no frames to write")
        container.mux(stream.encode())
    write_bytes(path, buffer.getvalue())
    return n
