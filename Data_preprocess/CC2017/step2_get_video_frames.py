"""Take eight frames out of every clip: 0, 8, ..., 56, stretched to the size that the models see.

Each clip is decoded once. The frames are stretched, not cropped, with an area filter.

Reads    stimuli_clips/{Train,Test}/{clip}.mp4
Writes   stimuli_frames/{Train,Test}/{clip}/{frame:07d}.jpg     (or .png), 512 x 512; 64 x 64 for the phantom

    python Data_preprocess/CC2017/step2_get_video_frames.py --dataset phantom
    python Data_preprocess/CC2017/step2_get_video_frames.py --dataset CC2017 --jpg_quality 100

4 core-seconds for the phantom, some 0.3 per clip of CC2017 (half an hour on one core).
"""

import os
import shutil

import cv2

from common import cli, video
from common.datasets import get_dataset
from common.files import UserError, naming, read_json, sha256
from common.layout import Layout
from common.records import Record
from common.seals import seal_jpeg
from common.workers import add_workers_flag, remove_partial, run_jobs


def encode(frame, ending, jpg_quality):
    """(H, W, 3) uint8 RGB -> bytes of a picture file."""
    options = [cv2.IMWRITE_JPEG_QUALITY, jpg_quality] if ending == "jpg" else []
    content = cv2.imencode(f".{ending}", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)[1].tobytes()
    return seal_jpeg(content) if ending == "jpg" else content


def take_frames(job):
    """Write the frames of one clip; the folder gets its name when all are in it.

    Parameters
    ----------
    job : tuple of clip path, its SHA-256 or None, folder for the frames, frame indices, number of frames that the clip
        has, pixels, file ending, JPEG quality

    Returns
    -------
    int, frames written
    """
    clip, checksum, folder, indices, clip_frames, size, ending, jpg_quality = job
    cv2.setNumThreads(1)
    if not clip.is_file():
        raise UserError(clip, f"a clip of {clip_frames} frames", "nothing there", "run step 1")
    if checksum is not None and sha256(clip) != checksum:
        raise UserError(clip, "the content that step 1 wrote", "other bytes", "delete the file and run step 1 again")
    partial = folder.with_name(f".partial-{os.getpid()}-{folder.name}")
    try:
        with naming(folder):
            partial.mkdir(parents=True, exist_ok=True)
            for index, frame in zip(indices, video.read_frames(clip, indices), strict=True):
                (partial / f"{index:07d}.{ending}").write_bytes(encode(video.stretch(frame, size), ending, jpg_quality))
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(indices)


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, split=True)
    group = parser.add_argument_group("frames")
    group.add_argument("--format", choices=["jpg", "png"], default="jpg", help="picture files; png is lossless and four times as large")
    group.add_argument("--jpg_quality", type=cli.between(0, 100), default=95, help="0 to 100")
    add_workers_flag(parser, "clips")
    return parser


def main(args):
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    for split in args.split:
        clips = layout.clip(split, "any").parent
        listing = clips / "clips.json"
        checksums = read_json(listing)["sha256"] if listing.exists() else {}
        # a short film's last clips may have been dropped on purpose
        names = [name for name in dataset.clip_names(split) if not checksums or name in checksums]
        todo = [name for name in names if not layout.frames(split, name).exists()]
        root = layout.frames(split, "any").parent
        record = Record(root, args, [listing] if checksums else [], neutral={"split"})
        if not todo and record.is_done():
            continue
        record.check_same()
        if args.overwrite and root.exists():
            shutil.rmtree(root)
            todo = names
        remove_partial(root)
        record.start()
        jobs = [
            (
                layout.clip(split, name), checksums.get(name), layout.frames(split, name), dataset.frame_indices, dataset.clip_frames,
                dataset.frame_size, args.format, args.jpg_quality,
            )
            for name in todo
        ]  # fmt: skip
        run_jobs(take_frames, jobs, args.workers, f"{args.dataset} {split} clips", "clip")
        n_frames, expected = len(names) * len(dataset.frame_indices), dataset.n_clips(split) * len(dataset.frame_indices)
        print(f"{args.dataset} {split}: {n_frames} frames of {dataset.frame_size} x {dataset.frame_size} pixels made, {expected} expected")
        record.finish(clips=len(names), frames=n_frames, expected=expected)


if __name__ == "__main__":
    cli.run(main, get_parser)
