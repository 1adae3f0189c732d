"""Clips of any method, one interface: folders and zips of npz, PNG, GIF and mp4, side-by-side grids, arrays.

A reader knows the numbers of its clips (from 1, natural order) and reads one clip at a time, so memory does not grow
with their number. Zips are read without unpacking. Readers can be sent to worker processes.
"""

import copy
import io
import re
import zipfile
from functools import cached_property
from pathlib import Path, PurePosixPath

import av
import cv2
import numpy as np
from PIL import Image

from common import seals
from common.files import UserError, check_card, load_array, missing
from common.video import read_frames, to_rgb

LAYOUTS = ("ours", "gif", "side_by_side", "mindvideo", "mp4")
IMAGES = (".png", ".jpg", ".jpeg")
AGAIN = "make it again, or go on without it by --allow_missing"
BORDER = 2  # pixels around the pictures of a released grid
_FILES = {  # pattern of the file names that belong to a layout
    "gif": r"test_?(\d+)\.gif",
    "mindvideo": r"test_?(\d+)\.gif",
    "side_by_side": r"test_and_gt_?(\d+)\.gif",
}


# ---------------------------------------------------------------------------------------------- one file to frames


def _read_npz(handle):
    with np.load(handle, allow_pickle=False) as content:
        return content["frames"]


def _read_gif(handle):
    frames = []
    with Image.open(handle) as picture:
        for index in range(getattr(picture, "n_frames", 1)):
            picture.seek(index)
            frames.append(np.asarray(picture.convert("RGB")))
    return np.stack(frames)


def _read_zipped_video(handle):
    with av.open(handle, options={"err_detect": "explode"}) as container:
        return np.stack([to_rgb(frame) for frame in container.decode(video=0)])


def _read_images(handles):
    return np.stack([np.asarray(Image.open(handle).convert("RGB")) for handle in handles])


# ---------------------------------------------------------------------------------------------- frames to the wanted form


def take_frames(frames, n_frames):
    """The n frames nearest to even times; the array itself when it has just as many.

    Parameters
    ----------
    frames : (F, H, W, 3), F at least n_frames
    n_frames : int or None for all
    """
    if n_frames is None or n_frames == len(frames):
        return frames
    return frames[np.floor(np.arange(n_frames) * len(frames) / n_frames + 0.5).astype(int)]


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
    frames : (F, H, W, 3): two square pictures side by side, or a released grid with 2-pixel borders
    borders : keep a grid's borders, which the released metrics did: halves of 516 x 515 for pictures of 512 x 512

    Returns
    -------
    left, right : (F, h, w, 3)

    Raises
    ------
    ValueError : the frames are neither
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
    raise ValueError("two square pictures side by side")


def parse_clips(text):
    """Clip numbers of a flag such as '1-40,52'.

    Returns
    -------
    list of int, ascending
    """
    numbers = set()
    for part in str(text).split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last:
            raise UserError("--clips", "numbers from 1, such as 1-40,52", repr(text), "mend the flag")
        numbers |= set(range(first, last + 1))
    return sorted(numbers)


def format_clips(numbers):
    """Clip numbers in the form that parse_clips reads: '1-40,52'."""
    runs = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in runs)


# ---------------------------------------------------------------------------------------------- readers


class ArrayClips:
    """Clips in an .npy file, memory-mapped.

    Parameters
    ----------
    path : (N, F, H, W, 3) uint8 array
    n_frames : frames to take of each clip, nearest to even times; default all
    size : pixels that frames must have in height and width; default as they are
    resize : stretch frames of another size instead of refusing them

    Attributes
    ----------
    numbers : list of int, 1..N
    """

    def __init__(self, path, *, n_frames=None, size=None, resize=False):
        self.path, self.n_frames, self.size, self.resize = Path(path), n_frames, size, resize
        self.numbers = list(range(1, len(self._array) + 1))

    @cached_property
    def _array(self):
        return load_array(self.path, shape=(None, None, None, None, 3), dtype=np.uint8, mmap=True)

    def __getstate__(self):  # a memory map would be sent as a copy of the whole array
        return {key: value for key, value in self.__dict__.items() if key != "_array"}

    def __len__(self):
        return len(self.numbers)

    def identity(self, numbers):
        """What the frames of these clips come from, as JSON holds it: changes when they may have changed."""
        return [self.path.name, _stamp(self.path), self.n_frames, self.size, self.resize, list(numbers)]

    @cached_property
    def _checked(self):
        check_card(self.path)
        return True

    def verify(self):
        """Compare the array with its data card's SHA-256, once."""
        return self._checked

    def read(self, number):
        """Frames of one clip, (F, H, W, 3) uint8; UserError if it is not there or does not fit."""
        if not 1 <= number <= len(self):
            raise UserError(f"{self.path}: clip {number}", f"clips 1-{len(self)}", "no such row", "check --gt and the clips' numbers")
        return _conform(np.array(self._array[number - 1]), self, f"{self.path}: clip {number}")


class FolderClips:
    """Clips in a folder or a zip.

    Parameters
    ----------
    path : folder or .zip; files may lie in subfolders
    layout : one of LAYOUTS
        ours: test{i}.npz with `frames`, or pictures test{i}/0.png ... in natural order;
        gif: test{i}.gif; side_by_side: test_and_gt{i}.gif, ground truth left;
        mindvideo: test{i}.gif, ground truth left; mp4: a number or a clip's name per file
    side : "right", the reconstruction, or "left", the ground truth, of layouts that hold both
    borders : keep the borders of a released grid
    n_frames, size, resize : as in ArrayClips
    indices : frames of an mp4 that stand for its clip; default all
    names : clip names of the data set in order, so that 'test1_3.mp4' is found at its number

    Attributes
    ----------
    numbers : list of int, ascending

    Raises
    ------
    UserError : nothing there, no clip of the layout in it, two files for one clip, or clips numbered from 0
    """

    def __init__(self, path, layout, *, side="right", borders=False, n_frames=None, size=None, resize=False, indices=None, names=None):
        if layout not in LAYOUTS:
            raise UserError("--layout", f"one of {', '.join(LAYOUTS)}", layout, "choose another layout")
        self.path, self.layout, self.side, self.borders = Path(path), layout, side, borders
        self.n_frames, self.size, self.resize, self.indices = n_frames, size, resize, indices
        self.is_zip = self.path.suffix.lower() == ".zip"
        self.entries = self._number(self._find(), names)
        self.numbers = sorted(self.entries)

    def __len__(self):
        return len(self.numbers)

    def __getstate__(self):  # every process opens the zip itself
        return {key: value for key, value in self.__dict__.items() if key != "_zip"}

    # -- which files are there

    @cached_property
    def _zip(self):
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(self.path, "a zip", f"a broken one ({error})", "download it again") from None

    def _files(self):
        if not self.path.exists():
            raise missing(self.path, "a folder or zip of clips")
        if self.is_zip:
            names = [PurePosixPath(name) for name in self._zip.namelist() if not name.endswith("/")]
        elif self.path.is_dir():
            names = [PurePosixPath(file.relative_to(self.path).as_posix()) for file in self.path.rglob("*") if file.is_file()]
        else:
            raise UserError(self.path, "a folder, a zip or an .npy of clips", "another file", "check the path")
        return [name for name in names if not any(part.startswith((".", "__MACOSX")) for part in name.parts)]

    def _find(self):
        """Stem of each clip and the files it is made of."""
        found = []
        files = self._files()
        if self.layout in _FILES:
            matches = [(re.fullmatch(_FILES[self.layout], name.name), name) for name in files]
            found = [(match[1], [name]) for match, name in matches if match]
        elif self.layout == "mp4":
            found = [(name.stem, [name]) for name in files if name.suffix.lower() == ".mp4"]
        else:
            found = [(name.stem, [name]) for name in files if name.suffix == ".npz"]
            if not found:
                folders = {}
                for name in files:
                    if name.suffix.lower() in IMAGES:
                        folders.setdefault(name.parent, []).append(name)
                found = [(folder.name, sorted(names, key=natural_key)) for folder, names in folders.items()]
        if not found:
            raise UserError(
                self.path,
                f"clips of layout {self.layout}",
                f"none among {len(files)} files",
                f"choose another --layout ({', '.join(LAYOUTS)})",
            )
        return found

    def _number(self, found, names):
        stems = [stem for stem, _ in found]
        index = {name: i for i, name in enumerate(names or [], 1)}
        if all(stem in index for stem in stems):
            numbers = [index[stem] for stem in stems]
        else:
            numbers = [_one_number(self.path, stem, index) for stem in stems]
        entries = {}
        for number, (_, files) in zip(numbers, found, strict=True):
            if number in entries:
                raise UserError(self.path, f"one file for clip {number}", f"{entries[number][0]} and {files[0]}", "keep one of them")
            entries[number] = [str(file) for file in files]
        if 0 in entries:
            raise UserError(
                self.path,
                "clips numbered from 1",
                f"clip 0 ({entries[0][0]}), so the order differs from the ground truth's",
                "rename the files",
            )
        return entries

    # -- reading

    def identity(self, numbers):
        """What the frames of these clips come from, as JSON holds it: changes when they may have changed."""
        stamps = [_stamp(self.path)] if self.is_zip else [_stamp(self.path / file) for number in numbers for file in self.entries[number]]
        form = [self.layout, self.side, self.borders, self.n_frames, self.size, self.resize, self.indices]
        return [self.path.name, form, list(numbers), stamps]

    def _open(self, entry):
        content = self._zip.read(entry) if self.is_zip else (self.path / entry).read_bytes()
        if seals.is_broken(content):
            raise ValueError("other bytes than its seal is of")
        return io.BytesIO(content)

    def _decode(self, number):
        files = self.entries[number]
        if self.layout == "mp4" and not self.is_zip:
            return read_frames(self.path / files[0], self.indices)
        handles = [self._open(file) for file in files]
        if self.layout == "ours":
            return _read_npz(handles[0]) if files[0].endswith(".npz") else _read_images(handles)
        return (_read_zipped_video if self.layout == "mp4" else _read_gif)(handles[0])

    def other_side(self):
        """Reader of the other half of a side-by-side layout."""
        other = copy.copy(self)
        other.side = "left" if self.side == "right" else "right"
        return other

    def read_both(self, number):
        """Ground truth and reconstruction of one clip of a side-by-side layout, two (F, H, W, 3) uint8."""
        left, right = self._halves(number)
        where = self._where(number)
        return _conform(left, self, where), _conform(right, self, where)

    def read(self, number):
        """Frames of one clip, (F, H, W, 3) uint8; UserError if it is missing, unreadable or does not fit."""
        if self.layout in ("side_by_side", "mindvideo"):
            frames = self._halves(number)[self.side == "right"]
        else:
            frames = self._frames(number)
        return _conform(frames, self, self._where(number))

    def _where(self, number):
        return f"{self.path}: clip {number} ({self.entries[number][0]})"

    def _frames(self, number):
        if number not in self.entries:
            raise missing(f"{self.path}: clip {number}", "a file of this clip", "make it, or go on without it by --allow_missing")
        try:
            frames = self._decode(number)
        except Exception as error:  # decoders raise whatever they like on broken files
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(self._where(number), "a readable clip", f"a broken file ({reason})", AGAIN) from None
        _check_frames(frames, self._where(number))
        return frames

    def _halves(self, number):
        frames = self._frames(number)
        try:
            return split_grid(frames, self.borders)
        except ValueError as error:
            raise UserError(
                self._where(number), str(error), "frames of {} x {}".format(*frames.shape[1:3]), "choose another --layout"
            ) from None


def _stamp(path):
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def natural_key(name):
    """Sort key by which 'test2' comes before 'test10'."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(name))]


def _one_number(path, stem, index):
    digits = re.findall(r"\d+", stem)
    if len(digits) != 1:
        known = f"one number in each clip's name{', or names such as ' + next(iter(index)) if index else ''}"
        raise UserError(path, known, repr(stem), "rename the files test1, test2, ... in the order of the ground truth")
    return int(digits[0])


def _check_frames(frames, where):
    if frames.dtype.kind == "f" and not np.isfinite(frames).all():
        raise UserError(where, "frames of type uint8", f"NaN or infinite values of type {frames.dtype}", AGAIN)
    if frames.dtype != np.uint8:
        raise UserError(where, "frames of type uint8", f"type {frames.dtype}", AGAIN)
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise UserError(where, "frames of shape (frames, height, width, 3)", f"shape {frames.shape}", AGAIN)


def _conform(frames, reader, where):
    """Bring frames to the reader's number and size, or say why that cannot be."""
    if reader.n_frames is not None and len(frames) < reader.n_frames:
        raise UserError(where, f"{reader.n_frames} frames", f"{len(frames)} frames", AGAIN)
    frames = take_frames(frames, reader.n_frames)
    height, width = frames.shape[1:3]
    if reader.size is None or (height, width) == (reader.size, reader.size):
        return frames
    if getattr(reader, "borders", False) and (height, width) == (reader.size + 2 * BORDER, reader.size + (3 * BORDER) // 2):
        return frames
    if not reader.resize:
        raise UserError(where, f"frames of {reader.size} x {reader.size}", f"{height} x {width}", "choose another --protocol, or --resize")
    return resize_frames(frames, reader.size)


def detect_layout(path):
    """Layout of a folder or zip that holds ground truth, by what lies in it."""
    for layout in ("ours", "mp4", "gif", "side_by_side"):
        try:
            FolderClips(path, layout)
        except UserError:
            continue
        return layout
    raise UserError(path, "an .npy, or a folder or zip of npz, PNG, GIF or mp4 clips", "none of them", "check the path")


def open_clips(path, layout=None, **options):
    """Reader of an .npy (ArrayClips) or of a folder or zip (FolderClips).

    Parameters
    ----------
    path : what to read
    layout : one of LAYOUTS; None finds out
    **options : of FolderClips; those that an array lacks are left out for it
    """
    if Path(path).suffix == ".npy":
        return ArrayClips(path, **{key: value for key, value in options.items() if key in ("n_frames", "size", "resize")})
    return FolderClips(path, layout or detect_layout(path), **options)


# ---------------------------------------------------------------------------------------------- pairs


class Pairs:
    """Reconstructed clips with their ground truth.

    Parameters
    ----------
    pred : FolderClips or ArrayClips
    gt : likewise, or None to take the left half of a side-by-side `pred`
    numbers : clips that should be there; default those of the ground truth
    allow_missing : go on without clips that are not there

    Attributes
    ----------
    wanted : numbers that should be there
    numbers : numbers that are there, ascending
    absent : numbers that are not

    Raises
    ------
    UserError : clips are missing and that is not allowed, or reconstructions have no ground truth
    """

    def __init__(self, pred, gt=None, numbers=None, allow_missing=False):
        self.pred, self.gt = pred, gt
        if gt is None and getattr(pred, "layout", None) not in ("side_by_side", "mindvideo"):
            raise UserError("--gt", "the true clips", "nothing", "name an .npy or a folder of them")
        truth = gt.numbers if gt is not None else range(1, max(pred.numbers) + 1)
        if numbers is None:
            self.wanted = list(truth)
            strangers = sorted(set(pred.numbers) - set(truth))
            if strangers:
                raise UserError(
                    pred.path,
                    f"clips {format_clips(truth)}, as in the ground truth",
                    f"clips {format_clips(strangers)} besides",
                    "check that both are of the same test set, or choose by --clips",
                )
        else:
            self.wanted = list(numbers)
            unknown = sorted(set(numbers) - set(truth))
            if unknown:
                raise UserError("--clips", f"numbers among {format_clips(truth)}", format_clips(unknown), "check --gt and --clips")
        there = set(pred.numbers)
        self.numbers = [number for number in self.wanted if number in there]
        self.absent = [number for number in self.wanted if number not in there]
        if self.absent and not allow_missing:
            raise UserError(
                pred.path,
                f"clips {format_clips(self.wanted)}",
                f"{len(self.absent)} missing: {format_clips(self.absent)}",
                "make them, choose by --clips, or go on without them by --allow_missing",
            )
        if not self.numbers:
            raise UserError(pred.path, f"clips {format_clips(self.wanted)}", "none of them", "check the path")

    def __len__(self):
        return len(self.numbers)

    def read(self, number):
        """Reconstruction and ground truth of one clip, two (F, H, W, 3) uint8 of one shape."""
        if self.gt is None:
            gt, pred = self.pred.read_both(number)
        else:
            pred, gt = self.pred.read(number), self.gt.read(number)
        if pred.shape != gt.shape:
            expected, found = ("{} frames of {} x {}".format(*clip.shape) for clip in (gt, pred))
            raise UserError(
                f"{self.pred.path}: clip {number}", f"{expected}, as the ground truth", found, f"choose another --protocol, or {AGAIN}"
            )
        return pred, gt

    def truth(self):
        """Reader of the ground truth."""
        return self.gt if self.gt is not None else self.pred.other_side()

    def __iter__(self):
        for number in self.numbers:
            yield number, *self.read(number)
