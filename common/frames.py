"""The frames that step 2 of the preprocessing took out of the clips."""

from pathlib import Path

import numpy as np

from common.clip_frames import read_picture
from common.files import UserError, check_sum, missing, one_line

_AGAIN = "delete it and run step2_get_video_frames again"


def read_frame(folder, index, size):
    """One frame of a clip, (size, size, 3) uint8 RGB.

    Parameters
    ----------
    folder : str or Path
        the clip's, which holds {index:07d}.jpg or .png; the folder above it may have a SHA256SUMS
    index : int
        frame of the clip
    size : int
        pixels that its height and width must have

    Raises
    ------
    UserError
        missing, changed since it was written, broken or of another size
    """
    folder = Path(folder)
    paths = [folder / f"{index:07d}{ending}" for ending in (".jpg", ".png")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise missing(paths[0], "run step2_get_video_frames, or check --out_root")
    content = path.read_bytes()
    check_sum(path, folder.parent, content, do=_AGAIN)
    try:
        frame = read_picture(content)
    except Exception as error:  # Pillow meets damaged bytes with errors of almost any kind
        raise UserError(f"{path} is not a readable picture ({one_line(error)}); {_AGAIN}") from None
    if frame.shape != (size, size, 3):
        raise UserError(f"{path} has {frame.shape[1]} x {frame.shape[0]} pixels, not {size} x {size}; {_AGAIN}")
    return frame


def read_clip(folder, indices, size):
    """Several frames of a clip, (F, size, size, 3) uint8; see read_frame."""
    return np.stack([read_frame(folder, index, size) for index in indices])
