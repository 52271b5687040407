"""What is refused of what comes from a broker, before anything is done with it."""

import math
from typing import Any, get_args

import msgspec
import pytest

from wsgateway.cluster.envelopes import (
    MAX_ERROR,
    MAX_IDS,
    MAX_NODES,
    VERSION,
    Ack,
    Answer,
    Ask,
    Delivery,
    Envelope,
    Heartbeat,
    Here,
    Info,
    Leave,
    ToUser,
    decode,
    encode,
    origin_of,
)
from wsgateway.cluster.nodes import Nodes, NodeState
from wsgateway.cluster.questions import (
    Close,
    CollectSamples,
    CollectTotals,
    Describe,
    ListChannels,
    Question,
    Rows,
    Search,
    answer_of,
    arguments_of,
    question_of,
)
from wsgateway.cluster.sending import Send
from wsgateway.exceptions import EnvelopeError
from wsgateway.messages import Kind

INFO = Info(host="host", pid=1, version="1", age=1.0, state="running")
NODE = "deadbeef"
NO_IDS = ("", "a b c d ", "DEADBEEF", "deadbee\n", "deadbee", "deadbeef0", "*.>abcde", "dead.eef", "\x00" * 8)


def beat(**changes: Any) -> Heartbeat:
    return Heartbeat(VERSION, NODE, 1, msgspec.structs.replace(INFO, **changes))


def refused(envelope: Envelope) -> None:
    with pytest.raises(EnvelopeError) as error:
        decode(encode(envelope))
    assert error.value.reason == "malformed"
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "envelope",
    [
        Delivery(VERSION, NODE, 2**40, b"x" * 70_000, True, ["x"] * 70_000, 2**40),
        ToUser(VERSION, NODE, 1, "ann", b"x", Kind.TEXT, 1, "name"),
        Ack(VERSION, NODE, 1, 1, 1, 1, 1),
        Heartbeat(VERSION, NODE, 1, INFO, True),
        Leave(VERSION, NODE, 1, NODE),
        Ask(VERSION, NODE, 1, 1, "totals", {}),
        Answer(VERSION, NODE, 1, 1, None),
        Here(VERSION, NODE, 1, INFO, [NODE]),
    ],
    ids=lambda envelope: type(envelope).__name__,
)
def test_the_origin_of_every_envelope_is_read_without_decoding(envelope: Envelope) -> None:
    assert origin_of(encode(envelope)) == NODE.encode()


@pytest.mark.parametrize("node_id", NO_IDS)
def test_what_is_not_the_id_of_a_node_is_refused_wherever_it_stands(node_id: str) -> None:
    refused(Heartbeat(VERSION, node_id, 1, INFO))
    refused(Delivery(VERSION, node_id, 1, b"x", True))
    refused(Ask(VERSION, node_id, 1, 1, "totals", {}))
    refused(Leave(VERSION, NODE, 1, node_id))
    refused(Here(VERSION, NODE, 1, INFO, [NODE, node_id]))


@pytest.mark.parametrize(
    "changes",
    [
        *({"age": age} for age in (math.nan, math.inf, -math.inf, -1.0, 1e30)),
        *({"pid": pid} for pid in (-1, 2**40)),
        *({"connections": count} for count in (-1, 2**60)),
        *({name: "x" * 256} for name in ("host", "version", "state")),
        *({name: "a\nb"} for name in ("host", "version", "state")),
        {"host": "\x1b[31m"},
    ],
    ids=str,
)
def test_a_node_that_says_absurd_things_of_itself_is_refused(changes: dict[str, Any]) -> None:
    assert decode(encode(beat())) == beat()
    refused(beat(**changes))
    refused(Here(VERSION, NODE, 1, msgspec.structs.replace(INFO, **changes), []))


@pytest.mark.parametrize(
    "envelope",
    [
        Delivery(VERSION, NODE, 1, b"x", True, ["x"] * (MAX_IDS + 1)),
        Here(VERSION, NODE, 1, INFO, [NODE] * (MAX_NODES + 1)),
        Ask(VERSION, NODE, 1, 1, "x" * 101, {}),
        Answer(VERSION, NODE, 1, 1, None, "x" * (MAX_ERROR + 1)),
        Ask(VERSION, NODE, -1, 1, "totals", {}),
        Ask(VERSION, NODE, 2**60, 1, "totals", {}),
    ],
    ids=lambda envelope: type(envelope).__name__,
)
def test_what_is_too_much_is_refused(envelope: Envelope) -> None:
    refused(envelope)


def test_few_nodes_are_known_and_those_that_live_stay() -> None:
    nodes = Nodes()
    for number in range(MAX_NODES):
        assert nodes.make_space(f"{number:08x}")
        assert nodes.see(f"{number:08x}", INFO, float(number))
    assert not nodes.make_space("ffffffff")
    assert nodes.make_space("00000007")
    for number in (5, 3, 9):
        nodes.mark(f"{number:08x}", NodeState.LOST, 1000.0 + number)
    assert nodes.make_space("ffffffff")
    assert nodes.see("ffffffff", INFO, 2000.0)
    known = {node.id for node in nodes.shown()}
    assert len(known) == MAX_NODES
    assert known.isdisjoint({"00000003"})
    assert known >= {"00000005", "00000009", "ffffffff"}


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Search, {}),
        (Search, {"search": 5}),
        (Search, {"search": None}),
        (Rows, {"search": "", "offset": -1, "limit": 10}),
        (Rows, {"search": "", "offset": 0, "limit": math.nan}),
        (Rows, {"search": "", "offset": "0", "limit": 10}),
        (Close, {"ids": None, "code": "x", "reason": 5}),
        (Close, {"ids": "abc", "code": 1000, "reason": ""}),
        (Close, {"ids": [{}], "code": 1000, "reason": ""}),
        (Send, {"payload": "text", "kind": "text", "ids": None, "data": "{}"}),
        (Send, {"payload": b"x", "kind": "xml", "ids": None, "data": "{}"}),
    ],
)
def test_wrong_arguments_are_named(kind: type[Question[Any]], arguments: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeError, match="arguments: "):
        question_of(kind, arguments)


ROW: dict[str, Any] = {
    "id": "deadbeef.x",
    "address": "127.0.0.1",
    "path": "",
    "transport": "wire",
    "age": 1.5,
    "queue": {"messages": 0, "bytes": 0},
    "user": None,
    "messages_in": 0,
    "messages_out": 0,
    "dropped": 0,
}


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (Search, 5),
        (Rows, [ROW, {**ROW, "more": "of a later version"}]),
        (Describe, None),
        (Describe, {**ROW, "headers": {}}),
        (CollectTotals, {"connections": 1, "hook_seconds": 0.5}),
        (
            CollectSamples,
            {"broker_up": [["", {"gateway": "a"}, True]], "hook_seconds": [["_bucket", {"le": "+Inf"}, 1]]},
        ),
        (Send, [1, 1, 0, 1, True]),
        (Send, {"status": 451, "reason": "not today"}),
    ],
)
def test_an_answer_of_the_right_form_passes(kind: type[Question[Any]], answer: Any) -> None:
    answer_of(kind, answer)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (Search, [1]),
        (Search, -1),
        (Rows, {}),
        (Rows, [{"id": "x"}]),
        (Rows, [{**ROW, "age": math.nan}]),
        (Describe, "x"),
        (Close, None),
        (CollectTotals, {"connections": math.nan}),
        (CollectTotals, []),
        (CollectSamples, {"nodes": [["\nup 1", {}, 1]]}),
        (CollectSamples, {"nodes": [["", {"gateway\n": "a"}, 1]]}),
        (CollectSamples, {"nodes": [["", {"code": f"{number}"}, 1] for number in range(1001)]}),
        (Send, [1, 1]),
        (Send, {"status": 200, "reason": ""}),
        (Send, None),
    ],
)
def test_an_answer_of_another_form_is_refused(kind: type[Question[Any]], answer: Any) -> None:
    with pytest.raises(EnvelopeError, match="answer: "):
        answer_of(kind, answer)


def test_questions_and_rows_have_the_form_that_earlier_versions_know() -> None:
    """Nodes of two versions work together while a server is upgraded."""
    kinds: tuple[type[Question[Any]], ...] = (Search, Rows, Describe, Close, CollectSamples, CollectTotals, Send)
    assert {kind.name: kind.__struct_fields__ for kind in kinds} == {
        "search": ("search",),
        "rows": ("search", "offset", "limit"),
        "describe": ("id",),
        "close": ("ids", "code", "reason"),
        "samples": (),
        "totals": (),
        "send": ("payload", "kind", "ids", "data", "event_name"),  # an earlier version ignores the name
    }
    assert question_of(ListChannels, {"prefix": "a", "limit": 5}) == ListChannels("a", 5, after="")
    asked = decode(encode(Ask(VERSION, "deadbeef", 1, 2, Rows.name, arguments_of(Rows("a", 0, 10)))))
    assert isinstance(asked, Ask)
    assert asked.arguments == {"search": "a", "offset": 0, "limit": 10}
    row = answer_of(Rows, [ROW])
    answered = decode(encode(Answer(VERSION, "deadbeef", 1, 2, row)))
    assert isinstance(answered, Answer)
    assert answered.value == [{**ROW, "protocol": "plain", "client": "", "expires_at": None}]


def test_an_envelope_has_at_most_15_elements() -> None:
    """The head of a longer array has three bytes, so `origin_of` would read the wrong ones. With the tag, these are 15
    elements, so another one needs another tag."""
    kinds = get_args(Envelope)
    assert len(kinds) == 12
    assert {kind.__name__: len(kind.__struct_fields__) for kind in kinds if len(kind.__struct_fields__) > 14} == {}


class DeliveryOfBefore(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """A `Delivery` as a node knows it that does not tell JSON from text."""

    version: int
    origin: str
    seq: int
    payload: bytes
    is_text: bool
    ids: list[str] | None = None
    ask: int = 0


def test_a_node_of_before_reads_a_delivery_of_now_and_the_other_way_round() -> None:
    now = Delivery(VERSION, NODE, 7, b"5", True, ["a"], 3, True, "greeting")
    before = msgspec.msgpack.decode(encode(now), type=DeliveryOfBefore)
    assert before == DeliveryOfBefore(VERSION, NODE, 7, b"5", True, ["a"], 3)
    assert decode(msgspec.msgpack.encode(before)) == Delivery(VERSION, NODE, 7, b"5", True, ["a"], 3, False)
    assert origin_of(encode(now)) == origin_of(msgspec.msgpack.encode(before)) == NODE.encode()


def test_a_node_of_before_does_not_send_the_message_of_a_user_to_everybody() -> None:
    now = encode(ToUser(VERSION, NODE, 7, "ann", b"5", Kind.JSON, 3, "greeting"))
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(now, type=DeliveryOfBefore)
    assert decode(now) == ToUser(VERSION, NODE, 7, "ann", b"5", Kind.JSON, 3, "greeting")
