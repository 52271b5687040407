"""The protocol `wsgateway.v1`: one JSON object in each text message, in both directions. Knows no sockets.

A stream of newline-delimited JSON has the same objects, one in each line.
"""

from base64 import b64encode
from collections.abc import Mapping
from typing import Any, assert_never

from wsgateway.encoding import ENCODER
from wsgateway.exceptions import MessageError
from wsgateway.frames import (
    AcceptedFrame,
    CloseFrame,
    ExpiresFrame,
    Member,
    OpenFrame,
    Position,
    PresenceFrame,
    Publication,
    RefusedFrame,
    ReplyFrame,
    RequestFrame,
    SubscribedFrame,
    UnsubscribedFrame,
    check_event_name,
    check_request_name,
)
from wsgateway.hub.channel import Wanted
from wsgateway.messages import Kind, Message, decode_json
from wsgateway.protocols.commands import (
    Answer,
    Authenticate,
    ClientMessage,
    Command,
    Invoke,
    Malformed,
    Rejection,
    Subscribe,
    Unsubscribe,
)
from wsgateway.protocols.query import MAX_LAST
from wsgateway.text import short

SUBPROTOCOL = "wsgateway.v1"

MAX_IDENT = 2**53 - 1
"""The largest id of a command, which JavaScript can represent."""


class V1Encoding:
    """Encodes messages as the objects of `wsgateway.v1`."""

    def content(self, message: Message) -> str | None:
        return _object_of(message)


def json_of(message: Message, key: str) -> str:
    """Return `message` as a member of a JSON object: `"KEY":…`, or `"base64":"…"` for bytes."""
    match message.kind:
        case Kind.JSON:
            return f'"{key}":{message.payload.decode()}'
        case Kind.TEXT:
            return f'"{key}":{text_of(message.payload.decode())}'
        case Kind.BYTES:
            return f'"base64":"{b64encode(message.payload).decode()}"'
        case _:
            assert_never(message.kind)


def text_of(value: object) -> str:
    """Return `value` as JSON text."""
    return ENCODER.encode(value)


def member_of(member: Member) -> str:
    return text_of(member.fields())


def subscribed_of(frame: SubscribedFrame) -> str:
    """Return the members of the `subscribed` object, except the channel."""
    parts = [f'"recovered":{"true" if frame.recovered else "false"}']
    if frame.at is not None:
        parts.insert(0, f'"at":"{frame.at}"')
    if frame.reply is not None:
        parts.append(json_of(frame.reply, "reply"))
    if frame.members is not None:
        parts.append(f'"members":{frame.members.decode()}')
    return ",".join(parts)


def _object_of(message: Message) -> str | None:
    match message:
        case Publication():
            return "{" + _publication(message) + "}"
        case SubscribedFrame():
            parts = f'"subscribed":{text_of(message.channel)},{subscribed_of(message)}'
        case UnsubscribedFrame():
            parts = (
                f'"unsubscribed":{text_of(message.channel)},"code":{message.code},"reason":{text_of(message.reason)}'
            )
        case RefusedFrame():
            parts = f'"refused":{text_of(message.channel)},"status":{message.status},"reason":{text_of(message.reason)}'
        case ReplyFrame():
            parts = '"reply":null' if message.reply is None else _answer_of(message.reply, "reply")
        case RequestFrame():
            name = f',"name":{text_of(message.name)}' if message.name else ""
            parts = _answer_of(message.message, "request") + name
        case AcceptedFrame():
            at = "" if message.at is None else f',"at":"{message.at}"'
            return f'{{"id":{message.ident}{at}}}'
        case PresenceFrame():
            what = "left" if message.has_left else "joined"
            return f'{{"channel":{text_of(message.channel)},"{what}":{member_of(message.member)}}}'
        case ExpiresFrame():
            parts = f'"expires":{"null" if message.seconds is None else message.seconds}'
        case OpenFrame():
            return text_of({"open": {"id": message.conn_id, "session": message.secret}})
        case CloseFrame():
            return text_of({"close": message.fields()})
        case _:
            name = f',"name":{text_of(message.name)}' if message.name else ""
            return "{" + json_of(message, "message") + name + "}"
    return "{" + parts + ("" if message.ident is None else f',"id":{message.ident}') + "}"


def _answer_of(message: Message, key: str) -> str:
    """Return `message` as `json_of` does. Bytes follow `"KEY":null`, so that the object still shows what it is."""
    return f'"{key}":null,{json_of(message, key)}' if message.kind is Kind.BYTES else json_of(message, key)


def _publication(message: Publication) -> str:
    parts = [f'"channel":{text_of(message.channel)}', json_of(message, "message")]
    if message.position is not None:
        parts.append(f'"at":"{message.position}"')
    if message.name:
        parts.append(f'"name":{text_of(message.name)}')
    if message.key:
        parts.append(f'"key":{text_of(message.key)}')
    if message.tags:
        parts.append(f'"tags":{text_of(dict(message.tags))}')
    if message.sender is not None:
        parts.append(f'"from":{member_of(message.sender)}')
    return ",".join(parts)


# What a client sends

_KEYS = {
    "message": {"message", "channel", "name", "id"},
    "subscribe": {"subscribe", "since", "last", "data", "id"},
    "unsubscribe": {"unsubscribe", "id"},
    "token": {"token", "since", "id"},
    "request": {"request", "id", "name"},
    "reply": {"reply", "id"},
    "refused": {"refused", "id", "status", "reason"},
}
_ANSWERS = {"reply", "refused"}
"""The keys of answers to requests of the server, whose ids are those of the server."""


def read_command(text: str) -> Command:
    """Return the command in `text`, or `Malformed` if it is not a valid one."""
    try:
        value = decode_json(text.encode())
    except (MessageError, UnicodeEncodeError) as exc:
        return Malformed(str(exc).replace("the body", "the command"))
    if not isinstance(value, dict):
        return Malformed("a command is a JSON object")
    ident = value.get("id")
    if ident is not None and not is_whole(ident):
        return Malformed("id: use a whole number")
    verbs = [verb for verb in _KEYS if verb in value]
    if not _ANSWERS.isdisjoint(verbs):
        return _answer(value, verbs, ident)
    named = next(
        (value[key] for key in ("channel", "subscribe", "unsubscribe") if isinstance(value.get(key), str)), None
    )
    if len(verbs) != 1:
        keys = "message, request, subscribe, unsubscribe, and token"
        return Malformed(f"a command has exactly one of the keys {keys}", named, ident)
    unknown = sorted(value.keys() - _KEYS[verbs[0]])
    if unknown:
        return Malformed(f"{short(unknown[0])} does not belong to this command", named, ident)
    try:
        match verbs[0]:
            case "message":
                return _message(value, ident)
            case "subscribe":
                return _subscribe(value, ident)
            case "unsubscribe":
                return Unsubscribe(_channel(value["unsubscribe"]), ident)
            case "request":
                return _request(value, ident)
            case _:
                return _token(value, ident)
    except (ValueError, TypeError) as exc:
        return Malformed(str(exc), named, ident)


def is_whole(value: object) -> bool:
    """Return whether `value` is a whole number that JavaScript can represent."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_IDENT


def _channel(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a channel is text, and not empty")
    return value


def _message(value: Mapping[str, Any], ident: int | None) -> ClientMessage:
    name = value.get("name", "")
    check_event_name(name)
    channel = _channel(value["channel"]) if "channel" in value else ""
    return ClientMessage(value["message"], channel, name, ident)


def _subscribe(value: Mapping[str, Any], ident: int | None) -> Subscribe:
    since, last = value.get("since"), value.get("last")
    position = Position.parse(since) if isinstance(since, str) else None
    if last is not None and (isinstance(last, bool) or not isinstance(last, int) or last < 0):
        raise ValueError("last: use a whole number")
    wanted = Wanted(
        _channel(value["subscribe"]),
        position,
        since is not None and position is None,
        None if last is None else min(last, MAX_LAST),
        ident,
    )
    return Subscribe(wanted, value.get("data", ""))


def _request(value: Mapping[str, Any], ident: int | None) -> Invoke:
    name = value.get("name", "")
    check_request_name(name)
    if ident is None:
        raise ValueError("a request has an id, which its answer contains, too")
    return Invoke(value["request"], name, ident)


def _answer(value: Mapping[str, Any], verbs: list[str], ident: int | None) -> Answer | Rejection | Malformed:
    """Return an answer to a request of the server. If it is malformed, it has no id, which may be that of a command."""
    unknown = sorted(value.keys() - _KEYS[verbs[0]])
    if ident is None or unknown:
        wrong = f"{short(unknown[0])} does not belong to it" if unknown else "it has the id of the request"
        return Malformed(f"an answer has one of the keys reply and refused: {wrong}")
    if verbs[0] == "reply":
        return Answer(value["reply"], ident)
    status, reason = value.get("status", 0), value.get("reason", "")
    if not is_whole(status) or not isinstance(reason, str):
        return Malformed("refused: use a whole number as status, and text as reason")
    return Rejection(status, reason, ident)


def _token(value: Mapping[str, Any], ident: int | None) -> Authenticate:
    token, since = value["token"], value.get("since", [])
    if not isinstance(token, str):
        raise ValueError("token: use text")
    if not isinstance(since, list) or not all(isinstance(item, str) for item in since):
        raise ValueError("since: use a list of text")
    return Authenticate(token, tuple(since), ident)
