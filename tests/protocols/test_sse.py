"""How messages look as Server-Sent Events, read by a parser that does what a browser does, and the ids of a stream."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.streams import EventParser, ServerEvent, parsed
from wsgateway.closing import SHUTDOWN
from wsgateway.frames import (
    AcceptedFrame,
    CloseFrame,
    Member,
    NamedMessage,
    OpenFrame,
    Position,
    PresenceFrame,
    Publication,
    RefusedFrame,
    SubscribedFrame,
    UnsubscribedFrame,
)
from wsgateway.messages import Kind, Message, encode
from wsgateway.protocols.lines import LINES
from wsgateway.protocols.sse import MAX_IDS, SSE, WITHOUT_IDS, EventIds, SseEncoding, read_ids

SSE_TEXT = SseEncoding(has_ids=True)


def text(content: str) -> Message:
    return Message(content.encode(), Kind.TEXT)


def published(content: str, channel: str = "room", *, at: Position | None = None, name: str = "") -> Publication:
    publication = Publication(text(content), channel, name=name)
    publication.position = at
    return publication


def only(message: Message) -> ServerEvent:
    content = SSE_TEXT.content(message)
    assert content is not None
    (event,) = parsed(content)
    return event


BREAKS = ["\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n", "\n\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\0"]


@pytest.mark.parametrize("line_break", BREAKS, ids=ascii)
def test_no_text_injects_an_event_or_a_field(line_break: str) -> None:
    content = line_break.join(["", "a", "data: x", "event: evil", "id: 666", "retry: 1", ":comment", ""])
    parser = EventParser()
    data = SSE_TEXT.content(published(content, at=Position("e", 7), name="chat"))
    assert data is not None
    (event,) = parser.feed(data.decode())
    normal = content.replace("\r\n", "\n").replace("\r", "\n")
    assert event == ("chat", normal, "e:7")
    assert (parser.retry, parser.comments) == (None, 0)


@given(st.text())
def test_every_text_arrives_as_it_is_but_for_its_line_breaks(content: str) -> None:
    try:
        message = text(content)
    except UnicodeEncodeError:  # a lone surrogate is refused before
        return
    assert only(message) == ("message", content.replace("\r\n", "\n").replace("\r", "\n"), "")


@pytest.mark.parametrize("content", ["", " ", "  leading", "trailing\n", "\n", "\n\n", "\r\n", ":", "data:", "\ufeff"])
def test_the_edges_of_a_text_are_kept(content: str) -> None:
    assert only(text(content)).data == content.replace("\r\n", "\n")


@pytest.mark.parametrize("line_break", BREAKS, ids=ascii)
def test_no_other_field_injects_anything(line_break: str) -> None:
    evil = f"x{line_break}{line_break}event: evil{line_break}data: evil{line_break}{line_break}"
    at = Position("e", 1)
    messages: list[Message] = [
        NamedMessage(b"hi", Kind.TEXT, evil),
        published("hi", name=evil),
        SubscribedFrame(evil, at=at, recovered=True, reply=text(evil)),
        SubscribedFrame(evil, at=None, recovered=False, reply=encode({"a": evil})),
        UnsubscribedFrame(evil, 2000, evil),
        PresenceFrame(evil, Member("id", evil, {"name": evil}), has_left=False),
        CloseFrame(3000, evil),
        OpenFrame("id", "secret"),
    ]
    for message in messages:
        assert only(message).type != "evil"
        line = LINES.wire_format.message(message)
        assert isinstance(line, str)
        assert line.index("\n") == len(line) - 1
        json.loads(line)


def test_json_with_line_breaks_between_its_tokens_stays_the_same_value() -> None:
    message = Message(b'{"a":\r\n1,\n"b":[\r2]}', Kind.JSON)
    assert json.loads(only(message).data) == {"a": 1, "b": [2]}
    line = LINES.wire_format.message(message)
    assert json.loads(line or "") == {"message": {"a": 1, "b": [2]}}


def test_bytes_are_base64() -> None:
    event = only(Message(bytes(range(256)), Kind.BYTES))
    assert (event.type, base64.b64decode(event.data)) == ("base64", bytes(range(256)))


def test_a_subscription_has_its_position_as_id_and_in_the_data() -> None:
    at = Position("k3Jd9aQx", 7)
    event = only(SubscribedFrame("room:1", at=at, recovered=False, reply=encode({"n": 1}), members=b"[]"))
    assert (event.type, event.id) == ("subscribed", "k3Jd9aQx:7")
    assert json.loads(event.data) == {
        "channel": "room:1",
        "at": "k3Jd9aQx:7",
        "recovered": False,
        "reply": {"n": 1},
        "members": [],
    }
    assert only(SubscribedFrame("news", at=None, recovered=False)) == (
        "subscribed",
        '{"channel":"news","recovered":false}',
        "",
    )


def test_members_come_and_go() -> None:
    member = Member("1", "ann", {"color": "red"})
    for has_left, name in ((False, "joined"), (True, "left")):
        event = only(PresenceFrame("room", member, has_left=has_left))
        assert (event.type, json.loads(event.data)) == (name, {"channel": "room", **member.fields()})


def test_the_end_tells_whether_and_when_to_reconnect() -> None:
    parser = EventParser()
    (event,) = parser.feed((SSE_TEXT.content(CloseFrame(1012, SHUTDOWN % 700)) or b"").decode())
    assert json.loads(event.data) == {"code": 1012, "reason": "shutdown", "reconnect": True}
    assert parser.retry == 700
    assert json.loads(only(CloseFrame(3500, "bye")).data) == {"code": 3500, "reason": "bye", "reconnect": False}


@pytest.mark.parametrize(
    "reason",
    ['{"retry_after_ms":-1}', '{"retry_after_ms":"1\\n\\ndata: x"}', '{"retry_after_ms":true}', "{", "{}", '{"a":[]}'],
)
def test_a_reason_of_the_application_that_looks_like_a_shutdown_sets_no_wrong_retry(reason: str) -> None:
    parser = EventParser()
    (event,) = parser.feed((SSE_TEXT.content(CloseFrame(3000, reason)) or b"").decode())
    assert (event.type, parser.retry) == ("close", None)


def test_answers_to_commands_are_not_sent() -> None:
    for message in (AcceptedFrame(None, ident=1), RefusedFrame("x", 403, "no")):
        assert SSE_TEXT.content(message) is None
        assert SSE.wire_format.wire(message) == b""


# Ids


def test_a_stream_with_several_channels_has_all_positions_as_its_id() -> None:
    ids = EventIds({"a": Position("x", 1), "b": None})
    parser = EventParser()

    def feed(message: Message) -> str:
        data = ids.prefix(message) + (SseEncoding(has_ids=False).content(message) or b"")
        (event,) = parser.feed(data.decode())
        return event.id

    assert feed(SubscribedFrame("a", at=Position("x", 1), recovered=True)) == "x:1,"
    assert feed(published("1", "a", at=Position("x", 2))) == "x:2,"
    assert feed(SubscribedFrame("b", at=Position("y", 8), recovered=False)) == "x:2,y:8"
    assert feed(published("2", "b", at=Position("y", 9))) == "x:2,y:9"
    assert feed(published("3", "c", at=Position("z", 1))) == "x:2,y:9"
    assert feed(text("to everybody")) == "x:2,y:9"
    assert read_ids(parser.last_id, ["a", "b"]) == {"a": Position("x", 2), "b": Position("y", 9)}


def test_messages_without_ids_are_shared() -> None:
    message = published("hi", at=Position("x", 1))
    assert b"id:" in SSE.wire_format.wire(message)
    assert WITHOUT_IDS.wire(message) == b"a\r\ndata: hi\n\n\r\n"


@pytest.mark.parametrize(
    "garbage",
    [
        "x",
        "x:",
        ":",
        "-1",
        "x:-1",
        "x:18446744073709551616",
        f"x:{2**63}",
        "x y:1",
        "ü:1",
        "x:1:1",
        "\0",
        "x:1\n",
        "🙂",
    ],
)
def test_an_id_that_is_garbage_cannot_be_recovered(garbage: str) -> None:
    assert read_ids(garbage, ["a"]) in ({"a": None}, {"a": Position("x", 1)})
    assert read_ids(f"{garbage},y:2", ["a", "b"])["b"] == Position("y", 2)


@given(st.text(max_size=3000), st.integers(0, MAX_IDS + 3))
def test_no_id_raises(ids: str, count: int) -> None:
    assert len(read_ids(ids, [str(number) for number in range(count)])) <= min(count, MAX_IDS + 1)
