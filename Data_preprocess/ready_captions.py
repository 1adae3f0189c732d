"""Captions that users bring: plain text, tables, HDF5."""

import logging
from pathlib import Path

from common.captions import check_captions, read_captions
from common.files import UserError, missing
from Data_preprocess.tables import read_lines, read_table

log = logging.getLogger(__name__)

_CAPTION, _CLIP = ("caption", "captions"), ("clip", "clips", "clip_name", "name", "video", "file")  # what columns may be called
_ENDINGS = (".h5", ".hdf5", ".txt", ".csv", ".tsv")


def read_ready_captions(path, names):
    """Read one caption per clip, list of str.

    Parameters
    ----------
    path : str or Path
        .h5 or .hdf5 with one data set of strings; .txt with one caption a line; .csv or .tsv with a column "caption" or
        "captions", or with a single column and no heading. The rows of a table with a column of clips' names may be in any order
    names : list of str
        clips in order
    """
    path = Path(path)
    if not path.is_file():
        raise missing(path, "check the path")
    if (ending := path.suffix.lower()) not in _ENDINGS:
        raise UserError(f"{path} is not a caption file by its ending; give one that ends in {', '.join(_ENDINGS)}")
    if ending in (".h5", ".hdf5"):
        return read_captions(path, len(names))
    return check_captions(path, read_lines(path) if ending == ".txt" else _of_table(path, names), len(names))


def captions_of_table(path, names):
    """A table of clip and caption that an earlier step wrote, and its captions, if every clip has one.

    Else (None, None), with a warning if some have.
    """
    captions = _of_table(path, names) if path.is_file() else []
    if lacking := len(names) - sum(map(bool, captions)):
        if lacking < len(names):
            log.warning("warning: %d of the %d clips of %s have no caption; a model describes them all", lacking, len(names), path)
        return None, None
    return path, check_captions(path, captions, len(names))


def _of_table(path, names):
    columns, rows, _ = read_table(path, (*_CAPTION, *_CLIP), heading=["caption"])
    captions, clips = (next((columns.index(name) for name in known if name in columns), None) for known in (_CAPTION, _CLIP))
    if captions is None:
        raise UserError(f"{path} has the columns {', '.join(columns) or 'none'}, none of them named 'caption'; name one so")
    if clips is None:
        clips = _column_of_clips(path, columns, rows, captions, names)
    if clips is None:
        return [cells[captions] for _, cells in rows]
    of_clip = {}
    for line, cells in rows:
        name = _name_of(cells[clips], names)
        if name in of_clip:
            raise UserError(f"{path}, line {line}: there is a caption of {name} already; delete one of the two")
        of_clip[name] = cells[captions]
    for first in (1, 0):  # plain numbers
        if of_clip.keys() == set(map(str, range(first, first + len(names)))):
            names = [str(number) for number in range(first, first + len(names))]
    if strange := sorted(of_clip.keys() - {*names}):
        raise UserError(
            f"{path} has captions of {strange[0]}, which is none of the {len(names)} clips {names[0]} to {names[-1]}; "
            "correct its column of clips, or delete it if the captions are in clip order"
        )
    return [of_clip[name] for name in names if name in of_clip]


def _name_of(cell, names):
    return cell if cell in names else Path(cell.replace("\\", "/")).stem


def _column_of_clips(path, columns, rows, captions, names):
    """Number of a column that holds clips' names though it is called otherwise; None where the rows are in clip order."""
    numbers = [[str(first + i) for i in range(len(names))] for first in (0, 1)]
    for at, column in enumerate(columns):
        found = [_name_of(cells[at], names) for _, cells in rows]
        if at != captions and found and {*found} <= {*names}:
            return at
        if sorted(found) in map(sorted, numbers) and found not in numbers:
            raise UserError(
                f"{path} has the numbers of a column {column!r} in another order; call it clip if they say which clip a caption is of, "
                "or delete it if the captions are in clip order"
            )
    return None
