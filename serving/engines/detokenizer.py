"""Tokens -> pieces of text that can be sent at once: no half characters, nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.messages import FinishReason

_INCOMPLETE = "\ufffd"


class TextSoFar:
    """A text that is being written. Texts are short (hundreds of tokens), so each step decodes all of them: exact for every tokenizer."""

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._text = ""
        self._sent = 0
        self.stopped = False
        """Whether a stop string has been written: nothing more is to come."""

    @property
    def tokens(self) -> int:
        """Tokens so far."""
        return len(self._ids)

    @property
    def finish_reason(self) -> FinishReason:
        """Why the text ends here."""
        ended = bool(self._ids) and self._ids[-1] == self._tokenizer.eos_token_id
        return "stop" if self.stopped or ended else "length"

    def add(self, token: int) -> str:
        """One more token; the text that can be sent now, which may be empty."""
        self._ids.append(token)
        self._text = str(self._tokenizer.decode(self._ids, skip_special_tokens=True))
        found = [at for stop in self._stop if (at := self._text.find(stop)) >= 0]
        if found:
            self._text = self._text[: min(found)]
            self.stopped = True
            return ""
        return self._send(len(self._text.rstrip(_INCOMPLETE)) - self._begun())

    def rest(self) -> str:
        """What was held back, when nothing more is to come."""
        return self._send(len(self._text))

    def _begun(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        lengths = (n for stop in self._stop for n in range(1, len(stop)) if self._text.endswith(stop[:n]))
        return max(lengths, default=0)

    def _send(self, until: int) -> str:
        piece = self._text[self._sent : max(until, self._sent)]
        self._sent += len(piece)
        return piece
