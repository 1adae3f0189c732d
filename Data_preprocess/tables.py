"""Text that users bring: plain lines, tables separated by commas, semicolons or tabs, numbers."""

import csv
import re

from common.cli import NUMBER
from common.files import UserError, read_bytes

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_MOST = 64 * 2**20  # bytes of a text file
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # Excel and Notepad begin files so


def read_lines(path):
    """Lines of a UTF-8 or UTF-16 text file, list of str, without blank ones at its end.

    A UserError for one that is missing, too large, in another encoding, or has characters that no text has.
    """
    content = read_bytes(path, _MOST)
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}, is not in UTF-8; save the file as UTF-8 (in Excel: CSV UTF-8)") from None
    lines = re.split(r"\r\n|\r|\n", text)
    for number, line in enumerate(lines, 1):
        if bad := re.search(r"[\x00-\x08\x0b-\x1f\x7f]", line):
            raise UserError(f"{path}, line {number}, has the control character {bad[0]!r}; this is no text file, or a damaged one")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def read_table(path, known, heading=None):
    """Rows of a table whose first line names its columns.

    Columns are separated by commas, semicolons or tabs, whichever divides the first line into names that are known; a
    line `sep=;` before it, as Excel writes it, decides. A cell with a separator stands in quotation marks, and ends on
    its line. A UserError for one that is unreadable, has two columns of one name, an open quotation mark, or another number of
    cells than columns.

    Parameters
    ----------
    known : iterable of str
        names of columns, in lower case
    heading : list of str, optional
        columns of a table, separated by commas, whose first line has no known name

    Returns
    -------
    columns : list of str
        in lower case; empty for a file without text
    rows : list of (int, list of str)
        number of the line, and as many cells as columns
    separator : str
    """
    lines, marks = list(enumerate(read_lines(path), 1)), list(SEPARATORS)
    if lines and (told := re.fullmatch(r'"?sep=([,;\t])"?', lines[0][1].strip(" "), re.IGNORECASE)):
        marks, lines = [told[1]], lines[1:]
    lines = [(number, line) for number, line in lines if line.strip(" ,;\t")]
    if not lines:
        return [], [], marks[0]
    named = {mark: [cell.lower() for cell in _split(path, *lines[0], mark)] for mark in marks}
    separator = max(marks, key=lambda mark: len({*named[mark]} & {*known}))
    if heading and not {*named[separator]} & {*known}:
        columns, separator, advice = heading, marks[0], ", or begin the table with the names of its columns"
    else:
        columns, lines, advice = named[separator], lines[1:], ""
    while columns and not columns[-1]:  # separators at the end of the line
        columns.pop()
    if repeated := [name for name in columns if columns.count(name) > 1]:
        raise UserError(f"{path} has two columns named {repeated[0]!r}; rename or delete one of them")
    rows = [(number, _split(path, number, line, separator)) for number, line in lines]
    for number, cells in rows:
        while len(cells) > len(columns) and not cells[-1]:
            cells.pop()
        if len(cells) != len(columns):
            quoted = f"put cells with {SEPARATORS[separator]} in quotation marks"
            raise UserError(f"{path}, line {number} has {len(cells)} cells, not {len(columns)}; {quoted}{advice}")
    return columns, rows, separator


def _split(path, number, line, separator):
    try:
        cells = next(csv.reader([line], delimiter=separator, strict=True, skipinitialspace=True))
    except csv.Error:
        raise UserError(
            f"{path}, line {number}: a quotation mark is not closed on its line; close it, or write one that belongs to the text twice, in quotation marks"
        ) from None
    return [cell.strip() for cell in cells]


def as_number(text, point="."):
    """A number as people write it; a ValueError for anything else, such as '1_0', 'nan' and '1.000,5'."""
    plain = text.replace(point, ".")
    if not NUMBER.fullmatch(plain) or (point != "." and "." in text):
        raise ValueError(text)
    return float(plain)
