"""Tokens to pieces of text that can be sent at once: no half characters, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.messages import FinishReason, TextToken

_INCOMPLETE = "\ufffd"


def text_tokens(ids: Sequence[int], log_probs: Sequence[float], tokenizer: Any) -> tuple[TextToken, ...]:
    """The tokens of a whole text, without the end-of-sequence token."""
    detokenizer, tokens = Detokenizer(tokenizer), []
    for token, log_prob in zip(ids, log_probs, strict=True):
        if token != tokenizer.eos_token_id:
            tokens.append(TextToken(detokenizer.add(token), log_prob))
    if tokens:
        tokens[-1] = TextToken(tokens[-1].text + detokenizer.rest(), tokens[-1].log_prob)
    return tuple(tokens)


class Detokenizer:
    """One text while it is generated. Each step decodes all of its tokens: exact for every tokenizer, and texts are short."""

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._text = ""
        self._sent = 0
        self.stopped = False
        """True after a stop string: the text has ended."""

    @property
    def num_tokens(self) -> int:
        """Tokens so far."""
        return len(self._ids)

    @property
    def finish_reason(self) -> FinishReason:
        """Why the text ends here."""
        ended = bool(self._ids) and self._ids[-1] == self._tokenizer.eos_token_id
        return "stop" if self.stopped or ended else "length"

    def add(self, token: int) -> str:
        """Add a token. Returns the text that can be sent now, which may be empty."""
        self._ids.append(token)
        self._text = str(self._tokenizer.decode(self._ids, skip_special_tokens=True))
        found = [at for stop in self._stop if (at := self._text.find(stop)) >= 0]
        if found:
            self._text = self._text[: min(found)]
            self.stopped = True
            return ""
        return self._send(len(self._text.rstrip(_INCOMPLETE)) - self._possible_stop())

    def rest(self) -> str:
        """The text that was held back, after the last token."""
        return self._send(len(self._text))

    def _possible_stop(self) -> int:
        """Characters at the end that may begin a stop string."""
        lengths = (n for stop in self._stop for n in range(1, len(stop)) if self._text.endswith(stop[:n]))
        return max(lengths, default=0)

    def _send(self, end: int) -> str:
        piece = self._text[self._sent : max(end, self._sent)]
        self._sent += len(piece)
        return piece
