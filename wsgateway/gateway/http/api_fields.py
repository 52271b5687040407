"""Reads the fields of a request to the server API. Knows no gateway.

A field that is null counts as missing, because some clients send every field.
"""

import binascii
import math
from base64 import b64decode
from collections.abc import Mapping
from typing import Any, NamedTuple

from wsgateway.exceptions import MessageError
from wsgateway.frames import MAX_OFFSET
from wsgateway.hub.target import TargetOptions
from wsgateway.messages import decode_json
from wsgateway.protocols.centrifuge.codes import ErrorCode

MAX_TIME = 2.0**53
"""The latest time at which a connection may expire, in seconds since the epoch."""


class ApiFailure(Exception):  # noqa: N818  it becomes the `error` of an answer
    """A method has failed with `code`. `detail` is for the log, because an answer has the text of the code only."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


class PublicationFields(NamedTuple):
    """The message of a publication, its options, and whether it is left out of the history."""

    message: object
    target: TargetOptions
    skip_history: bool


class Fields:
    """The fields of one command. Each method raises `ApiFailure` with `BAD_REQUEST` for a value of a wrong type.

    No value is in the text of an error, because it may be a secret.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def value(self, name: str) -> Any:
        """Return any JSON value, None if it is missing."""
        return self._values.get(name)

    def text(self, name: str) -> str:
        """Return text, empty if it is missing."""
        value = self._values.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise bad(f"{name}: use text")
        return value

    def flag(self, name: str) -> bool:
        """Return a boolean, False if it is missing."""
        value = self._values.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise bad(f"{name}: use true or false")
        return value

    def whole(self, name: str) -> int:
        """Return an integer, 0 if it is missing."""
        value = self._values.get(name)
        if value is None:
            return 0
        if isinstance(value, float) and value.is_integer():  # some languages write 5 as 5.0
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise bad(f"{name}: use a whole number")
        return value

    def time(self, name: str) -> float:
        """Return a time in seconds since the epoch, 0 if it is missing."""
        value = self._values.get(name)
        if value is None:
            return 0.0
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_TIME:
            raise bad(f"{name}: use a time in seconds since the epoch")
        assert math.isfinite(value)
        return float(value)

    def texts(self, name: str) -> list[str]:
        """Return a list of texts, empty if it is missing."""
        value = self._values.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise bad(f"{name}: use a list of texts")
        return value

    def inner(self, name: str) -> "Fields | None":
        """Return the fields of an object, None if it is missing."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise bad(f"{name}: use an object")
        return Fields(value)

    def position(self, name: str) -> tuple[str, int] | None:
        """Return the epoch and the offset of a position, None if it is missing."""
        fields = self.inner(name)
        if fields is None:
            return None
        offset = fields.whole("offset")
        if not 0 <= offset <= MAX_OFFSET:
            raise bad(f"{name}: the offset is out of range")
        return fields.text("epoch"), offset

    def binary(self, name: str) -> bytes | None:
        """Return bytes that are written in base64, None if they are missing or empty."""
        text = self.text(name)
        if not text:
            return None
        try:
            return b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise bad(f"{name}: use base64") from None

    def payload(self, name: str) -> object:
        """Return any JSON value, or bytes if there is a field with the prefix `b64`. None if both are missing."""
        binary = self.binary(f"b64{name}")
        return self._values.get(name) if binary is None else binary

    def json(self, name: str) -> object:
        """Return any JSON value, which the field with the prefix `b64` contains as text in base64."""
        binary = self.binary(f"b64{name}")
        if binary is None:
            return self._values.get(name)
        try:
            return decode_json(binary)
        except MessageError:
            raise bad(f"b64{name}: use the base64 of JSON") from None

    def publication(self) -> PublicationFields:
        """Return a publication, for any channel."""
        message, tags, key = self.payload("data"), self._values.get("tags"), self.text("idempotency_key")
        if message is None:
            raise bad("data: use a value other than null, or b64data")
        target = TargetOptions()
        if tags:  # PHP encodes an empty array as `[]`
            if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
                raise bad("tags: use an object of texts")
            target["tags"] = tags
        if key:
            target["idempotency_key"] = key
        return PublicationFields(message, target, self.flag("skip_history"))


def bad(detail: str) -> ApiFailure:
    """Return the failure of a command with a wrong field."""
    return ApiFailure(ErrorCode.BAD_REQUEST, detail)
