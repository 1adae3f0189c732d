"""The frames that step 2 of the preprocessing took out of the clips."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from common.cli import one_line
from common.files import UserError, check_sum, missing

_AGAIN = "delete it and run step2_get_video_frames again"


def read_frame(folder, index, size):
    """One frame of a clip.

    Parameters
    ----------
    folder : str or Path
        the clip's, which holds {index:07d}.jpg or .png; the folder above it may have a SHA256SUMS
    index : int
        frame of the clip
    size : int
        pixels that its height and width must have

    Returns
    -------
    array, shape (size, size, 3), uint8
        RGB

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
        with Image.open(io.BytesIO(content)) as image:
            frame = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} is not a readable picture ({one_line(error)}); {_AGAIN}") from None
    if frame.shape != (size, size, 3):
        raise UserError(f"{path} has {frame.shape[1]} x {frame.shape[0]} pixels, not {size} x {size}; {_AGAIN}")
    return frame


def read_clip(folder, indices, size):
    """Several frames of a clip, (F, size, size, 3) uint8; see read_frame."""
    return np.stack([read_frame(folder, index, size) for index in indices])
