"""The interface between the API and the students. The ingress implements it on Ray; tests use a fake."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from serving.messages import Failed, Piece, Question, Reply, TextRequest, TooLong
from serving.model_card import StudentCard


class Backend(Protocol):
    """Each method raises ApiError 503 if the student's queue is full or the student is unavailable, and 504 after the time limit.

    `client`: the name of the key, or the client's address. Clients take turns.
    """

    def engine(self, card: StudentCard) -> str | None:
        """The engine that answered last for a student; None before its first answer."""
        ...

    async def any_can_answer(self, cards: Sequence[StudentCard]) -> bool:
        """True if one of the students has a replica that answers, or can get one."""
        ...

    async def answer(
        self, card: StudentCard, questions: Sequence[Question], client: str
    ) -> Sequence[Reply | TooLong | Failed]:
        """One outcome per question, in order."""
        ...

    async def write(
        self, card: StudentCard, requests: Sequence[TextRequest], client: str
    ) -> Sequence[Piece | TooLong | Failed]:
        """One whole text per request, in order."""
        ...

    def stream(
        self, card: StudentCard, request: TextRequest, client: str
    ) -> AsyncGenerator[Piece | TooLong | Failed, None]:
        """One text while it is generated."""
        ...
