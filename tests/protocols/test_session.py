"""A session between a transport that is none and a real gateway: what it checks, and what it calls when."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.connections import channels_of, hub_of, unconnected
from wsgateway import Event, Gateway
from wsgateway.cluster.single import SingleNode
from wsgateway.exceptions import Refused
from wsgateway.gateway.wheel import Wheel
from wsgateway.hub.outbox import Outbox
from wsgateway.hub.pubsub import PubSub
from wsgateway.listeners.dispatcher import Dispatcher
from wsgateway.listeners.inbox import INBOX_BYTES, INBOX_MESSAGES
from wsgateway.listeners.loader import Hooks
from wsgateway.protocols import plain
from wsgateway.protocols.identity import Identity
from wsgateway.protocols.plain import PlainSession
from wsgateway.protocols.posted import PostedSession
from wsgateway.protocols.session import Session, SessionParts
from wsgateway.testing import RecordingListener
from wsgateway.transports.peer import Peer


class PostingSession(PostedSession, PlainSession):
    """A plain client that also posts messages."""


class Unconnected:
    """A `ClientTransport` that carries nothing, and keeps what it is asked for."""

    name = "none"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.is_there = True

    def attach(self, peer: Peer, outbox: Outbox) -> None: ...

    def wake(self) -> None: ...

    async def accept(self, subprotocol: str | None) -> bool:
        self.calls.append(f"accept {subprotocol}")
        return self.is_there

    async def run(self) -> None:
        self.calls.append("run")

    def resume(self) -> None:
        self.calls.append("resume")

    async def accept_and_close(self, subprotocol: str | None, code: int, reason: str) -> None: ...

    def release(self) -> None: ...

    def abort(self) -> None: ...


class Made:
    """A session, and what stands around it."""

    def __init__(self, listener: object, *, kind: type[Session] = PostingSession, **options: Any) -> None:
        gateway = Gateway(**options)
        self.hub = hub_of(gateway)
        self.wheel = Wheel(0.1, lambda: None)
        self.refused: list[Refused] = []
        channels = channels_of(gateway, self.hub)
        self.ended: list[Session] = []
        self.transport = Unconnected()
        self.dispatcher = Dispatcher(
            gateway,
            pubsub=PubSub(self.hub, SingleNode(), channels, gateway.metrics),
            channels=channels,
            hooks=Hooks(listener, gateway.settings, gateway.log),
            settings=gateway.settings,
            metrics=gateway.metrics,
            log=gateway.log,
        )
        self.conn, outbox = unconnected(gateway, self.transport)
        parts = SessionParts(
            gateway,
            self.hub,
            channels,
            self.dispatcher,
            gateway.settings,
            self.wheel,
            Identity(gateway.settings, gateway.log),
            self.ended.append,
            lambda scope, refused, conn: self.refused.append(refused),
        )
        self.session: Any = kind(self.conn, outbox, self.transport, parts)

    async def connect(self) -> None:
        await plain.connect(self.session, self.transport, {})


async def test_the_plain_protocol_runs_on_handshake_before_the_accept_and_joins_the_hub_after_it() -> None:
    class Listener(RecordingListener):
        async def on_handshake(self, event: Event) -> None:
            self.record("on_handshake", (len(made.hub.connections), list(made.transport.calls)))

    listener = Listener()
    made = Made(listener)
    await made.connect()
    await made.dispatcher.runner.idle()
    assert listener.events == [("on_handshake", (0, [])), ("on_client_open", "")]
    assert made.transport.calls == ["accept None", "run"]
    assert made.session.is_open
    assert list(made.hub.connections) == [made.conn]


async def test_a_client_that_disconnects_before_the_accept_is_never_open() -> None:
    listener = RecordingListener()
    made = Made(listener)
    made.transport.is_there = False
    await made.connect()
    assert not made.session.is_open
    assert listener.events == []
    assert made.transport.calls == ["accept None"]


async def test_a_close_during_on_handshake_refuses_the_client() -> None:
    class Listener:
        async def on_handshake(self, event: Event) -> None:
            assert event.conn
            event.conn._outbox.close(1012, "")

    made = Made(Listener())
    with pytest.raises(Refused) as refused:
        await made.connect()
    assert (refused.value.status, refused.value.refusal.kind) == (503, "stopping")


async def test_the_end_leaves_the_hub_and_calls_the_hook_once() -> None:
    listener = RecordingListener()
    made = Made(listener)
    await made.connect()
    made.session.finished(4007, "lunch")
    await made.dispatcher.runner.idle()
    assert listener.events == [("on_client_open", ""), ("on_client_close", 4007)]
    assert made.ended == [made.session]
    assert len(made.hub.connections) == 0
    made.session.finished(4007, "lunch")
    await made.dispatcher.runner.idle()
    assert listener.count("on_client_close") == 1


async def test_the_code_of_this_side_counts_if_it_closed_first() -> None:
    listener = RecordingListener()
    made = Made(listener)
    await made.connect()
    made.session.outbox.close(4001, "bye")
    made.session.finished(1006, "")
    await made.dispatcher.runner.idle()
    assert listener.events[-1] == ("on_client_close", 4001)


@pytest.mark.parametrize(
    ("options", "messages", "closing"),
    [
        ({"max_message_size": 3}, ["abc"], None),
        ({"max_message_size": 3}, ["abcd"], (1009, "message too big")),
        ({"message_rate": 0.001, "message_burst": 2}, ["a", "b"], None),
        ({"message_rate": 0.001, "message_burst": 2}, ["a", "b", "c"], (3013, "too many messages")),
        (
            {"message_rate": 0.001, "message_burst": 1, "max_message_size": 3},
            ["a", "too long"],
            (1009, "message too big"),
        ),
    ],
)
async def test_size_and_rate_of_messages(
    options: dict[str, Any], messages: list[str], closing: tuple[int, str] | None
) -> None:
    listener = RecordingListener()
    made = Made(listener, **options)
    await made.connect()
    for message in messages:
        assert made.session.received(message, len(message))
    await made.dispatcher.runner.idle()
    assert made.session.outbox.closing == closing
    assert listener.count("on_message") == len(messages) - (closing is not None)


async def test_messages_past_the_close_are_dropped() -> None:
    listener = RecordingListener()
    made = Made(listener)
    await made.connect()
    made.session.outbox.close(1000, "")
    assert made.session.received("late", 4)
    await made.dispatcher.runner.idle()
    assert listener.count("on_message") == 0


async def test_a_message_past_the_close_does_not_use_the_rate() -> None:
    made = Made(RecordingListener(), message_rate=0.001, message_burst=1)
    await made.connect()
    made.session.outbox.close(1000, "")
    bucket = made.session._rate
    assert bucket is not None
    assert made.session.received("late", 4)
    assert bucket.allows(time.monotonic())


@asynccontextmanager
async def waiting_hooks() -> AsyncIterator[tuple[object, Callable[[], Awaitable[None]]]]:
    """A listener whose `on_message` waits, and what lets it go on."""
    release = anyio.Event()

    class Listener:
        async def on_message(self, event: Event) -> None:
            await release.wait()

    async def go_on() -> None:
        release.set()

    yield Listener(), go_on
    release.set()


@pytest.mark.parametrize(("count", "size"), [(INBOX_MESSAGES, 1), (4, INBOX_BYTES // 4)])
async def test_a_full_inbox_pauses_reading_until_it_has_space(count: int, size: int) -> None:
    async with waiting_hooks() as (listener, go_on):
        made = Made(listener)
        await made.connect()
        for _ in range(count):
            assert made.session.received("x", size)
        assert not made.session.received("x", 1)
        assert "resume" not in made.transport.calls
        await go_on()
        with anyio.fail_after(10):
            while "resume" not in made.transport.calls:
                await anyio.lowlevel.checkpoint()
        assert made.session.received("x", 1)
        await made.dispatcher.runner.idle()
        assert made.transport.calls.count("resume") == 1


async def test_a_close_while_a_hook_waits_is_reported_after_it_and_after_what_waits() -> None:
    release = anyio.Event()

    class Listener(RecordingListener):
        async def on_message(self, event: Event) -> None:
            await release.wait()
            self.record("on_message", event.message)

    listener = Listener()
    made = Made(listener)
    await made.connect()
    for message in ("first", "second"):
        assert made.session.received(message, len(message))
    made.session.finished(1000, "")
    assert listener.events == [("on_client_open", "")]
    release.set()
    await made.dispatcher.runner.idle()
    events = [("on_message", "first"), ("on_message", "second"), ("on_client_close", 1000)]
    assert listener.events[1:] == events


async def test_a_client_is_admitted_without_a_call_if_the_listener_has_no_on_handshake() -> None:
    made = Made(RecordingListener())
    handshake = made.session.handshake({})
    with pytest.raises(StopIteration):
        handshake.send(None)  # it never waits


@pytest.mark.parametrize("name", ["a\nb", "a b", "x" * 256, "\ud800"])
async def test_a_posted_message_with_a_name_that_is_none_is_refused(name: str) -> None:
    made = Made(RecordingListener())
    await made.connect()
    with pytest.raises(Refused) as refused:
        await made.session.feed("hi", 2, name=name)
    assert refused.value.status == 400


async def test_a_posted_message_that_is_discarded_at_the_stop_is_answered() -> None:
    async with waiting_hooks() as (listener, _):
        made = Made(listener)
        await made.connect()
        refused: list[int] = []

        async def post() -> None:
            with pytest.raises(Refused) as error:
                await made.session.feed("hi", 2)
            refused.append(error.value.status)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(post)
                tasks.start_soon(post)
                await anyio.lowlevel.checkpoint()
                made.dispatcher.runner.discard(closes=True)
        assert refused == [503, 503]
