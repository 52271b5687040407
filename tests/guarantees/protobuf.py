"""The messages of the Centrifuge protocol in Protobuf, written and read by hand (protobuf.dev, "Encoding").

A message is a dict with the names of JSON. Payloads are JSON in UTF-8, as the clients of the suite send only text.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

Row = dict[str, Any]

VARINT, BYTES = 0, 2


class Field(NamedTuple):
    """`kind` is `number`, `flag`, `text`, `payload`, or the name of a message."""

    number: int
    kind: str
    is_repeated: bool = False
    is_map: bool = False


Messages = dict[str, dict[str, Field]]

MESSAGES: Messages = {
    "command": {
        "id": Field(1, "number"),
        "connect": Field(4, "connect_request"),
        "subscribe": Field(5, "subscribe_request"),
        "unsubscribe": Field(6, "channel_request"),
        "publish": Field(7, "publish_request"),
        "presence": Field(8, "channel_request"),
        "presence_stats": Field(9, "channel_request"),
        "send": Field(12, "send_request"),
        "rpc": Field(13, "rpc_request"),
    },
    "connect_request": {
        "token": Field(1, "text"),
        "data": Field(2, "payload"),
        "name": Field(4, "text"),
        "version": Field(5, "text"),
    },
    "subscribe_request": {
        "channel": Field(1, "text"),
        "token": Field(2, "text"),
        "recover": Field(3, "flag"),
        "epoch": Field(6, "text"),
        "offset": Field(7, "number"),
        "data": Field(8, "payload"),
        "flag": Field(14, "number"),
    },
    "channel_request": {"channel": Field(1, "text")},
    "publish_request": {"channel": Field(1, "text"), "data": Field(2, "payload")},
    "send_request": {"data": Field(1, "payload")},
    "rpc_request": {"data": Field(1, "payload"), "method": Field(2, "text")},
    "emulation_request": {"node": Field(1, "text"), "session": Field(2, "text"), "data": Field(3, "bytes")},
    "reply": {
        "id": Field(1, "number"),
        "error": Field(2, "error"),
        "push": Field(4, "push"),
        "connect": Field(5, "connect_result"),
        "subscribe": Field(6, "subscribe_result"),
        "unsubscribe": Field(7, "empty"),
        "publish": Field(8, "empty"),
        "presence": Field(9, "presence_result"),
        "presence_stats": Field(10, "presence_stats_result"),
        "rpc": Field(13, "rpc_result"),
    },
    "error": {"code": Field(1, "number"), "message": Field(2, "text"), "temporary": Field(3, "flag")},
    "push": {
        "channel": Field(2, "text"),
        "pub": Field(4, "publication"),
        "join": Field(5, "presence"),
        "leave": Field(6, "presence"),
        "unsubscribe": Field(7, "unsubscribe"),
        "subscribe": Field(9, "subscribe"),
        "disconnect": Field(11, "disconnect"),
    },
    "publication": {
        "data": Field(4, "payload"),
        "info": Field(5, "client_info"),
        "offset": Field(6, "number"),
        "tags": Field(7, "text", is_map=True),
    },
    "presence": {"info": Field(1, "client_info")},
    "client_info": {
        "user": Field(1, "text"),
        "client": Field(2, "text"),
        "conn_info": Field(3, "payload"),
        "chan_info": Field(4, "payload"),
    },
    "unsubscribe": {"code": Field(2, "number"), "reason": Field(3, "text")},
    "subscribe": {
        "recoverable": Field(1, "flag"),
        "epoch": Field(4, "text"),
        "offset": Field(5, "number"),
        "positioned": Field(6, "flag"),
        "data": Field(7, "payload"),
    },
    "disconnect": {"code": Field(1, "number"), "reason": Field(2, "text")},
    "connect_result": {
        "client": Field(1, "text"),
        "version": Field(2, "text"),
        "expires": Field(3, "flag"),
        "ttl": Field(4, "number"),
        "data": Field(5, "payload"),
        "subs": Field(6, "subscribe_result", is_map=True),
        "ping": Field(7, "number"),
        "pong": Field(8, "flag"),
        "session": Field(9, "text"),
        "node": Field(10, "text"),
    },
    "subscribe_result": {
        "expires": Field(1, "flag"),
        "ttl": Field(2, "number"),
        "recoverable": Field(3, "flag"),
        "epoch": Field(6, "text"),
        "publications": Field(7, "publication", is_repeated=True),
        "recovered": Field(8, "flag"),
        "offset": Field(9, "number"),
        "positioned": Field(10, "flag"),
        "data": Field(11, "payload"),
        "was_recovering": Field(12, "flag"),
    },
    "presence_result": {"presence": Field(1, "client_info", is_map=True)},
    "presence_stats_result": {"num_clients": Field(1, "number"), "num_users": Field(2, "number")},
    "rpc_result": {"data": Field(1, "payload")},
    "empty": {},
}


def varint(number: int) -> bytes:
    """Return `number` as a varint. A negative one has ten bytes, as that of an int64 has."""
    number %= 1 << 64
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def read_varint(data: bytes, at: int) -> tuple[int, int] | None:
    """Return the number at `at` and where it ends. None if it is not complete."""
    number = 0
    for place, byte in enumerate(data[at : at + 10]):
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return number, at + place + 1
    return None


def write(name: str, row: Row) -> bytes:
    data = b""
    for key, value in row.items():
        number, kind, _, _ = MESSAGES[name][key]
        if kind in ("number", "flag"):
            value = value if isinstance(value, int) else -1  # no number can be text here
            data += varint(number << 3 | VARINT) + varint(value)
            continue
        match kind:
            case "text":
                content = value.encode()
            case "payload":
                content = json.dumps(value).encode()
            case "bytes":
                content = value
            case _:
                content = write(kind, value)
        data += varint(number << 3 | BYTES) + varint(len(content)) + content
    return data


def _parts(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at) or (0, 0)
        value, at = read_varint(data, at) or (0, 0)
        assert tag & 7 in (VARINT, BYTES), data
        if tag & 7 == VARINT:
            yield tag >> 3, value
        else:
            assert at + value <= len(data)
            yield tag >> 3, data[at : at + value]
            at += value


def _value(kind: str, content: int | bytes) -> Any:
    if isinstance(content, int):
        assert kind in ("number", "flag")
        return bool(content) if kind == "flag" else content
    match kind:
        case "text":
            return content.decode()
        case "payload":
            return json.loads(content)
        case _:
            return read(kind, content)


def read(name: str, data: bytes) -> Row:
    fields = {field.number: (key, field) for key, field in MESSAGES[name].items()}
    row: Row = {}
    for number, content in _parts(data):
        assert number in fields, f"{name} has no field {number}"
        key, (_, kind, is_repeated, is_map) = fields[number]
        if is_map:
            assert isinstance(content, bytes)
            entry = dict(_parts(content))
            name_of_entry = entry[1]
            assert isinstance(name_of_entry, bytes)
            row.setdefault(key, {})[name_of_entry.decode()] = _value(kind, entry.get(2, b""))
        elif is_repeated:
            row.setdefault(key, []).append(_value(kind, content))
        else:
            row[key] = _value(kind, content)
    return row


class ProtobufCodec:
    name = "protobuf"
    is_binary = True
    content_type = "application/octet-stream"

    def encode(self, commands: Iterable[Row]) -> bytes:
        return b"".join(varint(len(data)) + data for data in (write("command", command) for command in commands))

    def decode(self, frame: bytes) -> list[Row]:
        rows, rest = self.split(frame)
        assert not rest
        return rows

    def split(self, data: bytes) -> tuple[list[Row], bytes]:
        rows, at = [], 0
        while (found := read_varint(data, at)) and found[1] + found[0] <= len(data):
            size, start = found
            at = start + size
            rows.append(read("reply", data[start:at]))
        return rows, data[at:]

    def emulate(self, session: str, node: str, frame: bytes) -> bytes:
        return write("emulation_request", {"node": node, "session": session, "data": frame})
