"""Movies in and out: frames by presentation time, upright; mp4 files whose bytes depend on their content alone."""

import contextlib
import io
import os
import struct
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.frame import PictureType
from av.video.reformatter import Interpolation

from common.files import UserError, missing, one_line, write_bytes

try:
    import decord
except ImportError:  # wheels exist for x86-64 alone
    decord = None

LARGEST = 2**31  # bytes of a clip's frames, and of a file that holds them
_MP4_STARTS = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}
# AVColorSpace numbers that swscale takes for BT.601: unspecified, BT.470BG, SMPTE 170M
_BT601 = {2, 5, 6}
_FULL_RANGE = 2
_ACCURATE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
_ADVICE = "copy or download the file again"


# ---------------------------------------------------------------------------------------------- checks


def _place(source):
    """What a decoder opens; in a relative path it would take a folder with a colon for a protocol."""
    return io.BytesIO(source) if isinstance(source, bytes) else os.path.abspath(source)


def _name(source):
    return "it" if isinstance(source, bytes) else source


def unreadable(source, reason):
    return UserError(f"{_name(source)} is not a readable movie ({one_line(reason)}); {_ADVICE}")


def check_size(n_bytes):
    """Raise a ValueError for more bytes than a clip may have, before room is made for them."""
    if n_bytes > LARGEST:
        raise ValueError(f"{n_bytes / 2**30:.1f} GiB, and a clip has at most {LARGEST / 2**30:.0f}")


def _check_whole(source, handle):
    """Raise a UserError unless all boxes of an mp4 lie inside the file.

    A decoder reads a truncated mp4 without complaint as long as its index stands in front.
    """
    size, position, kinds = handle.seek(0, os.SEEK_END), 0, set()
    while position + 8 <= size:
        handle.seek(position)
        head = handle.read(16)
        length, kind = struct.unpack(">I4s", head[:8])
        if not kinds and kind not in _MP4_STARTS:
            break
        if length == 1 and len(head) == 16:
            length = struct.unpack(">Q", head[8:])[0]
        elif length == 0:  # up to the file's end
            length = size - position
        if length < 8:
            break
        kinds.add(kind)
        position += length
    if position > size or (kinds and b"moov" not in kinds):
        raise UserError(f"{_name(source)} is a truncated mp4 file of {size} bytes; {_ADVICE}")
    if kinds and b"mdat" not in kinds:
        raise UserError(f"{_name(source)} is a damaged mp4 file; {_ADVICE}")


# ---------------------------------------------------------------------------------------------- reading


@contextlib.contextmanager
def open_movie(source):
    """Container and video track of a movie, given by path or content.

    A UserError when it is missing, truncated, damaged or has not just one such track.
    """
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise missing(source, "check the path")
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as handle:
        _check_whole(source, handle)
    try:
        with av.open(_place(source), options={"err_detect": "explode"}, metadata_errors="replace") as container:
            tracks = [track for track in container.streams.video if not track.disposition & Disposition.attached_pic]
            if len(tracks) > 1:
                raise UserError(f"{_name(source)} has {len(tracks)} video tracks; keep one of them")
            if not tracks or not tracks[0].codec_context:
                raise unreadable(source, "an unknown codec" if tracks else "no video track in it")
            tracks[0].codec_context.thread_count = 1
            yield container, tracks[0]
    except (av.FFmpegError, ValueError) as error:
        raise unreadable(source, error) from None


def iterate_frames(source):
    """Decode a movie, given by path or content, one frame at a time, in the order and as upright as a player shows them.

    Yields
    ------
    start, end : Fraction
        seconds; 0 is the first frame's timestamp, whatever the file calls it
    frame : av.VideoFrame
    """
    with open_movie(source) as (container, stream):
        one_frame = 1 / (stream.average_rate or Fraction(30))
        first, before, end = None, Fraction(0), Fraction(0)
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise unreadable(source, f"a damaged frame at {float(end):.2f} s")
            start = end if frame.pts is None else frame.pts * frame.time_base - (first or 0)
            if first is None:
                first, start = start, Fraction(0)
            if start < before:
                raise unreadable(source, f"timestamps that go back after {float(before):.2f} s")
            duration = frame.duration * frame.time_base if (frame.duration or 0) > 0 else one_frame
            before, end = start, start + duration
            yield start, end, upright(frame)
        if first is None:
            raise unreadable(source, "no frame in it")


def upright(frame):
    """av.VideoFrame turned and mirrored as its display matrix says, the frame itself where it has none."""
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return frame
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5]  # x, y go to a x + c y, b x + d y
    if (a or d) and (b or c):
        raise ValueError("pictures turned by an angle that is no multiple of 90 degrees")
    picture = to_rgb(frame) if a else to_rgb(frame).swapaxes(0, 1)
    picture = picture[:: -1 if b + d < 0 else 1, :: -1 if a + c < 0 else 1]
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")


def to_rgb(frame):
    """av.VideoFrame -> (H, W, 3) uint8 RGB."""
    return frame.to_ndarray(format="rgb24")


def read_frames(source, indices=None):
    """Frames of a clip, given by path or content, (T, H, W, 3) uint8 RGB.

    `indices` are their numbers, in any order; the first that a player shows is 0. All by default.
    """
    frames = _decord_frames(source, indices) if decord and indices is not None else None
    return read_movie(source, indices)[0] if frames is None else frames


def read_movie(source, indices=None):
    """The same without decord, and for how long each frame of the movie is shown, list of Fraction, ms."""
    wanted = None if indices is None else set(indices)
    frames, times, shape = {}, [], None
    for n, (start, end, frame) in enumerate(iterate_frames(source)):
        times[n:] = (start, end)
        if wanted is None or n in wanted:
            frames[n] = to_rgb(frame)
            shape = shape or frames[n].shape
            if frames[n].shape != shape:
                raise unreadable(source, "frames of several sizes")
            if frames[n].nbytes * len(frames) > LARGEST:
                raise unreadable(source, f"its frames have more than {LARGEST / 2**30:.0f} GiB")
    _check_indices(source, indices, len(times) - 1)
    lasts = [1000 * (after - before) for before, after in pairwise(times)]
    lasts[-1] = max(lasts[-1], min(lasts[:-1], default=0))  # which no timestamp says
    return np.stack([frames[n] for n in (sorted(frames) if indices is None else indices)]), lasts


def _decord_frames(source, indices):
    """The same by decord, which is faster; None where it is not right."""
    n = _plain_length(source)
    if n is None:
        return None
    _check_indices(source, indices, n)
    ascending, order = np.unique(indices, return_inverse=True)  # it errs in going back
    try:
        reader = decord.VideoReader(_place(source), num_threads=1)
        return reader.get_batch(ascending.tolist()).asnumpy()[order] if len(reader) == n else None
    except (RuntimeError, AssertionError, decord.DECORDError):
        return None


def _plain_length(source):
    """Number of frames of a movie that decord reads as a player does, else None.

    These are mp4 files of H.264 with 8 bits and a constant rate, shown whole and as they lie, whose groups of frames do not
    lean on each other.
    """
    with open_movie(source) as (container, stream):
        plain = (stream.codec_context.name, stream.codec_context.pix_fmt) in (("h264", "yuv420p"), ("h264", "yuvj420p"))
        if not plain or "mp4" not in container.format.name:
            return None
        packets = list(container.demux(stream))
        shown = packets[:-1]  # the last is empty
        if any(packet.is_discard or packet.pts is None for packet in shown):
            return None
        gaps = {after - before for before, after in pairwise(sorted(packet.pts for packet in shown))}
        if len(gaps) > 1 or not all(_starts_anew(bytes(packet)) for packet in shown if packet.is_keyframe or packet is shown[0]):
            return None
        first = next((frame for packet in packets for frame in packet.decode()), None)
        return None if first is None or first.interlaced_frame or Type.DISPLAYMATRIX in first.side_data else len(shown)


def _starts_anew(packet):
    """Whether a packet of H.264 in an mp4 holds a picture before which nothing counts: a unit of type 5 among those that it is made of."""
    while len(packet) > 4:
        if packet[4] & 31 == 5:
            return True
        packet = packet[4 + int.from_bytes(packet[:4]) :]
    return False


def _check_indices(source, indices, n_frames):
    if indices is not None and not 0 <= min(indices) <= max(indices) < n_frames:
        raise UserError(f"{_name(source)} has {n_frames} frames, and at least {max(indices) + 1} are needed; cut the clip again")


# ---------------------------------------------------------------------------------------------- writing


def _ready_to_encode(frame):
    """yuv420p in BT.601, limited range. Frames that are so already are passed on as they are, without loss."""
    if isinstance(frame, av.VideoFrame):
        if frame.format.name == "yuv420p" and frame.colorspace in _BT601 and frame.color_range != _FULL_RANGE:
            return frame
        frame = frame.to_ndarray(format="rgb24", interpolation=_ACCURATE)
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return picture.reformat(format="yuv420p", dst_colorspace="ITU601", interpolation=_ACCURATE, threads=1)


def write_mp4(path, frames, fps, crf=12, preset="veryfast"):
    """Write an H.264 movie, atomically; the same frames give the same bytes. Returns the number of frames.

    Parameters
    ----------
    frames : iterable of arrays, shape (H, W, 3), uint8, or of av.VideoFrame
        RGB; an odd last row or column, which yuv420p cannot hold, is dropped
    crf : int
        constant rate factor of x264: 0 is lossless, 51 worst
    preset : str
        of x264; this one takes half the time of its default, medium, and is 0.1 to 0.6 dB further from the frames (benchmarks/writing.py)
    """
    fps = Fraction(fps)
    buffer, n = io.BytesIO(), 0  # encoded in memory: a full disk then shows as an ordinary OSError
    with av.open(buffer, "w", format="mp4") as container:
        # x264's macroblock tree reads memory that it has not written when frames are small: its bytes then vary
        options = {"crf": str(crf), "threads": "1", "preset": preset, "x264-params": "mbtree=0"}
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
