"""Who receives a message: each row of the table of recipients, for each kind of sender. Never everybody by mistake."""

from collections.abc import Callable
from typing import Any

import anyio.to_thread
import pytest

from tests.test_channels import CHANNELS, V1
from wsgateway import EVERYBODY, Gateway, HookError, MessageEvent, Refused, SubscribeEvent, testing
from wsgateway.hub.target import Target
from wsgateway.listeners.event import MessageEvent as Event
from wsgateway.listeners.routing import target_of_event
from wsgateway.testing import Client, RecordingListener

SENDER: Any = object()


def event(target: Target | None = None, *, connections: Any = None, conn: Any = SENDER) -> Event:
    gateway: Any = None
    return Event(gateway, conn, "hi", connections, {}, target)


def test_a_client_without_recipients_reaches_everybody_only_where_nobody_decides() -> None:
    target = target_of_event(event(), is_closed=False)
    assert (target.channel, target.user, target.connections) == ("", "", None)
    with pytest.raises(Refused, match="403"):
        target_of_event(event(), is_closed=True)


def test_the_application_without_recipients_reaches_everybody() -> None:
    target = target_of_event(event(conn=None), is_closed=True)
    assert (target.channel, target.user, target.connections) == ("", "", None)


@pytest.mark.parametrize("name", ["channel", "to_user"])
@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize("named", [None, "room:1"])
def test_an_empty_recipient_is_an_error_of_the_hook(name: str, value: Any, named: str | None) -> None:
    made = event(None if named is None else Target(channel=named))
    setattr(made, name, value)
    with pytest.raises(ValueError, match=f"event.{name} to {value!r}"):
        target_of_event(made, is_closed=False)


@pytest.mark.parametrize("value", [5, b"room:1", ["room:1"], True])
def test_a_recipient_that_is_not_text_is_an_error_of_the_hook(value: Any) -> None:
    for name in ("channel", "to_user"):
        made = event()
        setattr(made, name, value)
        with pytest.raises(TypeError, match=f"event.{name}"):
            target_of_event(made, is_closed=False)


@pytest.mark.parametrize(
    "names",
    [
        ("channel", "to_user"),
        ("channel", "connections"),
        ("to_user", "connections"),
        ("channel", "to_user", "connections"),
    ],
)
def test_two_recipients_are_an_error_of_the_hook(names: tuple[str, ...]) -> None:
    made = event()
    for name in names:
        setattr(made, name, EVERYBODY if name == "connections" else "x")
    with pytest.raises(ValueError, match="set one of them"):
        target_of_event(made, is_closed=False)


NAMED: dict[str, dict[str, Any]] = {
    "channel": {"channel": "room:1"},
    "to_user": {"user": "ann"},
    "connections": {"connections": ["id"]},
}


@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize("chosen", NAMED)
def test_what_the_hook_sets_replaces_what_the_caller_has_named(named: str, chosen: str) -> None:
    values = {"channel": "room:2", "to_user": "bob", "connections": ["other"]}
    target = Target(**NAMED[named])
    made = event(target, connections=target.connections, conn=None)
    setattr(made, chosen, values[chosen])
    found = target_of_event(made, is_closed=True)
    expected = {"channel": "", "to_user": "", "connections": None, chosen: values[chosen]}
    assert {"channel": found.channel, "to_user": found.user, "connections": found.connections} == expected


@pytest.mark.parametrize("named", NAMED)
def test_everybody_replaces_what_the_caller_has_named(named: str) -> None:
    target = Target(**NAMED[named])
    made = event(target, connections=target.connections, conn=None)
    made.connections = EVERYBODY
    found = target_of_event(made, is_closed=True)
    assert (found.channel, found.user, found.connections) == ("", "", None)


def test_connections_of_none_do_not_replace_a_channel() -> None:
    made = event(Target(channel="room:1"))
    made.connections = None
    assert target_of_event(made, is_closed=True).channel == "room:1"


def test_an_empty_list_of_connections_is_nobody() -> None:
    made = event()
    made.connections = []
    assert target_of_event(made, is_closed=True).connections == []


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("key", None, TypeError),
        ("name", "a\nb", ValueError),
        ("name", "x" * 256, ValueError),
        ("tags", {"a": 1}, TypeError),
        ("tags", {"a": "\ud800"}, ValueError),
        ("ttl", 0, ValueError),
        ("ttl", float("nan"), ValueError),
        ("ttl", True, TypeError),
        ("idempotency_key", 5, TypeError),
        ("idempotency_key", "\ud800", ValueError),
    ],
)
def test_what_a_hook_sets_of_a_publication_is_checked(name: str, value: Any, error: type[Exception]) -> None:
    made = event(Target(channel="room:1"))
    setattr(made, name, value)
    with pytest.raises(error, match=name):
        target_of_event(made, is_closed=True)


# End to end


class Deciding(RecordingListener):
    """Lets everybody in; `decide` is what `on_message` does."""

    def __init__(self, decide: Callable[[MessageEvent], None]) -> None:
        super().__init__()
        self.decide = decide

    async def on_handshake(self, event: Any) -> None:
        event.conn.user = event.conn.query.get("user")

    async def on_subscribe(self, event: SubscribeEvent) -> None: ...

    async def on_message(self, event: MessageEvent) -> None:
        self.decide(event)
        self.record("on_message", event.message)


def nothing(event: MessageEvent) -> None: ...


def swallow(event: MessageEvent) -> None:
    event.message = None


def to_room(event: MessageEvent) -> None:
    event.channel = "room:1"


def to_ann(event: MessageEvent) -> None:
    event.to_user = "ann"


def to_everybody(event: MessageEvent) -> None:
    event.connections = EVERYBODY


def to_nobody(event: MessageEvent) -> None:
    event.connections = []


def to_empty_channel(event: MessageEvent) -> None:
    event.channel = ""


def to_no_user(event: MessageEvent) -> None:
    nothing: Any = None
    event.to_user = nothing


def to_two(event: MessageEvent) -> None:
    event.channel, event.connections = "room:1", EVERYBODY


RECEIVERS: list[tuple[Callable[[MessageEvent], None], str]] = [
    (nothing, "refused"),
    (swallow, "accepted"),
    (to_room, "room"),
    (to_ann, "ann"),
    (to_everybody, "room ann other sender"),
    (to_nobody, "accepted"),
    (to_empty_channel, "failed"),
    (to_no_user, "failed"),
    (to_two, "failed"),
]


@pytest.mark.parametrize(("decide", "expected"), RECEIVERS, ids=[decide.__name__ for decide, _ in RECEIVERS])
@pytest.mark.parametrize("sender", ["plain", "v1", "gateway.send"])
async def test_who_receives(sender: str, decide: Callable[[MessageEvent], None], expected: str) -> None:
    listener = Deciding(decide)
    gateway = Gateway(listener=listener, channels=CHANNELS)
    async with (
        testing.serve(gateway) as url,
        Client(url, "/ws?channel=room:1") as room,
        Client(url, "/ws?user=ann") as ann,
        Client(url) as other,
        Client(url) as plain,
        V1(url) as v1,
    ):
        clients = {"room": room, "ann": ann, "other": other}
        if sender == "plain":
            clients["sender"] = plain
            await plain.send("hi")
        elif sender == "v1":
            clients["sender"] = v1
            await v1.tell(message="hi", id=1)
        else:
            clients["sender"] = plain
            if expected == "failed":
                with pytest.raises(HookError):
                    await gateway.send("hi")
            else:
                if expected == "refused":
                    expected = "room ann other sender"
                await gateway.send("hi")
        await listener.wait_for("on_message")
        await gateway.publish("end")
        answers: list[Any] = []
        for name, client in clients.items():
            received = []
            while (message := await client.receive()) not in ("end", '{"message":"end"}'):
                received.append(message)
            if sender == "v1" and name == "sender":
                answers = [one for one in received if '"id":1' in str(one)]
                received = [one for one in received if one not in answers]
            assert bool(received) == (name in expected.split()), (name, received)
        if sender == "v1":
            status = {"refused": '"status":403', "failed": '"status":500'}.get(expected, '{"id":1')
            assert len(answers) == 1
            assert status in answers[0]
        is_refused = expected == "refused"
        assert sum(gateway.metrics.refusals.values()) == is_refused
        assert sum(gateway.metrics.hook_errors.values()) == (expected == "failed")


@pytest.mark.parametrize("method", ["send", "publish", "send_from_thread", "publish_from_thread"])
@pytest.mark.parametrize(
    ("named", "error"),
    [
        ({"channel": None}, ValueError),
        ({"channel": ""}, ValueError),
        ({"channel": 5}, TypeError),
        ({"channel": "no such"}, ValueError),
        ({"channel": "rom:1"}, ValueError),
        ({"user": None}, ValueError),
        ({"user": ""}, ValueError),
        ({"user": b"ann"}, TypeError),
        ({"channel": "room:1", "user": "ann"}, ValueError),
        ({"channel": "room:1", "connections": []}, ValueError),
        ({"user": "ann", "connections": EVERYBODY}, ValueError),
        ({"connections": "an id"}, TypeError),
        ({"connections": 5}, TypeError),
        ({"ttl": 0}, ValueError),
        ({"ttl": 5}, ValueError),
        ({"key": "k"}, ValueError),
        ({"key": None}, TypeError),
        ({"tags": {}, "user": "ann", "key": "x"}, ValueError),
        ({"idempotency_key": "k"}, ValueError),
        ({"channel": "user:1", "idempotency_key": "k"}, ValueError),
        ({"name": "a b"}, ValueError),
        ({"name": None}, TypeError),
        ({"nonsense": 1}, TypeError),
    ],
    ids=str,
)
async def test_a_call_with_a_wrong_target_sends_nothing(method: str, named: Any, error: type[Exception]) -> None:
    gateway = Gateway(channels=CHANNELS)
    async with testing.serve(gateway) as url, Client(url) as client:
        with pytest.raises(error):
            if method.endswith("thread"):
                await anyio.to_thread.run_sync(lambda: getattr(gateway, method)("no", **named))
            else:
                await getattr(gateway, method)("no", **named)
        await gateway.publish("end")
        assert await client.receive() == "end"


@pytest.mark.parametrize("method", ["subscribe", "unsubscribe", "disconnect"])
@pytest.mark.parametrize(
    ("named", "error"),
    [
        ({}, TypeError),
        ({"connections": None}, TypeError),
        ({"user": None}, ValueError),
        ({"user": ""}, ValueError),
        ({"user": 1.5}, TypeError),
        ({"user": "ann", "connections": []}, TypeError),
        ({"connections": "an id"}, TypeError),
    ],
    ids=str,
)
async def test_a_call_that_names_nobody_changes_nothing(method: str, named: Any, error: type[Exception]) -> None:
    gateway = Gateway(channels=CHANNELS)
    async with testing.serve(gateway) as url, Client(url):
        await gateway.subscribe("room:1", EVERYBODY)
        with pytest.raises(error):
            if method == "disconnect":
                await gateway.disconnect(**named)
            else:
                await getattr(gateway, method)("room:1", **named)
        assert len(gateway.local_channels["room:1"]) == 1
        for channel in (None, "", 5, "rom:1"):
            if method != "disconnect":
                with pytest.raises(ValueError):
                    await getattr(gateway, method)(channel, EVERYBODY)
        assert len(gateway.connections) == 1


@pytest.mark.parametrize("echo", [True, False])
@pytest.mark.parametrize("decide", [to_room, to_ann, to_everybody])
async def test_the_sender_is_left_out_without_echo_sender(decide: Callable[[MessageEvent], None], echo: bool) -> None:
    gateway = Gateway(listener=Deciding(decide), channels=CHANNELS, echo_sender=echo)
    async with (
        testing.serve(gateway) as url,
        Client(url, "/ws?channel=room:1&user=ann") as other,
        Client(url, "/ws?channel=room:1&user=ann") as plain,
        V1(url, "channel=room:1&user=ann") as v1,
    ):
        await plain.send("plain")
        assert await other.receive() == "plain"
        await v1.tell(message="v1")
        assert await other.receive() == "v1"
        await gateway.publish("end")
        assert await other.receive() == "end"
        received = [await plain.receive() for _ in range(3 if echo else 2)]
        assert received == (["plain", "v1", "end"] if echo else ["v1", "end"])
        told: list[Any] = []
        while "end" not in told:
            told.append((await v1.receive_json()).get("message"))
        assert [one for one in told if one] == (["plain", "v1", "end"] if echo else ["plain", "end"])
