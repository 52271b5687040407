"""The commands of a Centrifuge client, and the frames of JSON that contain them. Knows no connections."""

import re
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from wsgateway.exceptions import MessageError
from wsgateway.frames import MAX_OFFSET, Position
from wsgateway.messages import MAX_DEPTH, decode_json

MAX_IDENT = 2**32 - 1
"""The largest id of a command."""

NO_DATA = Raw(b"")


class FrameError(ValueError):
    """A frame that cannot be read. The client is closed."""


class Recovery(Struct, frozen=True):
    """The position of a server-side subscription that the client had."""

    recover: bool = False
    epoch: str = ""
    offset: int = 0


class Connect(Struct, frozen=True):
    token: str = ""
    data: Raw = NO_DATA
    name: str = ""
    version: str = ""
    headers: dict[str, str] = {}
    subs: dict[str, Recovery] = {}


class Subscribe(Struct, frozen=True):
    """A request to subscribe. `type`, `tf`, and `flag` are read in order to refuse what is not supported."""

    channel: str = ""
    token: str = ""
    data: Raw = NO_DATA
    recover: bool = False
    epoch: str = ""
    offset: int = 0
    flag: int = 0
    type: int = 0
    tf: Raw = NO_DATA


class Unsubscribe(Struct, frozen=True):
    channel: str = ""


class Publish(Struct, frozen=True):
    channel: str = ""
    data: Raw = NO_DATA
    type: int = 0


class Send(Struct, frozen=True):
    data: Raw = NO_DATA


class Rpc(Struct, frozen=True):
    method: str = ""
    data: Raw = NO_DATA


class Presence(Struct, frozen=True):
    channel: str = ""


class PresenceStats(Struct, frozen=True):
    channel: str = ""


class Since(Struct, frozen=True):
    offset: int = 0
    epoch: str = ""


class History(Struct, frozen=True):
    channel: str = ""
    limit: int = 0
    since: Since | None = None
    reverse: bool = False


class Refresh(Struct, frozen=True):
    token: str = ""


class SubRefresh(Struct, frozen=True):
    channel: str = ""
    token: str = ""
    type: int = 0


class Ping(Struct, frozen=True):
    pass


Request = (
    Connect
    | Subscribe
    | Unsubscribe
    | Publish
    | Send
    | Rpc
    | Presence
    | PresenceStats
    | History
    | Refresh
    | SubRefresh
    | Ping
)

METHODS: dict[str, type[Request]] = {
    "connect": Connect,
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "publish": Publish,
    "send": Send,
    "rpc": Rpc,
    "presence": Presence,
    "presence_stats": PresenceStats,
    "history": History,
    "refresh": Refresh,
    "sub_refresh": SubRefresh,
    "ping": Ping,
}


class Command(NamedTuple):
    """One command of a frame.

    `ident` is 0 for the commands without an id: `send`, and the pong, whose `method` is empty. `request` is None if
    the method is unknown, or, with `is_malformed`, if the fields are wrong. `size` is in bytes.
    """

    ident: int
    method: str
    request: Request | None
    size: int
    is_malformed: bool = False


class Payload(NamedTuple):
    """The data of a command: the decoded `value`, and its JSON text `source`, None for bytes."""

    value: Any
    source: bytes | None


PONG = Command(0, "", None, 2)

_DECODERS = {method: msgspec.json.Decoder(request) for method, request in METHODS.items()}
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_VALUE = msgspec.json.Decoder()
_IDENT = msgspec.json.Decoder(int)

_FIRST_KEYS = re.compile(rb'\s*\{\s*(?:"id"\s*:\s*(\d{1,10})\s*,\s*)?"(\w{1,20})"\s*:')
_LAST_KEY = re.compile(rb',\s*"id"\s*:\s*(\d{1,10})\s*\}\s*\Z')


def read_frame(data: str | bytes) -> list[Command]:
    """Return the commands of a frame: JSON objects, separated by line feeds. Raise `FrameError`."""
    try:
        frame = data.encode() if isinstance(data, str) else data
    except UnicodeEncodeError as exc:
        raise FrameError("a frame is UTF-8") from exc
    if b"\n" not in frame and frame:
        return [_read(frame)]
    return [_read(line) for line in frame.split(b"\n") if line and not line.isspace()]


def _read(line: bytes) -> Command:
    try:
        fields = _OBJECT.decode(line)
        ident = _IDENT.decode(fields.pop("id", b"0"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        command = _read_without_payload(line)
        if command is None:
            raise FrameError("a command is a JSON object") from exc
        return command
    methods = [*fields] if len(fields) == 1 else [name for name in fields if name in METHODS]
    if not 0 <= ident <= MAX_IDENT:
        raise FrameError("the id of a command is out of range")
    if not ident and not fields:
        return PONG
    if not ident and methods != ["send"]:
        raise FrameError("a command needs an id")
    if len(methods) != 1:
        return Command(ident, "", None, len(line), is_malformed=bool(methods))
    method = methods[0]
    try:
        request = _DECODERS[method].decode(fields[method])
    except KeyError:
        return Command(ident, "", None, len(line))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Command(ident, method, None, len(line), is_malformed=True)
    return Command(ident, method, request, len(line))


def _read_without_payload(line: bytes) -> Command | None:
    """Return the command in `line` if only its data cannot be read: it has a lone surrogate, or is nested too deeply.

    Such data is answered with an error, and does not close the connection, because a page may cut a text in the middle
    of an emoji.
    """
    try:
        decode_json(line)
    except MessageError as exc:
        first, last = _FIRST_KEYS.match(line), _LAST_KEY.search(line[-40:])
        if not isinstance(exc.__cause__, UnicodeEncodeError | RecursionError) or first is None:
            return None
    else:
        return None
    ident, method = int(first[1] or (last[1] if last else 0)), first[2].decode()
    if not line.rstrip().endswith(b"}") or ident > MAX_IDENT or not (ident or method == "send"):
        return None
    return Command(ident, method, None, len(line), is_malformed=True)


def payload_of(data: Raw | bytes) -> Payload | None:
    """Return the payload of a command, None without one. `data` is JSON text, or the bytes of a Protobuf client.

    Bytes that are the text of a JSON value are that value. Raise `MessageError` if the text of a JSON client is not
    valid by the rules of `decode_json`.
    """
    text = bytes(data)
    if not text or text == b"null":
        return None
    try:
        value = _decoded(text)
    except MessageError:
        if isinstance(data, bytes):
            return Payload(data, None)
        raise
    if b"\n" in text or b"\r" in text:  # in valid JSON only between tokens
        text = text.replace(b"\n", b" ").replace(b"\r", b" ")
    return None if value is None else Payload(value, text)


def _decoded(text: bytes) -> Any:
    """Return the JSON value in `text`, as `decode_json` does.

    msgspec is faster, and accepts less, except that it allows deeper nesting.
    """
    try:
        value = _VALUE.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return decode_json(text)
    return value if text.count(b"[") + text.count(b"{") <= MAX_DEPTH else decode_json(text)


def position_of(epoch: str, offset: int) -> Position | None:
    """Return the position that a client sends, None if no channel can have it."""
    if not 0 <= offset <= MAX_OFFSET:
        return None
    return Position.parse(f"{epoch}:{offset}")
