"""A JSON file that is one array of objects. It is read from its beginning, element by element, and held in memory a MiB at a time."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

from pipelines.data.formats.base import BUFFER_BYTES, Record, open_bytes
from pipelines.errors import UserError
from pipelines.storage.filesystems import shown
from pipelines.tasks.base import is_unicode

MAX_ELEMENT_CHARACTERS = 16 << 20
_SPACE = " \t\r\n"
_REMEDY = "Repair it, or write one object per line (JSON Lines)."


def is_array(uri: str) -> bool:
    """True if the file begins with `[`."""
    with open_bytes(uri) as stream:
        head = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return head.startswith(b"[")


def array_records(uri: str, decoder: json.JSONDecoder) -> Iterator[Record]:
    """The elements of the array.

    Args:
        decoder: of an element. An element that it refuses is a row with a problem.

    Raises:
        UserError: the file is no JSON array. An element before the damage has been yielded.
    """
    with open_bytes(uri) as stream, io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape") as text:
        array = _Array(text)
        array.skip("[")
        number = 0
        while array.peek() != "]":
            number += 1
            try:
                if number > 1:
                    array.skip(",")
                raw, end = array.element()
            except (ValueError, RecursionError) as error:
                problem = " ".join(str(error).split())[:100]
                raise UserError(
                    shown(uri), f"element {number:,} of its array is not JSON ({problem})", _REMEDY
                ) from error
            yield _record(raw, decoder)
            array.position = end
        array.skip("]")
        if array.peek():
            raise UserError(shown(uri), f"text follows its array of {number:,} elements", _REMEDY)


class _Array:
    """The text of the array, from `position` on."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self._buffer, self.position = text, "", 0

    def peek(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            while self.position < len(self._buffer):
                if self._buffer[self.position] not in _SPACE:
                    return self._buffer[self.position]
                self.position += 1
            if not self._more():
                return ""

    def skip(self, character: str) -> None:
        """Pass the next character, which must be this one. Raises ValueError."""
        if (found := self.peek()) != character:
            raise ValueError(f"expected `{character}`, found `{found or 'the end of the file'}`")
        self.position += 1

    def element(self) -> tuple[str, int]:
        """(text of the element at this position, the position of its end). Raises ValueError if it is not JSON."""
        self.peek()
        while True:
            try:
                _, end = _LENIENT.raw_decode(self._buffer, self.position)
                if end < len(self._buffer) or not self._more():  # a number may continue
                    return self._buffer[self.position : end], end
            except json.JSONDecodeError:
                if len(self._buffer) - self.position > MAX_ELEMENT_CHARACTERS or not self._more():
                    raise

    def _more(self) -> bool:
        """Read on, at least as much as is there: an element is then parsed again only a few times."""
        more = self._text.read(max(BUFFER_BYTES, len(self._buffer) - self.position))
        self._buffer, self.position = self._buffer[self.position :] + more, 0
        return bool(more)


_LENIENT = json.JSONDecoder()


def _record(raw: str, decoder: json.JSONDecoder) -> Record:
    if not is_unicode(raw):
        return Record(None, raw.encode("utf-8", "replace").decode(), "not UTF-8")
    try:
        row = decoder.decode(raw)
    except ValueError as error:
        return Record(None, raw, f"not JSON ({str(error)[:100]})")
    is_object = isinstance(row, dict)
    return Record(row if is_object else None, raw, "" if is_object else "not a JSON object")
