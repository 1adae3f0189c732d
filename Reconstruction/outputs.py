"""The files of one reconstruction: their names, how a clip is written, the manifest."""

import contextlib
import json
from pathlib import Path

import cv2
import numpy as np
from PIL import GifImagePlugin, Image

from common.files import atomic_path, write_bytes, write_json
from common.pages.gallery import write_strip
from common.seals import seal_gif
from common.video import write_mp4

GIF_MILLISECONDS = 120  # a GIF counts in hundredths of a second: 8 fps would be 125
FPS = 8


# ---------------------------------------------------------------------------------------------- where things lie


class Outputs:
    """Files of a reconstruction.

    Parameters
    ----------
    recons, with_gt : the two folders; all else lies beside `recons`
    split : "test" or "train", with which the files' names begin
    formats : what is written of each clip
    save_stage1 : whether the decoding before stage 2 is written
    n_frames : of a clip
    """

    def __init__(self, recons, with_gt, *, split="test", formats=("gif", "npz"), save_stage1=False, n_frames=8):
        self.recons, self.with_gt, self.root = Path(recons), Path(with_gt), Path(recons).parent
        self.split, self.formats, self.save_stage1, self.n_frames = split, formats, save_stage1, n_frames

    def stem(self, clip):
        return f"{self.split}{clip}"

    def pair(self, clip):
        return self.with_gt / f"{self.split}_and_gt{clip}.gif"

    def strip(self, clip):
        return self.root / "strips" / f"{self.stem(clip)}.png"

    def stage1(self, clip):
        return self.root / "stage1" / f"{self.stem(clip)}.npz"

    def reconstruction(self, clip, form):
        """Files of one format: a folder of pictures, or one file."""
        if form == "png":
            return [self.recons / self.stem(clip) / f"{frame}.png" for frame in range(self.n_frames)]
        return [self.recons / f"{self.stem(clip)}.{form}"]

    def files(self, clip):
        """All files that a finished clip has."""
        own = [path for form in self.formats for path in self.reconstruction(clip, form)]
        return [*own, self.pair(clip), self.strip(clip), *([self.stage1(clip)] if self.save_stage1 else [])]

    def done(self, clip):
        return all(path.exists() for path in self.files(clip))

    def clear(self, clips):
        """Delete whatever there is of these clips, in any format."""
        everything = Outputs(self.recons, self.with_gt, split=self.split, formats=FORMATS, save_stage1=True, n_frames=self.n_frames)
        for clip in clips:
            for path in everything.files(clip):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                (self.recons / self.stem(clip)).rmdir()


# ---------------------------------------------------------------------------------------------- files of one clip


def gif_bytes(frames):
    """An endless GIF with a palette for each frame; frames that repeat the one before are kept, which PIL's own saving drops.

    Parameters
    ----------
    frames : (F, H, W, 3) uint8
    """
    pictures = [Image.fromarray(frame).quantize(256) for frame in frames]
    blocks = list(GifImagePlugin.getheader(pictures[0], info={"loop": 0, "optimize": False})[0])
    for picture in pictures:
        blocks += GifImagePlugin.getdata(picture, duration=GIF_MILLISECONDS, include_color_table=True)
    return seal_gif(b"".join(blocks) + b";")


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


def write_clip(outputs, clip, frames, gt, stage1=None):
    """Write all files of one clip.

    Parameters
    ----------
    outputs : Outputs
    clip : int
    frames : (F, H, W, 3) uint8
    gt : likewise; stretched to the size of `frames` if it has another
    stage1 : likewise, if the decoding before stage 2 is wanted
    """
    if gt.shape != frames.shape:
        gt = np.stack([cv2.resize(frame, frames.shape[2:0:-1], interpolation=cv2.INTER_AREA) for frame in gt])
    if stage1 is not None:
        write_npz(outputs.stage1(clip), stage1)
    write_strip(outputs.strip(clip), gt, frames)
    write_bytes(outputs.pair(clip), gif_bytes(np.concatenate([gt, frames], axis=2)))
    for form in outputs.formats:
        FORMATS[form](outputs.reconstruction(clip, form), frames)


# ---------------------------------------------------------------------------------------------- the manifest


def read_log(path):
    """Latest entry of each clip in log.jsonl; a line that was cut off is passed over."""
    entries = {}
    if path.exists():
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError, KeyError):
                entry = json.loads(line)
                entries[entry.pop("clip")] = entry
    return entries


def write_manifest(outputs, facts):
    """Write manifest.json: the facts of the run and an entry for each clip that is there."""
    logged = read_log(outputs.root / "log.jsonl")
    clips = {}
    for clip in range(1, facts["n_clips"] + 1):
        if outputs.done(clip):
            clips[clip] = {"stem": outputs.stem(clip), "pair": outputs.pair(clip).stem, "size": facts["frame_size"], **logged.get(clip, {})}
    seconds = [clip["seconds"] for clip in clips.values() if "seconds" in clip]
    mean = float(np.mean(seconds)) if seconds else None
    write_json(outputs.root / "manifest.json", {**facts, "seconds_per_clip": mean, "clips": clips})
