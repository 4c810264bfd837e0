"""A key that is shown nowhere: not in a repr, a log line, a traceback's values or an error text."""

from __future__ import annotations


class Secret:
    """Holds a key on its way from the driver to the process that uses it. Pickles with its value: that is what it is for."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(***)"

    def reveal(self) -> str:
        """The key itself. Only for the call that needs it."""
        return self._value

    def scrub(self, text: str) -> str:
        """`text` without the key: endpoints quote it in their error messages."""
        return text.replace(self._value, "***") if self._value else text
