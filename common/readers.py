"""Clips of any method, one interface: folders and zips of npz, PNG, GIF and mp4, side-by-side grids, arrays.

A reader knows the numbers of its clips (from 1, natural order) and reads one clip at a time, so memory does not grow
with their number. Zips are read without unpacking. Readers can be sent to worker processes.
"""

import copy
import hashlib
import os
import re
import zipfile
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from common.clip_frames import BORDER, check_sequence, choose_frames, read_gif, read_npz, read_picture, resize_frames, split_grid
from common.files import UserError, card_path, check_card, check_sum, load_array, missing, one_line, read_json, sha256
from common.video import check_size, read_movie

LAYOUTS = {  # and what a clip's file is called
    "ours": "test1.npz or test1/0.png", "gif": "test1.gif", "side_by_side": "test_and_gt1.gif", "mindvideo": "test1.gif", "mp4": "1.mp4",
}  # fmt: skip
PAIRED = ("side_by_side", "mindvideo")  # hold the ground truth as well
IMAGES = (".png", ".jpg", ".jpeg")
AGAIN = "write it again, or leave it out with --allow_missing"
MOST = 10**6  # that a clip's number may be
HIDDEN = (".", "__MACOSX")
_STEMS = {  # names without ending of the GIFs that belong to a layout, besides the data set's clip names
    "gif": r"test_?(\d+)",
    "mindvideo": r"test_?(\d+)",
    "side_by_side": r"test_and_gt_?(\d+)",
}


class NoClips(UserError):
    """A folder or zip without a clip of the layout."""


# ---------------------------------------------------------------------------------------------- clip numbers


def parse_clips(text, flag="--clips"):
    """Clip numbers of a flag such as '1-40,52', list of int, ascending."""
    numbers = set()
    for part in str(text).split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = map(_number, (match[1], match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= MOST:
            raise UserError(f"{flag} {text[:80]}: {part[:40]!r} is no clip number; use numbers from 1 to {MOST}, such as 1-40,52")
        numbers |= set(range(first, last + 1))
    return sorted(numbers)


def _number(digits):
    """int of a word of digits; above MOST for any that is longer, as int() refuses the longest."""
    return int(digits) if len(digits) <= len(str(MOST)) else MOST + 1


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


class _Clips:
    """What both readers share: the form in which frames are wanted."""

    def __init__(self, path, n_frames=None, size=None, resize=False, times=None):
        self.path, self.n_frames, self.resize, self.times = Path(path), n_frames, resize, times
        self.size = (size, size) if isinstance(size, int) else size and tuple(size)  # height, width

    def __len__(self):
        return len(self.numbers)

    def _form(self):
        size = self.size and (self.size[0] if self.size[0] == self.size[1] else self.size)
        return [self.n_frames, size, self.resize, self.times and [str(time) for time in self.times]]

    def _conform(self, frames, where, durations=None, borders=False):
        """Bring frames to the wanted number and size, or say why that cannot be."""
        n = self.n_frames
        try:
            chosen = choose_frames(durations or [1] * len(frames), n, self.times)
            check_size(len(chosen) * frames[0].nbytes)
        except ValueError as error:
            raise UserError(f"{where} cannot be read ({error}); {AGAIN}") from None
        if n is not None and len(chosen) < n:
            found = f"{len(chosen)} frames" if len(chosen) > 1 or not durations else f"one frame of {float(durations[0]):.0f} ms"
            raise UserError(f"{where} has {found}, not {n}; {AGAIN}")
        if chosen != list(range(len(frames))):
            frames = frames[chosen]
        height, width = frames.shape[1:3]
        if self.size is None or (height, width) == self.size:
            return frames
        if borders and (height, width) == (self.size[0] + 2 * BORDER, self.size[1] + (3 * BORDER) // 2):
            return frames
        if not self.resize:
            raise UserError(
                f"{where} has frames of {height} x {width}, not {self.size[0]} x {self.size[1]}; check --dataset, choose another --protocol, or --resize"
            )
        return resize_frames(frames, self.size)


class ArrayClips(_Clips):
    """Clips in an .npy file, memory-mapped; `numbers` are 1..N.

    Parameters
    ----------
    path : str or Path
        (N, F, H, W, 3) uint8 array
    n_frames : int, optional
        frames to take of each clip; all by default
    size : int or pair of int, optional
        pixels that frames must have in height and width; as they are by default
    resize : bool
        stretch frames of another size instead of refusing them
    times : tuple, optional
        at which frames are wanted, see `clip_times`
    """

    def __init__(self, path, **form):
        super().__init__(path, **form)
        self.numbers = list(range(1, len(self._array) + 1))

    @cached_property
    def _array(self):
        return load_array(self.path, shape=(None, None, None, None, 3), dtype=np.uint8, mmap=True)

    def __getstate__(self):  # a memory map would be sent as a copy of the whole array
        return {key: value for key, value in self.__dict__.items() if key != "_array"}

    def identity(self, numbers):
        """What the frames of these clips come from, as JSON holds it: changes when they may have changed."""
        return [self.path.name, _stamp(self.path), self._form(), list(numbers)]

    def sha256(self, numbers):
        """SHA-256 of the array, of its data card where it has one (see `verify`)."""
        card = card_path(self.path)
        return read_json(card).get("sha256") if card.exists() else sha256(self.path)

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
            raise UserError(f"{self.path} has clips 1-{len(self)} and no clip {number}; check --gt and the clips' numbers")
        return self._conform(np.array(self._array[number - 1]), f"{self.path}: clip {number}")


class FolderClips(_Clips):
    """Clips in a folder or a zip; `numbers` are theirs, ascending.

    Files that the folder's SHA256SUMS lists are compared with it as they are read.

    Parameters
    ----------
    path : str or Path
        folder or .zip; files may lie in subfolders
    layout : str
        one of LAYOUTS;
        ours: test{i}.npz with `frames`, or pictures test{i}/0.png ... in natural order;
        gif: test{i}.gif; side_by_side: test_and_gt{i}.gif, ground truth left;
        mindvideo: test{i}.gif, ground truth left; mp4: a number or a clip's name per file
    side : str
        "right", the reconstruction, or "left", the ground truth, of layouts that hold both
    borders : bool
        keep the borders of a released grid
    names : list of str, optional
        clip names of the data set in order, so that 'test1_3.mp4' is found at its number
    n_frames, size, resize, times
        as in ArrayClips

    Raises
    ------
    UserError
        nothing there, no clip of the layout in it, two files for one clip, or clips numbered from 0
    """

    def __init__(self, path, layout, *, side="right", borders=False, names=None, **form):
        super().__init__(path, **form)
        if layout not in LAYOUTS:
            raise UserError(f"there is no layout {layout!r}; choose --layout from {', '.join(LAYOUTS)}")
        self.layout, self.side, self.borders = layout, side, borders
        self.is_zip = self.path.suffix.lower() == ".zip" and not self.path.is_dir()
        self._opened = (None, None)
        self.entries = self._number(self._find(set(names or ())), names)
        self.numbers = sorted(self.entries)

    def __getstate__(self):
        return self.__dict__ | {"_opened": (None, None)}

    @property
    def _zip(self):
        """The zip, opened by this very process: forked ones would share one position in the file."""
        if self._opened[0] != os.getpid():
            try:
                self._opened = (os.getpid(), zipfile.ZipFile(self.path))
            except Exception as error:  # zipfile meets damaged bytes with errors of almost any kind
                raise UserError(f"{self.path} is not a readable zip ({one_line(error)}); download it again") from None
        return self._opened[1]

    def _files(self):
        """Paths below the folder or in the zip, hidden ones left out, and the names that they are stored under."""
        if not self.path.exists():
            raise missing(self.path, "give a folder or zip of clips")
        if self.is_zip:
            names = [name for name in self._zip.namelist() if not name.endswith(("/", "\\"))]
        elif self.path.is_dir():
            names = [os.path.relpath(file, self.path) for file in _walk(self.path)]
        else:
            raise UserError(f"{self.path} is neither a folder, a zip nor an .npy of clips; check the path")
        files = [(PurePosixPath(name.replace("\\", "/")), name) for name in names]
        return [(path, name) for path, name in files if not any(part.startswith(HIDDEN) for part in path.parts)]

    def _find(self, clips):
        """Stem of each clip and the files it is made of, in order; `clips` are the data set's names."""
        found, folders, files = [], {}, self._files()
        ending = {"mp4": ".mp4", "ours": ".npz"}.get(self.layout, ".gif")
        for path, name in files:
            if path.suffix.lower() == ending:
                match = re.fullmatch("(.*)" if path.stem in clips else _STEMS.get(self.layout, "(.*)"), path.stem, re.IGNORECASE)
                found += [(match[1], [name])] if match else []
            elif self.layout == "ours" and path.suffix.lower() in IMAGES:
                folders.setdefault(path.parent, []).append(name)
        if not found:  # pictures beside the clips' folders, such as an overview, are no clip
            above = {PurePosixPath("."), *(parent for folder in folders for parent in folder.parents)}
            found = [(folder.name, sorted(names, key=natural_key)) for folder, names in folders.items() if folder not in above]
        if not found:
            example = f", such as {files[0][0]}" if files else ""
            other = _likely_layout([path for path, _ in files])
            advice = f"these look like --layout {other}" if other else f"rename them or choose --layout from {', '.join(LAYOUTS)}"
            raise NoClips(
                f"{self.path} has no clip of layout {self.layout} (called {LAYOUTS[self.layout]}) among its {len(files)} files{example}; {advice}"
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
                raise UserError(f"{self.path} has two files for clip {number}, {entries[number][0]} and {files[0]}; keep one of them")
            entries[number] = [str(file) for file in files]
        if 0 in entries:
            raise UserError(
                f"{self.path} counts its clips from 0 ({entries[0][0]}), so every clip would meet the truth of another; rename the files from test1 on"
            )
        return entries

    # -- reading

    def identity(self, numbers):
        """What the frames of these clips come from, as JSON holds it: changes when they may have changed."""
        stamps = [_stamp(self.path)] if self.is_zip else [_stamp(self.path / file) for number in numbers for file in self.entries[number]]
        return [self.path.name, self.layout, self.side, self.borders, self._form(), list(numbers), stamps]

    def sha256(self, numbers):
        """SHA-256 of the zip, or of the list of these clips' files with theirs."""
        if self.is_zip:
            return sha256(self.path)
        files = [(number, sha256(self.path / file)) for number in numbers for file in self.entries[number]]
        return hashlib.sha256(repr(files).encode()).hexdigest()

    def _content(self, entry):
        check_size(self._zip.getinfo(entry).file_size if self.is_zip else (self.path / entry).stat().st_size)
        if self.is_zip:
            return self._zip.read(entry)
        path = self.path / entry
        content = path.read_bytes()
        for folder in dict.fromkeys((self.path, path.parent)):
            check_sum(path, folder, content, AGAIN)
        return content

    def _decode(self, number):
        """Frames of a clip's files and, of a GIF or movie, their durations."""
        files = self.entries[number]
        ending = PurePosixPath(files[0]).suffix.lower()
        if ending in IMAGES:
            check_sequence([PurePosixPath(file.replace("\\", "/")).name for file in files])
            return np.stack([read_picture(self._content(file)) for file in files]), None
        content = self._content(files[0])
        if ending == ".npz":
            return read_npz(content), None
        return read_gif(content) if ending == ".gif" else read_movie(content)

    def other_side(self):
        """Reader of the other half of a side-by-side layout."""
        other = copy.copy(self)
        other.side = "left" if self.side == "right" else "right"
        return other

    def read_both(self, number):
        """Ground truth and reconstruction of one clip of a side-by-side layout, two (F, H, W, 3) uint8."""
        frames, durations = self._frames(number)
        where = self._where(number)
        try:
            halves = split_grid(frames, self.borders)
        except ValueError as error:
            raise UserError(f"{where}: {error}; choose another --layout") from None
        return tuple(self._conform(half, where, durations, self.borders) for half in halves)

    def read(self, number):
        """Frames of one clip, (F, H, W, 3) uint8; UserError if it is missing, unreadable or does not fit."""
        if self.layout in PAIRED:
            return self.read_both(number)[self.side == "right"]
        frames, durations = self._frames(number)
        return self._conform(frames, self._where(number), durations)

    def _where(self, number):
        return f"{self.path}: clip {number} ({self.entries[number][0]})"

    def _frames(self, number):
        if number not in self.entries:
            raise UserError(f"{self.path} has no clip {number}; write it, or leave it out with --allow_missing")
        where = self._where(number)
        try:
            frames, durations = self._decode(number)
        except MemoryError:  # no fault of the file, whose size has been looked at
            raise
        except Exception as error:  # decoders raise whatever they like on broken files
            reason = one_line(error).rpartition("; ")[0] if isinstance(error, UserError) else one_line(error)
            raise UserError(f"{where} is broken ({reason}); {AGAIN}") from None
        if frames.dtype.kind == "f" and not np.isfinite(frames).all():
            raise UserError(f"{where} has NaN or infinite values; {AGAIN}")
        if frames.dtype != np.uint8:
            raise UserError(f"{where} has frames of type {frames.dtype}, not uint8; {AGAIN}")
        if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
            raise UserError(f"{where} has frames of shape {frames.shape}, not (frames, height, width, 3); {AGAIN}")
        return frames, durations


def _likely_layout(files):
    """Layout that the names of files, list of Path, are of; None where none is."""
    for layout, ending in (("side_by_side", ".gif"), ("gif", ".gif"), ("ours", ".npz"), ("mp4", ".mp4")):
        if any(path.suffix.lower() == ending and re.fullmatch(_STEMS.get(layout, r"\D*\d+"), path.stem, re.IGNORECASE) for path in files):
            return layout
    return None


def _walk(folder, above=()):
    """Paths of the files below a folder, through symbolic links but not in circles."""
    here = os.path.realpath(folder)
    for entry in os.scandir(folder) if here not in above else ():
        if entry.is_dir():
            yield from _walk(entry.path, (*above, here))
        elif entry.is_file():
            yield entry.path


def _stamp(path):
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def natural_key(name):
    """Sort key by which 'test2' comes before 'test10'."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(name))]


def _one_number(path, stem, index):
    digits = re.findall(r"\d+", stem)
    if len(digits) != 1 or _number(digits[0]) > MOST:
        known = f" and is no clip of the data set, such as {next(iter(index))}" if index else ""
        raise UserError(
            f"{path}: {stem[:80]!r} does not hold one clip number{known}; rename the files test1, test2, ... in the order of the ground truth"
        )
    return _number(digits[0])


def detect_layout(path, names=None):
    """Layout of a folder or zip that holds ground truth, by what lies in it; `names` are the data set's clip names."""
    faults = []
    for layout in ("ours", "mp4", "gif", "side_by_side"):
        try:
            return FolderClips(path, layout, names=names).layout
        except UserError as fault:
            faults.append(fault)
    nothing = UserError(f"{path} has no npz, PNG, GIF or mp4 clips in it; check the path")
    raise next((fault for fault in faults if not isinstance(fault, NoClips)), nothing)


def open_clips(path, layout=None, **options):
    """Reader of an .npy (ArrayClips) or of a folder or zip (FolderClips), of a layout that is found out by default.

    Options are those of FolderClips; those that an array lacks are left out for it.
    """
    if Path(path).suffix.lower() == ".npy":
        return ArrayClips(path, **{key: value for key, value in options.items() if key in ("n_frames", "size", "resize", "times")})
    return FolderClips(path, layout or detect_layout(path, options.get("names")), **options)
