"""What stands behind the API: students that answer. The ingress has them on Ray, tests have stand-ins."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from serving.messages import Piece, Question, Reply, TextRequest, TooLong
from serving.model_card import StudentCard


class Backend(Protocol):
    """Each method raises ApiError 503 where the student's queue is full or it is away, 504 where it takes too long."""

    def engine(self, card: StudentCard) -> str | None:
        """The engine that answers for a student; None: it has not answered yet."""
        ...

    async def ask(self, card: StudentCard, questions: Sequence[Question]) -> Sequence[Reply | TooLong]:
        """One outcome for each question, in order."""
        ...

    async def write(self, card: StudentCard, orders: Sequence[TextRequest]) -> Sequence[Piece | TooLong]:
        """One whole text for each order, in order."""
        ...

    def stream(self, card: StudentCard, order: TextRequest) -> AsyncGenerator[Piece | TooLong, None]:
        """One text as it is written."""
        ...
