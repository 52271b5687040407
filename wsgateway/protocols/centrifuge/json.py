"""Writes what a Centrifuge client receives as JSON: one object for each reply and each push. Knows no sockets."""

from typing import Any

import msgspec

from wsgateway.encoding import ENCODER
from wsgateway.frames import CloseFrame, Publication
from wsgateway.messages import Kind, Message
from wsgateway.protocols.centrifuge.replies import PingFrame, client_info, push_of, reply_of, tags_of

_TEXT = ENCODER.encode
_BYTES = Kind.BYTES


class JsonEncoding:
    """Writes replies and pushes as JSON. Implements `transports.framing.Encoding`."""

    def __init__(self, channel: str) -> None:
        """`channel` contains what is sent without a channel; if it is empty, clients do not receive that."""
        self._channel = channel
        self._broadcast = "" if not channel else _prefix(channel)

    def carries(self, message: Message) -> bool:
        """Return whether a client can receive `message` of the application."""
        return message.kind is not _BYTES and (isinstance(message, Publication) or bool(self._broadcast))

    def content(self, message: Message) -> str | None:
        if message.is_control:
            return _control(message, self._channel)
        if not self.carries(message):
            return None
        if not isinstance(message, Publication):
            tags = "" if not message.name else f',"tags":{_TEXT({"name": message.name})}'
            return f"{self._broadcast}{json_text(message)}{tags}}}}}}}"
        return f"{_prefix(message.channel)}{_fields_of(message)}}}}}}}"


def _prefix(channel: str) -> str:
    """Return the beginning of the push of a publication, up to its data."""
    return f'{{"push":{{"channel":{_TEXT(channel)},"pub":{{"data":'


def _fields_of(publication: Publication) -> str:
    """Return the fields of a publication, from the value of the first one, `data`."""
    fields = json_text(publication)
    if publication.sender is not None:
        fields += f',"info":{msgspec.json.encode(_plain(client_info(publication.sender))).decode()}'
    if publication.position is not None:
        fields += f',"offset":{publication.position.offset}'
    if publication.name or publication.tags:
        fields += f',"tags":{_TEXT(dict(tags_of(publication) or {}))}'
    return fields


def json_text(message: Message) -> str:
    """Return the JSON of a message that is not bytes. It has no line breaks, which would end a line or an event."""
    text = message.payload.decode()
    if message.kind is Kind.TEXT:
        return _TEXT(text)
    if "\n" in text or "\r" in text:  # in valid JSON only between tokens
        text = text.replace("\r", " ").replace("\n", " ")
    return text


def _control(message: Message, channel: str) -> str | None:
    reply = reply_of(message)
    if reply is not None:
        ident, method, result = reply
        data = result.get("data")
        if len(result) == 1 and isinstance(data, Message) and data.kind is not _BYTES:  # of an `rpc`, for speed
            return f'{{"id":{ident},"{method}":{{"data":{json_text(data)}}}}}'
        return _object({"id": ident, method: result})
    if isinstance(message, PingFrame):
        return "{}"
    if isinstance(message, CloseFrame):
        return _object({"push": {"disconnect": {"code": message.code, "reason": message.reason}}})
    push = push_of(message, channel)
    if push is None:
        return None
    channel, kind, fields = push
    return _object({"push": {"channel": channel, kind: fields}})


def _object(fields: dict[str, Any]) -> str:
    return msgspec.json.encode(_plain(fields)).decode()


def _plain(value: Any) -> Any:
    """Return `value` with the JSON of each message, without those that are bytes."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items() if not _is_bytes(item)}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Publication):
        return msgspec.Raw(f'{{"data":{_fields_of(value)}}}'.encode())
    if isinstance(value, Message):
        return msgspec.Raw(json_text(value).encode())
    return value


def _is_bytes(value: object) -> bool:
    return isinstance(value, Message) and value.kind is _BYTES
