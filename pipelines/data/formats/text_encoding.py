"""The encoding of a text file: read if its first bytes show it, else named in messages with the command that converts the file."""

from __future__ import annotations

import codecs

from pipelines.data.formats.base import compression_of, open_bytes
from pipelines.storage.filesystems import shown

HEAD_BYTES = 256 << 10
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def text_encoding(head: bytes) -> str:
    """The encoding that the first bytes of a text show: a byte order mark, or the zero bytes of UTF-16. Else UTF-8."""
    if head.startswith(_UTF_16):
        return "utf-16"
    if len(head) >= 8:
        for encoding, zeros, others in (("utf-16-le", head[1::2], head[::2]), ("utf-16-be", head[::2], head[1::2])):
            if zeros.count(0) > 0.8 * len(zeros) and others.count(0) < 0.2 * len(others):
                return encoding
    return "utf-8-sig"


def conversion(uri: str, *, reads_utf_16: bool) -> str | None:
    """Why a text file cannot be read, and the command that converts it. None if its first 256 KiB are in an encoding that is read.

    Args:
        reads_utf_16: the file's format reads UTF-16, as CSV does.
    """
    with open_bytes(uri) as stream:
        head = stream.read(HEAD_BYTES)
    encoding = text_encoding(head)
    if encoding == "utf-8-sig":
        encoding = one_byte_encoding(head) or ""
    elif reads_utf_16:
        return None
    if not encoding:
        return None
    name = shown(uri).rpartition("/")[2].removesuffix(compression_of(uri))
    return f"{name} is {encoding}, not UTF-8. Convert it: iconv -f {encoding} -t utf-8 {name} > utf8-{name}"


def one_byte_encoding(head: bytes) -> str | None:
    """cp1252 or latin-1, if the bytes are not UTF-8."""
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.start >= len(head) - 3:
            return None  # a character that the end of the read cuts
        try:
            head.decode("cp1252")
        except UnicodeDecodeError:
            return "latin-1"
        return "cp1252"
    return None
