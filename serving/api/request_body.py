"""The JSON body of a request, for FastAPI's typed parameters."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError, from_json

from serving.api.errors import ApiError

Priority = Annotated[
    Literal["bulk"] | None,
    Field(description="`bulk`: others go first. Requests with more than 8 inputs are bulk anyway."),
]


class JsonRequest(Request):
    """Reads JSON as RFC 8259 defines it.

    Python's own reader, which FastAPI uses otherwise, takes NaN, lone surrogates and any depth.
    """

    async def json(self) -> JsonValue:
        """Raises ApiError 400 if the body is not JSON or is nested too deeply."""
        try:
            value: JsonValue = from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise ApiError(400, "invalid_json", f"the body is not JSON: {error}") from error
        return value


def few(entries: int) -> BeforeValidator:
    """Refuses larger objects before their entries are read: each wrong one would be an error of its own."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > entries:
            raise PydanticCustomError("too_long", "Object should have at most {most} entries", {"most": entries})
        return value

    return BeforeValidator(check)


class RequestBody(BaseModel):
    """A JSON object without unknown keys."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _keep_one_unknown_key(cls, data: Any) -> Any:
        # pydantic reports every unknown key: a body of 400,000 of them would block the ingress for seconds.
        if not isinstance(data, dict) or data.keys() <= cls.model_fields.keys():
            return data
        unknown = next((key for key in data if key not in cls.model_fields), None)
        return {key: value for key, value in data.items() if key in cls.model_fields or key == unknown}
