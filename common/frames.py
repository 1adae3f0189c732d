"""The frames that step 2 of the preprocessing took out of the clips."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from common import seals
from common.files import UserError, missing

_AGAIN = "run step2_get_video_frames again"


def read_frame(folder, index, size):
    """One frame of a clip.

    Parameters
    ----------
    folder : the clip's folder, which holds {index:07d}.jpg or .png
    index : int, film frame
    size : int, pixels that its height and width must have

    Returns
    -------
    (size, size, 3) uint8, RGB

    Raises
    ------
    UserError : missing, broken or of another size
    """
    paths = [Path(folder) / f"{index:07d}{ending}" for ending in (".jpg", ".png")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise missing(paths[0], f"a frame of {size} x {size} pixels", "run step2_get_video_frames")
    content = path.read_bytes()
    if seals.is_broken(content):
        raise UserError(path, "the picture that its seal is of", "other bytes", _AGAIN)
    try:
        with Image.open(io.BytesIO(content)) as image:
            frame = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(path, "a picture", f"a broken one ({str(error).splitlines()[0]})", _AGAIN) from None
    if frame.shape != (size, size, 3):
        raise UserError(path, f"{size} x {size} pixels", f"{frame.shape[1]} x {frame.shape[0]}", _AGAIN)
    return frame


def read_clip(folder, indices, size):
    """Several frames of a clip, (F, size, size, 3) uint8; see read_frame."""
    return np.stack([read_frame(folder, index, size) for index in indices])
