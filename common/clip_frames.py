"""Frames of one clip: out of the bytes of its file, at the wanted times, of the wanted size."""

import io
import re
import zipfile
from bisect import bisect_right
from fractions import Fraction
from itertools import accumulate

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.video import check_size

BORDER = 2  # pixels around the pictures of a released grid
NO_DURATION = 100  # ms that viewers show a GIF's frame for which no time is said
FOREVER = 10**9  # ms that a picture is shown that is the only one of its GIF
SHORTEST = 10  # ms that a frame lasts at least: what is shorter is a slip of the writer's clock


# ---------------------------------------------------------------------------------------------- one file to frames


def read_npz(content):
    """`frames` of an .npz; nothing is made room for but what the file holds, and nothing but numbers is read."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if "frames.npy" not in archive.namelist():
            raise ValueError(f"no array 'frames' among {', '.join(archive.namelist()) or 'none'}")
        check_size(archive.getinfo("frames.npy").file_size)
        member = io.BytesIO(archive.read("frames.npy"))
    major, minor = np.lib.format.read_magic(member)
    shape, by_column, dtype = getattr(np.lib.format, f"read_array_header_{major}_{minor}")(member)
    if dtype.kind not in "fiub":
        raise ValueError(f"values of type {dtype}")
    return np.frombuffer(member.getbuffer()[member.tell() :], dtype).reshape(shape, order="F" if by_column else "C")


def _open_picture(content, *formats):
    try:
        return Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError:
        raise ValueError(f"no {formats[0]} file") from None


def read_gif(content):
    """Frames, (F, H, W, 3) uint8, and for how long each is shown, in ms."""
    if content.rstrip(b"\0")[-1:] != b";":
        raise ValueError("cut off")
    frames, durations = [], []
    with _open_picture(content, "GIF") as picture:
        check_size(picture.n_frames * picture.width * picture.height * 3)
        for index in range(picture.n_frames):
            picture.seek(index)
            frames.append(np.asarray(picture.convert("RGB")))
            durations.append(int(picture.info.get("duration", 0)) or (NO_DURATION if picture.n_frames > 1 else FOREVER))
    return np.stack(frames), durations


def read_picture(content):
    """A PNG or JPEG, (H, W, 3) uint8 RGB, upright."""
    with _open_picture(content, "PNG", "JPEG") as picture:
        picture.verify()  # a PNG's checksums; it cannot be read after that
    with _open_picture(content, "PNG", "JPEG") as picture:
        check_size(picture.width * picture.height * 3)
        if picture.mode.startswith(("I", "F")):
            raise ValueError("more than 8 bits")
        if getattr(picture, "is_animated", False) and picture.format == "PNG":
            raise ValueError(f"{picture.n_frames} pictures in one file")
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def check_sequence(names):
    """Raise a ValueError unless names, in natural order, are numbered alike and evenly: '0.png', '1.png', ..."""
    kinds = [re.sub(r"\d+", "#", name.lower()) for name in names]
    usual = max(kinds, key=kinds.count)
    for name, kind in zip(names, kinds, strict=True):
        if kind != usual:
            raise ValueError(f"{name} is no frame among pictures such as {names[kinds.index(usual)]}")
    numbers = [[int(number) for number in re.findall(r"\d+", name)] for name in names]
    steps = np.diff(numbers, axis=0)
    if len(steps) and not ((steps == steps[0]).all() and steps.any()):
        raise ValueError(f"a picture is missing among {names[0]} ... {names[-1]}")


# ---------------------------------------------------------------------------------------------- frames to the wanted form


def clip_times(dataset):
    """Places of a data set's frames within a clip, tuple of Fraction in 0..1."""
    return tuple(Fraction(index, dataset.clip_frames) for index in dataset.frame_indices)


def choose_frames(durations, n_frames=None, times=None):
    """Indices of the frames of a clip that are shown at the wanted times, list of int; fewer than n_frames when it has fewer.

    A clip of exactly n_frames, or of as many frames as `times` has entries, is taken to hold the wanted ones; one frame that
    is shown long enough, to be a still.

    Parameters
    ----------
    durations : sequence of int or Fraction
        of the frames that there are, ms; the shortest is the time between frames, a longer one stands for equal frames that
        were merged
    n_frames : int, optional
        number of wanted frames; by default as many as `times` has, all of a clip that has fewer, merged ones repeated
    times : tuple of Fraction, optional
        see `clip_times`; n_frames of them are wanted, evenly chosen; even times by default
    """
    most = n_frames or len(times or [0])
    if len(durations) == 1 and durations[0] >= 2 * SHORTEST * most:
        return [0] * most
    tick, ends = min([d for d in durations if d >= SHORTEST], default=max(durations)), list(accumulate(durations))
    counts = [max(1, round(duration / tick)) for duration in durations]
    if n_frames is None:
        check_size(sum(counts))
        n_frames = most if times and sum(counts) > most else None
    if n_frames is None or sum(counts) <= n_frames:
        return [index for index, count in enumerate(counts) for _ in range(count)]
    places = [Fraction(i, n_frames) for i in range(n_frames)]
    if times is not None and n_frames <= len(times):
        kept = [int(place * len(times) + Fraction(1, 2)) for place in places]
        places = [Fraction(i, len(times)) if sum(counts) == len(times) else times[i] for i in kept]
    return [min(bisect_right(ends, place * ends[-1] + Fraction(tick, 2)), len(durations) - 1) for place in places]


def resize_frames(frames, size):
    """Stretch frames to `size` pixels, of each side or height and width, with an area filter when both sides shrink."""
    height, width = (size, size) if isinstance(size, int) else size
    if frames.shape[1:3] == (height, width):
        return frames
    how = cv2.INTER_AREA if height < frames.shape[1] and width < frames.shape[2] else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, (width, height), interpolation=how) for frame in frames])


def split_grid(frames, borders=False):
    """Cut side-by-side frames (F, H, W, 3) into ground truth (left) and reconstruction (right).

    They are two square pictures side by side, or a released grid with 2-pixel borders; a ValueError for others. `borders` keeps
    a grid's, which the released metrics did: halves of 516 x 515 for pictures of 512 x 512.
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
