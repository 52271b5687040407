"""The Centrifuge protocol in Protobuf: equal to what the generated module and the JSON encoding make."""

import json
import subprocess
import sys
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from hypothesis import given
from hypothesis import strategies as st

from wsgateway.frames import (
    CloseFrame,
    Member,
    Position,
    PresenceFrame,
    Publication,
    RefusedFrame,
    SubscribedFrame,
    UnsubscribedFrame,
)
from wsgateway.messages import Kind, Message, encode
from wsgateway.protocols.centrifuge import client_pb2 as schema
from wsgateway.protocols.centrifuge import commands
from wsgateway.protocols.centrifuge.codes import ErrorCode
from wsgateway.protocols.centrifuge.commands import PONG, Command, FrameError, Payload, payload_of
from wsgateway.protocols.centrifuge.json import JsonEncoding
from wsgateway.protocols.centrifuge.protobuf import ProtobufEncoding, read_emulation, read_frame, varint
from wsgateway.protocols.centrifuge.replies import PING, Reply

ENCODING = ProtobufEncoding("all")


def with_length(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return varint(len(data)) + data


def content_of(message: Message | None, encoding: ProtobufEncoding = ENCODING) -> bytes:
    assert message is not None
    content = encoding.content(message)
    assert content is not None
    return content


def replies_in(content: bytes) -> list[Any]:
    """Return the replies in `content`, as a client reads them."""
    replies = []
    while content:
        size = shift = 0
        while True:
            digit, content = content[0], content[1:]
            size |= (digit & 0x7F) << shift
            shift += 7
            if digit < 0x80:
                break
        assert size <= len(content)
        replies.append(schema.Reply.FromString(content[:size]))
        content = content[size:]
    return replies


def fields_of(reply: Reply) -> Any:
    """Return what a client reads of `reply`, as a dict."""
    (read,) = replies_in(content_of(reply))
    return MessageToDict(read, preserving_proto_field_name=True)


# What the client receives

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner, max_size=3))

MESSAGES = st.one_of(
    st.binary().map(lambda data: Message(data, Kind.BYTES)),
    st.binary(min_size=100, max_size=40_000).map(lambda data: Message(data, Kind.BYTES)),
    TEXT.map(lambda text: Message(text.encode(), Kind.TEXT)),
    JSON.map(lambda value: Message(json.dumps(value).encode(), Kind.JSON)),
)
MEMBERS = st.builds(Member, TEXT, TEXT, JSON, JSON)


def text_of(message: Message) -> bytes:
    if message.kind is Kind.TEXT:
        return json.dumps(message.payload.decode(), ensure_ascii=False).encode()
    return message.payload


def info_of(member: Member) -> Any:
    infos = {
        name: json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        for name, value in (("conn_info", member.conn_info), ("chan_info", member.info))
        if value is not None
    }
    return schema.ClientInfo(user=member.user, client=member.id, **infos)


@given(
    message=MESSAGES,
    channel=TEXT.filter(len),
    name=TEXT,
    tags=st.none() | st.dictionaries(TEXT, TEXT, max_size=1),
    sender=st.none() | MEMBERS,
    offset=st.none() | st.integers(0, 2**63 - 1),
)
def test_a_publication_is_what_the_generated_module_makes(
    message: Message, channel: str, name: str, tags: dict[str, str] | None, sender: Member | None, offset: int | None
) -> None:
    publication = Publication(message, channel, name=name, tags=tags, sender=sender)
    if offset is not None:
        publication.position = Position("epoch", offset)
    pub = schema.Publication(
        data=text_of(message),
        info=None if sender is None else info_of(sender),
        offset=offset or 0,
        tags={**(tags or {}), **({"name": name} if name else {})},
    )
    expected = schema.Reply(push=schema.Push(channel=channel, pub=pub))
    content = content_of(publication)
    assert replies_in(content) == [expected]
    if len(pub.tags) < 2:  # the order of a map is not defined
        assert content == with_length(expected)


def test_a_message_without_a_channel_is_pushed_in_the_channel_for_broadcasts() -> None:
    expected = schema.Reply(push=schema.Push(channel="all", pub=schema.Publication(data=b'"hi"')))
    assert content_of(encode("hi")) == with_length(expected)


def test_without_a_channel_for_broadcasts_only_publications_are_carried() -> None:
    encoding, message = ProtobufEncoding(""), Message(b"\xff", Kind.BYTES)
    assert not encoding.carries(message)
    assert encoding.content(message) is None
    assert encoding.carries(Publication(message, "room"))


def test_bytes_are_carried() -> None:
    assert ENCODING.carries(Message(b"\xff\x00", Kind.BYTES))
    (reply,) = replies_in(content_of(encode(b"\xff\x00")))
    assert reply.push.pub.data == b"\xff\x00"


def test_a_ping_is_an_empty_message() -> None:
    assert content_of(PING) == b"\x00"


@pytest.mark.parametrize("method", sorted(commands.METHODS.keys() - {"send"}))
def test_an_empty_result_is_present(method: str) -> None:
    assert fields_of(Reply(3, method, {})) == {"id": 3, method: {}}


def test_an_error_has_its_code_and_its_message() -> None:
    assert fields_of(Reply.error(7, ErrorCode.INTERNAL)) == {
        "id": 7,
        "error": {"code": 100, "message": "internal server error", "temporary": True},
    }


def test_a_result_contains_maps_lists_and_payloads() -> None:
    publication = Publication(Message(b'{"a": 1}', Kind.JSON), "room", name="n", sender=Member("c", "u", info=[1]))
    publication.position = Position("e", 8)
    subscription = {
        "recoverable": True,
        "epoch": "e",
        "offset": 2**53,
        "publications": [publication],
        "data": encode(b"\xff"),
    }
    result = {"client": "c", "ping": 25, "pong": True, "subs": {"all": {}, "room": subscription}, "session": "s"}
    (reply,) = replies_in(content_of(Reply(1, "connect", result)))
    expected = schema.Reply(
        id=1,
        connect=schema.ConnectResult(
            client="c",
            ping=25,
            pong=True,
            session="s",
            subs={
                "all": schema.SubscribeResult(),
                "room": schema.SubscribeResult(
                    recoverable=True,
                    epoch="e",
                    offset=2**53,
                    data=b"\xff",
                    publications=[
                        schema.Publication(
                            data=b'{"a": 1}',
                            offset=8,
                            tags={"name": "n"},
                            info=schema.ClientInfo(user="u", client="c", chan_info=b"[1]"),
                        )
                    ],
                ),
            },
        ),
    )
    assert reply == expected


def test_a_presence_is_a_map_of_members() -> None:
    assert fields_of(Reply(2, "presence", {"presence": {"c": {"user": "u", "client": "c"}}})) == {
        "id": 2,
        "presence": {"presence": {"c": {"user": "u", "client": "c"}}},
    }
    assert fields_of(Reply(2, "presence", {"presence": {}})) == {"id": 2, "presence": {}}


@pytest.mark.parametrize(
    ("frame", "channel", "push"),
    [
        (PresenceFrame("r", Member("c", "u"), has_left=False), "r", {"join": {"info": {"user": "u", "client": "c"}}}),
        (PresenceFrame("r", Member("c", "u"), has_left=True), "r", {"leave": {"info": {"user": "u", "client": "c"}}}),
        (UnsubscribedFrame("r", 2500, ""), "r", {"unsubscribe": {"code": 2500, "reason": "insufficient state"}}),
        (SubscribedFrame("r", at=None, recovered=False), "r", {"subscribe": {}}),
        (CloseFrame(3001, "shutdown"), None, {"disconnect": {"code": 3001, "reason": "shutdown"}}),
    ],
)
def test_a_notification_is_a_push(frame: Message, channel: str | None, push: dict[str, Any]) -> None:
    (reply,) = replies_in(content_of(frame))
    expected = push if channel is None else {"channel": channel, **push}
    assert MessageToDict(reply, preserving_proto_field_name=True) == {"push": expected}
    assert json.loads(JsonEncoding("all").content(frame) or "") == {"push": expected}


def test_a_notification_of_another_protocol_is_not_written() -> None:
    assert ENCODING.content(RefusedFrame("r", 403, "no")) is None


# What the client sends

COMMANDS: list[dict[str, Any]] = [
    {"id": 1, "connect": {}},
    {
        "id": 2,
        "connect": {
            "token": "t",
            "data": {"a": 1},
            "name": "js",
            "version": "5.8",
            "headers": {"a": "b"},
            "subs": {"room": {"recover": True, "epoch": "e", "offset": 2**63}, "other": {}},
        },
    },
    {"id": 3, "subscribe": {"channel": "r", "token": "t", "recover": True, "epoch": "e", "offset": 5, "flag": 3}},
    {"id": 4, "subscribe": {"channel": "r", "type": 4, "data": "text", "positioned": True, "delta": "fossil"}},
    {"id": 4, "subscribe": {"channel": "r", "tf": {}}},
    {"id": 5, "unsubscribe": {"channel": "r"}},
    {"id": 2**32 - 1, "publish": {"channel": "r", "data": [1, {"b": "ü"}]}},
    {"id": 6, "publish": {"channel": "r", "data": 5, "type": 1}},
    {"id": 6, "publish": {"channel": "r"}},
    {"send": {"data": {"a": True}}},
    {"id": 7, "rpc": {"method": "sum", "data": {"a": None}}},
    {"id": 8, "rpc": {}},
    {"id": 9, "presence": {"channel": "r"}},
    {"id": 10, "presence_stats": {"channel": "r"}},
    {"id": 11, "history": {"channel": "r", "limit": -1, "reverse": True}},
    {"id": 11, "history": {"channel": "r", "limit": 10, "since": {"offset": 7, "epoch": "e"}}},
    {"id": 11, "history": {"channel": "r", "since": {}}},
    {"id": 12, "refresh": {"token": "t"}},
    {"id": 13, "sub_refresh": {"channel": "r", "token": "t", "type": 1}},
    {"id": 14, "ping": {}},
    {},
    {"id": 15, "connect": {}, "publish": {"channel": "r"}},  # two methods
    {"id": 16},
]


def in_protobuf(command: dict[str, Any]) -> bytes:
    """Return `command` as a Protobuf client sends it, whose data is JSON text."""
    fields = {
        method: {key: value for key, value in request.items() if key != "data"} if method != "id" else request
        for method, request in command.items()
    }
    message = ParseDict(fields, schema.Command())
    for method, request in command.items():
        if method != "id" and "data" in request:
            getattr(message, method).data = json.dumps(request["data"]).encode()
    return with_length(message)


def comparable(command: Command) -> Any:
    """Return `command` with the payload in place of its data, and without its size, which differs."""
    request = command.request
    payload = payload_of(request.data) if request is not None and hasattr(request, "data") else None
    fields = {
        name: getattr(request, name) for name in getattr(request, "__struct_fields__", ()) if name not in ("data", "tf")
    }
    has_filter = bool(bytes(getattr(request, "tf", b"")))
    return command._replace(request=None, size=0), type(request), fields, payload, has_filter


@pytest.mark.parametrize("command", COMMANDS, ids=json.dumps)
def test_a_command_is_the_same_in_json_and_in_protobuf(command: dict[str, Any]) -> None:
    (from_json,) = commands.read_frame(json.dumps(command))
    (from_protobuf,) = read_frame(in_protobuf(command))
    assert comparable(from_protobuf) == comparable(from_json)


@given(st.lists(st.sampled_from(COMMANDS)))
def test_a_frame_contains_commands_in_order(sent: list[dict[str, Any]]) -> None:
    frame = b"".join(map(in_protobuf, sent))
    assert [comparable(command) for command in read_frame(frame)] == [
        comparable(command) for item in sent for command in commands.read_frame(json.dumps(item))
    ]


@given(channel=TEXT, value=JSON.filter(lambda value: value is not None), ident=st.integers(1, 2**32 - 1))
def test_a_publication_of_a_client_is_the_same_in_json_and_in_protobuf(channel: str, value: Any, ident: int) -> None:
    command = {"id": ident, "publish": {"channel": channel, "data": value}}
    (from_json,) = commands.read_frame(json.dumps(command))
    (from_protobuf,) = read_frame(in_protobuf(command))
    assert comparable(from_protobuf) == comparable(from_json)


def test_the_size_of_a_command_is_that_of_its_message() -> None:
    assert [command.size for command in read_frame(in_protobuf({"id": 1, "ping": {}}) * 2)] == [4, 4]


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        (b'{"a": 1}', Payload({"a": 1}, b'{"a": 1}')),
        (b'{"a":\r\n1}', Payload({"a": 1}, b'{"a":  1}')),
        (b"\xff\xfe", Payload(b"\xff\xfe", None)),
        (b"hello", Payload(b"hello", None)),
        (b'"a\nb"', Payload(b'"a\nb"', None)),
        (b"1e999", Payload(b"1e999", None)),
        (b"NaN", Payload(b"NaN", None)),
        (b"9" * 5000, Payload(b"9" * 5000, None)),
        (b"[" * 100_000, Payload(b"[" * 100_000, None)),
        (b"[" * 300 + b"]" * 300, Payload(b"[" * 300 + b"]" * 300, None)),
        (b'"\\ud800"', Payload(b'"\\ud800"', None)),
        (b"", None),
        (b"null", None),
        (b" null\n", None),
        (b"false", Payload(False, b"false")),
    ],
)
def test_data_is_the_json_value_in_it_or_bytes(data: bytes, payload: Payload | None) -> None:
    assert payload_of(data) == payload


HOSTILE = {
    "a length without an end": b"\x80",
    "an endless length": b"\xff" * 100,
    "a length of 2^64": b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02",
    "a length of 2^63": b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    "an overlong length": b"\x84\x80\x80\x80\x80\x00\x08\x01\x5a\x00",
    "a length beyond the frame": b"\x05\x08\x01\x5a\x00",
    "a length of 4 GB": b"\xff\xff\xff\xff\x0f\x08\x01",
    "a command after which half a length follows": b"\x04\x08\x01\x5a\x00\x80",
    "JSON": b'{"id":1,"connect":{}}',
    "a truncated field": b"\x03\x08\x01\x5a",
    "a truncated message": b"\x04\x08\x01\x5a\x09",
    "a tag of zero": b"\x02\x00\x00",
    "the end of a group": b"\x01\x0c",
    "a group without an end": b"\x01\x0b",
    "the wire type 7": b"\x02\x0f\x00",
    "a varint of eleven bytes in a field": b"\x0c\x08" + b"\x80" * 10 + b"\x01",
    "a text that is not UTF-8": b"\x07\x08\x01\x32\x03\x0a\x01\xff",
    "a text with half of a surrogate pair": b"\x09\x08\x01\x32\x05\x0a\x03\xed\xa0\x80",
    "no id": b"\x02\x22\x00",
    "no id, and two methods": b"\x04\x62\x00\x22\x00",
    "only an unknown field": b"\x03\x98\x06\x01",
    "an id of zero": b"\x04\x08\x00\x5a\x00",
}


@pytest.mark.parametrize("frame", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_frame_that_cannot_be_read_is_an_error(frame: bytes) -> None:
    with pytest.raises(FrameError):
        read_frame(frame)


def test_a_text_frame_is_an_error() -> None:
    with pytest.raises(FrameError):
        read_frame('{"id":1,"connect":{}}')


def test_a_filter_that_is_nested_too_deep_is_an_error() -> None:
    node = b""
    for _ in range(10_000):
        node = b"\x32" + varint(len(node)) + node
    request = b"\x0a\x01r\x6a" + varint(len(node)) + node
    command = b"\x08\x01\x2a" + varint(len(request)) + request
    with pytest.raises(FrameError):
        read_frame(varint(len(command)) + command)


@given(st.binary())
def test_any_bytes_are_read_or_refused(frame: bytes) -> None:
    try:
        read = read_frame(frame)
    except FrameError:
        return
    assert all(isinstance(command, Command) for command in read)


def test_an_empty_frame_contains_nothing() -> None:
    assert read_frame(b"") == []


def test_an_empty_message_is_a_pong() -> None:
    assert read_frame(b"\x00\x00") == [PONG, PONG]


def test_unknown_fields_are_ignored() -> None:
    request = schema.UnsubscribeRequest(channel="r").SerializeToString() + b"\x98\x06\x01"
    command = b"\x08\x01\x32" + varint(len(request)) + request + b"\x9a\x06\x02hi"
    (read,) = read_frame(varint(len(command)) + command)
    assert (read.ident, read.request) == (1, commands.Unsubscribe("r"))


def test_a_command_whose_method_is_unknown_has_no_method() -> None:
    command = b"\x08\x01\x9a\x06\x00"
    assert read_frame(varint(len(command)) + command) == [Command(1, "", None, 5)]


def test_the_body_of_an_emulation_is_read() -> None:
    body = schema.EmulationRequest(node="n", session="s", data=b"\x00").SerializeToString()
    assert read_emulation(body) == ("n", "s", b"\x00")
    assert read_emulation(b"") == ("", "", b"")
    with pytest.raises(FrameError):
        read_emulation(b'{"session": "s"}')


# The generated module

OURS, THEIRS = "wsgateway.protocols.centrifuge.client_pb2", "centrifuge.protocol.client_pb2"


@pytest.mark.parametrize("modules", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours first", "theirs first"])
def test_the_module_and_that_of_centrifuge_python_can_be_imported_together(modules: tuple[str, str]) -> None:
    code = f"import {modules[0]}, {modules[1]}; print('imported')"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("imported\n", "")


def test_what_both_modules_know_is_the_same_on_the_wire() -> None:
    from centrifuge.protocol import client_pb2 as theirs

    for name, message in theirs.DESCRIPTOR.message_types_by_name.items():
        ours = schema.DESCRIPTOR.message_types_by_name[name].fields_by_name
        for field, their_field in message.fields_by_name.items():
            assert (ours[field].number, ours[field].type) == (their_field.number, their_field.type)
