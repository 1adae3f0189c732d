"""Take eight frames out of every clip: 0, 8, ..., 56, stretched to the size that the models see.

Each clip is decoded once. The frames are stretched, not cropped, with an area filter.

Reads    stimuli_clips/{Train,Test}/{clip}.mp4
Writes   stimuli_frames/{Train,Test}/{clip}/{frame:07d}.jpg     (or .png), 512 x 512; 64 x 64 for the phantom
         stimuli_frames/{Train,Test}/SHA256SUMS

    python Data_preprocess/CC2017/step2_get_video_frames.py --dataset phantom
    python Data_preprocess/CC2017/step2_get_video_frames.py --dataset CC2017 --jpg_quality 100

4 core-seconds for the phantom, some 0.3 per clip of CC2017 (half an hour on one core).
"""

import os
import shutil

import cv2

from common import cli, video
from common.datasets import get_dataset
from common.files import SUMS, check_sum, missing, naming, read_sums, sha256, write_sums
from common.layout import Layout
from common.records import working
from common.workers import add_workers_flag, run_jobs
from Data_preprocess.movies import stretch


def encode(frame, ending, jpg_quality):
    """Bytes of a picture file of a frame, (H, W, 3) uint8 RGB."""
    options = [cv2.IMWRITE_JPEG_QUALITY, jpg_quality] if ending == "jpg" else []
    return cv2.imencode(f".{ending}", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def frame_paths(folder, indices, ending):
    return [folder / f"{index:07d}.{ending}" for index in indices]


def take_frames(job):
    """Write the frames of one clip; their folder gets its name when all are in it. Frames that are there are kept.

    Parameters
    ----------
    job : tuple
        path of the clip, folder for its frames, frame indices, pixels, file ending, JPEG quality

    Returns
    -------
    dict
        path below the split's folder -> SHA-256, of the frames that were written
    """
    clip, folder, indices, size, ending, jpg_quality = job
    if all(path.is_file() for path in frame_paths(folder, indices, ending)):
        return {}
    if not clip.is_file():
        raise missing(clip, "run step 1, or check --out_root")
    check_sum(clip, do="delete it and run step 1 again")
    partial = folder.with_name(f".partial-{os.getpid()}-{folder.name}")
    try:
        with naming(folder):
            partial.mkdir(parents=True, exist_ok=True)
            for path, frame in zip(frame_paths(partial, indices, ending), video.read_frames(clip, indices), strict=True):
                path.write_bytes(encode(stretch(frame, size), ending, jpg_quality))
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {f"{folder.name}/{path.name}": sha256(path) for path in frame_paths(folder, indices, ending)}


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, split=True)
    group = parser.add_argument_group("frames")
    group.add_argument("--format", choices=["jpg", "png"], default="jpg", help="picture files; png is lossless and four times as large")
    group.add_argument("--jpg_quality", type=cli.whole(0, 100), default=95, help="JPEG quality from 0 to 100")
    add_workers_flag(parser, "clips")
    return parser


def main(args):
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    for split in args.split:
        clips, root = layout.clip(split, "any").parent, layout.frames(split, "any").parent
        listed = read_sums(clips)
        # a short movie's last clips may have been left out on purpose
        names = [name for name in dataset.clip_names(split) if not listed or f"{name}.mp4" in listed]
        frames = [path for name in names for path in frame_paths(layout.frames(split, name), dataset.frame_indices, args.format)]
        inputs = [clips / SUMS] if listed else []
        with working(root, args, inputs=inputs, outputs=[root / SUMS, *frames], clear=[root]) as record:
            if record is None:
                continue
            how = (dataset.frame_indices, dataset.frame_size, args.format, args.jpg_quality)
            jobs = [(layout.clip(split, name), layout.frames(split, name), *how) for name in names]
            made = {}
            for sums in run_jobs(take_frames, jobs, args.workers, f"{dataset.name} {split} clips", "clip"):
                made |= sums
            known = read_sums(root)  # a frame keeps its first checksum: a changed one is not taken for good by a second run
            listed = {path.relative_to(root).as_posix(): path for path in frames}
            write_sums(root, {name: made.get(name) or known.get(name) or sha256(path) for name, path in listed.items()})
            expected, size = dataset.n_clips(split) * len(dataset.frame_indices), dataset.frame_size
            print(f"{dataset.name} {split}: {len(frames)} frames of {size} x {size} pixels made, {expected} expected")
            record.finish(clips=len(names), frames=len(frames), expected=expected)


if __name__ == "__main__":
    cli.run(main, get_parser)
