"""Frames of clips as picture files, with their SHA256SUMS: what the steps that write frames share."""

import os
import shutil

import cv2

from common import cli, video
from common.files import SUMS, check_sum, missing, naming, read_sums, sha256
from common.frames import read_clip
from common.records import working
from common.workers import add_workers_flag, run_jobs
from Data_preprocess.cutting import keep_sums
from Data_preprocess.movies import stretch


def add_frame_flags(parser, format="jpg"):
    """Add --format, whose default is `format`, --jpg_quality and --workers."""
    group = parser.add_argument_group("frames")
    group.add_argument("--format", choices=["jpg", "png"], default=format, help="picture files; png is lossless and four times as large")
    group.add_argument("--jpg_quality", type=cli.whole(0, 100), default=95, help="JPEG quality from 0 to 100")
    add_workers_flag(parser, "clips")


def encode(frame, ending, jpg_quality):
    """Bytes of a picture file of a frame, (H, W, 3) uint8 RGB."""
    options = [cv2.IMWRITE_JPEG_QUALITY, jpg_quality] if ending == "jpg" else []
    return cv2.imencode(f".{ending}", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def frame_paths(folder, indices, ending):
    return [folder / f"{index:07d}.{ending}" for index in indices]


def read_stretched(clip, indices, size):
    """Frames of a clip's mp4, stretched to size x size, whatever its proportions, list of (size, size, 3) uint8.

    A UserError for one that is not there or has changed.
    """
    if not clip.is_file():
        raise missing(clip, "run step 1, or check --out_root")
    check_sum(clip, do="delete it and run step 1 again")
    return [stretch(frame, size) for frame in video.read_frames(clip, indices)]


def read_cropped(whole, crop, folder, indices, size):
    """Centres, `crop` pixels wide, of frames that lie in a folder and are `whole` pixels wide, list of (size, size, 3) uint8."""
    start = (whole - crop) // 2
    return [stretch(frame[start : start + crop, start : start + crop], size) for frame in read_clip(folder, indices, whole)]


def take_frames(job):
    """Write the frames of one clip; their folder gets its name when all are in it. Frames that are there are kept.

    The job is (function of source, indices and size that gives the frames, source, folder for the frames, indices, pixels, file
    ending, JPEG quality) -> {path below the split's folder: SHA-256}, of the frames that were written.
    """
    read, source, folder, indices, size, ending, jpg_quality = job
    if all(path.is_file() for path in frame_paths(folder, indices, ending)):
        return {}
    frames = read(source, indices, size)
    partial = folder.with_name(f".partial-{os.getpid()}-{folder.name}")
    try:
        with naming(folder):
            partial.mkdir(parents=True, exist_ok=True)
            for path, frame in zip(frame_paths(partial, indices, ending), frames, strict=True):
                path.write_bytes(encode(frame, ending, jpg_quality))
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {f"{folder.name}/{path.name}": sha256(path) for path in frame_paths(folder, indices, ending)}


def make_frames(args, dataset, split, source, target, *, names=None, read=read_stretched, size=None):
    """Write the frames of a split's clips, or find them done.

    Parameters
    ----------
    source, target : function
        of a clip's name: what its frames are read from, and their folder
    names : list of str, optional
        clips; those that step 1 has left by default, as a short movie's last clips may have been left out on purpose
    read : function
        (source, indices, size) -> list of arrays, shape (size, size, 3), uint8
    size : int, optional
        pixels, the data set's by default
    """
    sources, root, size = source("any").parent, target("any").parent, size or dataset.frame_size
    listed = read_sums(sources)
    if names is None:
        names = [name for name in dataset.clip_names(split) if not listed or source(name).name in listed]
    frames = [path for name in names for path in frame_paths(target(name), dataset.frame_indices, args.format)]
    inputs = [sources / SUMS] if listed else []
    with working(root, args, inputs=inputs, outputs=[root / SUMS, *frames], clear=[root]) as record:
        if record is None:
            return
        how = (dataset.frame_indices, size, args.format, args.jpg_quality)
        jobs = [(read, source(name), target(name), *how) for name in names]
        keep_sums(root, frames, run_jobs(take_frames, jobs, args.workers, f"{dataset.name} {split} clips", "clip"))
        expected = dataset.n_clips(split) * len(dataset.frame_indices)
        print(f"{dataset.name} {split}: {len(frames)} frames of {size} x {size} pixels made, {expected} expected")
        record.finish(clips=len(names), frames=len(frames), expected=expected)
