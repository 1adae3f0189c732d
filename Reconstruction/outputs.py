"""The files of one reconstruction: their names, how a clip is written, the manifest, the checksums."""

import contextlib
from pathlib import Path

import cv2
import numpy as np
from einops import rearrange
from PIL import GifImagePlugin, Image

from common import files
from common.files import SUMS, atomic_path, sha256, write_bytes, write_json, write_sums
from common.video import write_mp4
from Evaluation_Metrics.movie_strip import write_strip

GIF_MILLISECONDS = 120  # a GIF counts in hundredths of a second: 8 fps would be 125
FPS = 8


# ---------------------------------------------------------------------------------------------- where things lie


class Outputs:
    """Files of a reconstruction.

    A clip is there when its files are and log.jsonl has their SHA-256, which is written after them: what a kill leaves
    of a clip is written again.

    Parameters
    ----------
    recons : Path
        folder of the reconstructions; all else lies beside it
    with_gt : Path or None
        folder of the side-by-side movies; None where the ground truth is not known
    split : str
        "test" or "train", with which the files' names begin
    formats : list of str
        what is written of each clip, of FORMATS
    save_stage1 : bool
        whether the decoding before stage 2 is written
    n_samples : int
        reconstructions of a clip, each from a noise of its own; the first is the one that is shown
    """

    def __init__(self, recons, with_gt, *, split="test", formats=("gif", "npz"), save_stage1=False, n_frames=8, n_samples=1):
        self.recons, self.with_gt, self.root = Path(recons), with_gt and Path(with_gt), Path(recons).parent
        self.split, self.formats, self.save_stage1, self.n_frames, self.n_samples = split, formats, save_stage1, n_frames, n_samples

    def stem(self, clip):
        return f"{self.split}{clip}"

    def strip(self, clip, of="strips"):
        """Movie strip for pages: of the truth and the reconstruction, or of stage 1 ("strips_stage1")."""
        return self.root / of / f"{self.stem(clip)}.png"

    @property
    def folders(self):
        """Folders that get a SHA256SUMS, by name."""
        return {"recons": self.recons, "with_gt": self.with_gt, "stage1": self.root / "stage1"}

    def pair(self, clip):
        return self.with_gt / f"{self.split}_and_gt{clip}.gif"

    def stage1(self, clip):
        return self.root / "stage1" / f"{self.stem(clip)}.npz"

    def samples(self, clip):
        """Files of a clip's further samples, from the second on."""
        return [self.root / "samples" / str(k) / f"{self.stem(clip)}.npz" for k in range(2, self.n_samples + 1)]

    def reconstruction(self, clip, form):
        """Files of one format: a folder of pictures, or one file."""
        if form == "png":
            return [self.recons / self.stem(clip) / f"{frame}.png" for frame in range(self.n_frames)]
        return [self.recons / f"{self.stem(clip)}.{form}"]

    def files(self, clip):
        """All files of a clip."""
        pair = [self.pair(clip)] if self.with_gt else []
        stage1 = [self.stage1(clip)] if self.save_stage1 else []
        return [
            *(path for form in self.formats for path in self.reconstruction(clip, form)),
            *pair,
            *stage1,
            *self.samples(clip),
            self.strip(clip),
        ]

    def summed(self, clip):
        """Files of a clip that get a checksum, {name of the folder: {path in it: Path}}."""
        paths, folders = self.files(clip), {kind: folder for kind, folder in self.folders.items() if folder}
        return {
            kind: {path.relative_to(folder).as_posix(): path for path in paths if path.is_relative_to(folder)}
            for kind, folder in folders.items()
        }

    def sha256(self, clip):
        """SHA-256 of the files of a clip, {name of the folder: {path in it: SHA-256}}."""
        return {kind: {name: sha256(path) for name, path in paths.items()} for kind, paths in self.summed(clip).items()}

    def finished(self, clips):
        """Those of the clips that are there, set."""
        logged = read_log(self.root / "log.jsonl")

        def is_there(clip):
            known = logged.get(clip, {}).get("sha256", {})
            in_log = all(paths.keys() <= known.get(kind, {}).keys() for kind, paths in self.summed(clip).items())
            return in_log and all(path.exists() for path in self.files(clip))

        return {clip for clip in clips if is_there(clip)}

    def old_files(self, clips):
        """Whatever may be there of these clips, in any format, and of the whole: what --overwrite deletes."""
        every = Outputs(self.recons, self.with_gt, split=self.split, formats=list(FORMATS), save_stage1=True, n_frames=self.n_frames)
        folders = [self.recons / self.stem(clip) for clip in clips]
        return (
            [path for clip in clips for path in every.files(clip)]
            + folders
            + self.sums()
            + [self.root / name for name in ("manifest.json", "samples", "strips_stage1")]
        )

    def sums(self):
        return [folder / SUMS for folder in self.folders.values() if folder]

    def write_sums(self):
        """Write the SHA256SUMS of every folder, out of the log."""
        logged = read_log(self.root / "log.jsonl").values()
        for kind, folder in self.folders.items():
            known = {name: digest for entry in logged for name, digest in entry.get("sha256", {}).get(kind, {}).items()}
            known = {name: digest for name, digest in known.items() if folder and (folder / name).exists()}
            if known:
                write_sums(folder, known)


# ---------------------------------------------------------------------------------------------- files of one clip


def to_uint8(frames):
    """Frames in 0...1 to 0...255, rounded."""
    return np.round(frames * 255).astype(np.uint8)


def _with_palette(frame):
    """A frame (H, W, 3) as a picture of 256 colours: its own where they are so few, else those of an octree.

    The octree's cells are of one size, so each channel is stretched to the whole range and back: of a dark frame nearly all would be
    empty. PIL's default, the median cut, takes ten times as long and is 0 to 1.5 dB nearer (benchmarks/writing.py).
    """
    picture = Image.fromarray(frame)
    if picture.getcolors(256) is not None:
        return picture.quantize(256)
    low = frame.min((0, 1)).astype(int)
    span = np.maximum(frame.max((0, 1)) - low, 1)
    stretched = np.clip(np.round((np.arange(256)[:, None] - low) * (255 / span)), 0, 255).astype(np.uint8)
    picture = Image.fromarray(cv2.LUT(frame, stretched[None])).quantize(256, Image.Quantize.FASTOCTREE)
    colours = np.reshape(picture.getpalette(), (-1, 3)) * span / 255 + low
    picture.putpalette(np.round(colours).astype(np.uint8).tobytes())
    return picture


def gif_bytes(frames):
    """An endless GIF of frames (F, H, W, 3) uint8, each with a palette of its own."""
    return gif_of([_with_palette(np.ascontiguousarray(frame)) for frame in frames])


def gif_of(pictures):
    """An endless GIF of pictures with palettes; repeated ones are kept, which PIL's own saving drops."""
    blocks = list(GifImagePlugin.getheader(pictures[0], info={"loop": 0, "optimize": False})[0])
    for picture in pictures:
        blocks += GifImagePlugin.getdata(picture, duration=GIF_MILLISECONDS, include_color_table=True)
    return b"".join(blocks) + b";"


def write_npz(path, frames):
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, frames=frames)


def write_pngs(paths, frames):
    for path, frame in zip(paths, frames, strict=True):
        with atomic_path(path) as temporary:
            Image.fromarray(frame).save(temporary)


FORMATS = {
    "gif": lambda paths, frames: write_bytes(paths[0], gif_bytes(frames)),
    "npz": lambda paths, frames: write_npz(paths[0], frames),
    "png": write_pngs,
    "mp4": lambda paths, frames: write_mp4(paths[0], frames, FPS),
}


def write_clip(outputs, clip, frames, gt=None, stage1=None, samples=()):
    """Write all files of one clip; frames are (F, H, W, 3) uint8.

    Parameters
    ----------
    gt : array, optional
        true frames; stretched to the size of `frames` if they have another
    stage1 : array, optional
        the decoding before stage 2
    samples : sequence of arrays
        from other noises
    """
    for path, sample in zip(outputs.samples(clip), samples, strict=True):
        write_npz(path, sample)
    if gt is not None and gt.shape != frames.shape:
        gt = np.stack([cv2.resize(frame, frames.shape[2:0:-1], interpolation=cv2.INTER_AREA) for frame in gt])
    if stage1 is not None:
        write_npz(outputs.stage1(clip), stage1)
        write_strip(outputs.strip(clip, "strips_stage1"), stage1)
    write_strip(outputs.strip(clip), *([] if gt is None else [gt]), frames)
    if gt is not None:
        write_bytes(outputs.pair(clip), gif_bytes(rearrange([gt, frames], "side f h w c -> f h (side w) c")))
    for form in outputs.formats:
        FORMATS[form](outputs.reconstruction(clip, form), frames)


# ---------------------------------------------------------------------------------------------- the log and the manifest


def read_log(path):
    """Latest entry of each clip in log.jsonl, with the SHA-256 of all files that were written; a line that was cut off is passed over."""
    entries = {}
    for entry in files.read_log(path, {"clip": int}):
        clip, now = entry.pop("clip"), entry.get("sha256", {})
        before = entries.get(clip, {}).get("sha256", {})
        with contextlib.suppress(AttributeError, TypeError):  # a damaged line
            entries[clip] = entry | {"sha256": {kind: before.get(kind, {}) | now.get(kind, {}) for kind in before | now}}
    return entries


def write_manifest(outputs, facts, clips):
    """Write manifest.json: facts of the whole reconstruction, and an entry of each of the clips that is there."""
    logged = read_log(outputs.root / "log.jsonl")
    entries = {}
    for clip in sorted(outputs.finished(clips)):
        pair = {"pair": outputs.pair(clip).stem} if outputs.with_gt else {}
        words = {key: value for key, value in logged[clip].items() if key not in ("sha256", "time")}
        entries[clip] = {"stem": outputs.stem(clip), **pair, **words}
    seconds = [clip["seconds"] for clip in entries.values()]
    write_json(
        outputs.root / "manifest.json", {**facts, "seconds_per_clip": float(np.mean(seconds)) if seconds else None, "clips": entries}
    )
