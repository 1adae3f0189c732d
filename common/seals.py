"""A checksum inside a file of a kind that has none of its own: MP4, GIF, JPEG.

The seal lies where the format allows for remarks, so that every program reads the file as before. It is a mark and the
SHA-256 of the file without the digits. A file without the mark is of somebody else and is taken as it is.
"""

import hashlib
import struct

_MARK = b"Mind-Animator sha256 "
_N_DIGITS = 64
LENGTH = len(_MARK) + _N_DIGITS


def _sealed(head, before, after, tail):
    head, tail = head + before + _MARK, after + tail
    return head + hashlib.sha256(head + tail).hexdigest().encode() + tail


def seal_mp4(content):
    """Bytes of an MP4 with a seal in a last box of free space."""
    return _sealed(content, struct.pack(">I4s", 8 + LENGTH, b"free"), b"", b"")


def seal_gif(content):
    """Bytes of a GIF with a seal in a comment before its end."""
    return _sealed(content[:-1], b"!\xfe" + bytes([LENGTH]), b"\0", content[-1:])


def seal_jpeg(content):
    """Bytes of a JPEG with a seal in a comment behind its first segment."""
    end = 4 + struct.unpack(">H", content[4:6])[0]
    return _sealed(content[:end], b"\xff\xfe" + struct.pack(">H", 2 + LENGTH), b"", content[end:])


def ends_with_seal(path):
    """True for a file with a seal at its very end, as in an MP4; reads no more than that."""
    with open(path, "rb") as handle:
        handle.seek(-min(LENGTH, path.stat().st_size), 2)
        return handle.read().startswith(_MARK)


def is_broken(content):
    """True when the bytes of a file have a seal that does not fit them."""
    digits = content.rfind(_MARK) + len(_MARK)
    if digits < len(_MARK):
        return False
    rest = content[:digits] + content[digits + _N_DIGITS :]
    return hashlib.sha256(rest).hexdigest().encode() != content[digits : digits + _N_DIGITS]
