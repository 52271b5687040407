"""NATS: its core subjects, at most once. nats-py's own reconnecting is off, because a link is never repaired."""

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from urllib.parse import urlsplit

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error

from wsgateway.cluster.brokers import Link, Open, fail
from wsgateway.cluster.brokers.republished import Copy, Order
from wsgateway.cluster.history.store import announcement
from wsgateway.exceptions import BrokerError
from wsgateway.frames import Position

TIMEOUT = 2
"""Seconds to connect, and for the server to confirm what was published."""

TOPICS_PER_ITERATION = 64
"""Topics that are subscribed to in one iteration of the event loop."""

UNCONFIRMED = 1024 * 1024
"""Bytes after which the server has to confirm, because the client keeps everything that it cannot write."""

PATIENCE = 0.02
"""Seconds that the copy of a stored message waits for an earlier one."""

SUBJECT = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")
"""A subject without wildcards."""


class NatsClient(Client):
    """nats-py's client, which would send its password unencrypted to a server without TLS, even for `tls://`."""

    def _connect_command(self) -> bytes:
        assert self._current_server is not None
        if self._current_server.uri.scheme == "tls" and not self._server_info.get("tls_required"):
            raise Error("the server does not offer TLS: write nats:// to connect without, or set up TLS there")
        return super()._connect_command()

    def has_shared_subscriptions(self) -> bool:
        """Return whether `subscribe_also` works with this version of nats-py, whose private parts it uses."""
        methods = (getattr(self, name, None) for name in ("_send_command", "_flush_pending"))
        has_table = isinstance(getattr(self, "_subs", None), dict) and isinstance(getattr(self, "_sid", None), int)
        return has_table and all(map(callable, methods))

    async def subscribe_also(self, subscription: Subscription, subject: str) -> int:
        """Pass messages on `subject` to `subscription`, too. Return a number for `unsubscribe_from`.

        Call `publish` afterward, which sends the command. `subscribe` would create a queue and a task for each subject:
        5 KB, and 20,000 of them make a full garbage collection take 0.2 s.
        """
        self._sid += 1
        self._subs[self._sid] = subscription
        await self._send_command(f"SUB {subject}  {self._sid}\r\n".encode())
        return self._sid

    async def unsubscribe_from(self, numbers: Iterable[int]) -> None:
        """End what `subscribe_also` has begun."""
        for number in numbers:
            self._subs.pop(number, None)
            await self._send_command(f"UNSUB {number}\r\n".encode())
        await self._flush_pending()

    def abandon(self) -> None:
        """Close the socket of a connect that has failed, which nats-py leaves open."""
        if self._transport:
            self._transport.close()  # type: ignore[no-untyped-call]  # nats-py's


async def connect(
    servers: Sequence[str],
    failed: Callable[[Exception], Awaitable[None]],
    closed: Callable[[], Awaitable[None]],
) -> NatsClient:
    """Return a client that is connected to one of `servers`, and never connects again.

    It calls `failed` for an error, and `closed` at its end. Raise `Error`, `OSError`, `TimeoutError`.
    """
    client = NatsClient()
    try:
        await client.connect(
            list(servers),
            allow_reconnect=False,
            max_reconnect_attempts=1,  # 0 would mean no limit, at the first connect too
            reconnect_time_wait=0,
            connect_timeout=TIMEOUT,
            error_cb=failed,
            closed_cb=closed,
        )
    except BaseException:
        client.abandon()
        raise
    return client


class NatsLink:
    def __init__(self) -> None:
        self._client: NatsClient | None = None
        self._arrived: list[tuple[str, bytes]] = []
        self._something = asyncio.Event()
        self._order = Order()
        self._releasing: asyncio.TimerHandle | None = None
        self.failure: str | None = None
        """Why the link is lost, if the client has reported it."""

        self._unconfirmed = 0
        self._shared: Subscription | None = None
        self._numbers: dict[str, int] = {}
        self._subscriptions: dict[str, Subscription] = {}
        """The topics of `subscribe`: their numbers in `_shared`, or their own subscriptions if it cannot be shared."""

        self._fence = f"wsgateway.fence.{secrets.token_hex(8)}"
        self._fenced: asyncio.Future[None] | None = None

    async def open(self, servers: Sequence[str], topics: Sequence[str]) -> None:
        """Connect and subscribe. Raise `Error`, `OSError`, `TimeoutError`."""
        client = self._client = await connect(servers, self._failed, self._closed)
        await client.subscribe(self._fence, cb=self._receive_fence)
        for topic in topics:
            await client.subscribe(topic, cb=self._received)
        if client.has_shared_subscriptions():
            self._shared = await client.subscribe(f"{self._fence}.shared", cb=self._received)
        await client.flush(TIMEOUT)

    @property
    def max_payload(self) -> int:
        assert self._client is not None
        return self._client.max_payload

    async def publish(self, batch: Sequence[tuple[str, bytes]]) -> None:
        assert self._client is not None
        try:
            for topic, data in batch:
                await self._client.publish(topic, data)
                self._unconfirmed += len(data)
                if self._unconfirmed > UNCONFIRMED:
                    await self._client.flush(TIMEOUT)
                    self._unconfirmed = 0
        except (Error, OSError) as exc:
            raise BrokerError(str(exc) or repr(exc)) from exc

    async def subscribe(self, topics: Sequence[str]) -> None:
        assert self._client is not None
        fenced = self._fenced = asyncio.get_running_loop().create_future()
        try:
            for count, topic in enumerate(topics, 1):
                if not SUBJECT.fullmatch(topic):
                    raise BrokerError(f"{topic!r} is not a subject without wildcards")
                if self._shared is None:
                    self._subscriptions[topic] = await self._client.subscribe(topic, cb=self._received)
                else:
                    self._numbers[topic] = await self._client.subscribe_also(self._shared, topic)
                if count % TOPICS_PER_ITERATION == 0:
                    await asyncio.sleep(0)  # serves others
            # not `flush`, because nats-py may write its PING before the subscriptions
            await self._client.publish(self._fence)
        except (Error, OSError) as exc:
            raise BrokerError(str(exc) or repr(exc)) from exc
        if self.failure is not None:
            raise BrokerError(self.failure)
        await fenced

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        assert self._client is not None
        for topic in topics:
            self._order.forget(topic)
        try:
            if self._shared is not None:
                numbers = [self._numbers.pop(topic) for topic in topics if topic in self._numbers]
                await self._client.unsubscribe_from(numbers)
                return
            for topic in topics:
                if topic in self._subscriptions:
                    await self._subscriptions.pop(topic).unsubscribe()
        except (Error, OSError) as exc:
            raise BrokerError(str(exc) or repr(exc)) from exc

    async def receive(self) -> Sequence[tuple[str, bytes]]:
        await self._something.wait()
        arrived, self._arrived = self._arrived, []
        if not arrived:
            raise BrokerError(self.failure or "the connection was closed")
        if self.failure is None:
            self._something.clear()
        return arrived

    async def aclose(self) -> None:
        if self._releasing is not None:
            self._releasing.cancel()
        if self._client is not None and not self._client.is_closed:
            try:
                await self._client.close()
            except (Error, OSError):
                pass  # it is closed already

    async def _received(self, message: Msg) -> None:
        copy = _copy_of(message) if message.headers else None
        if copy is None:
            self._arrived.append((message.subject, message.data))
        else:
            topic = message.subject
            self._arrived += [(topic, _announced(each)) for each in self._order.arrived(topic, copy)]
            if self._order and self._releasing is None:
                self._releasing = asyncio.get_running_loop().call_later(PATIENCE, self._release)
        if self._arrived:
            self._something.set()

    def _release(self) -> None:
        """Pass on the copies that have waited for earlier ones."""
        self._releasing = None
        self._arrived += [(topic, _announced(copy)) for topic, copy in self._order.release()]
        self._something.set()

    async def _receive_fence(self, message: Msg) -> None:
        del message
        if self._fenced is not None and not self._fenced.done():
            self._fenced.set_result(None)

    async def _failed(self, error: Exception) -> None:
        self._lose(str(error) or repr(error))

    async def _closed(self) -> None:
        self._lose(self.failure or "the connection was closed")

    def _lose(self, failure: str) -> None:
        self.failure = failure
        self._something.set()
        if self._fenced is not None:
            fail(self._fenced, BrokerError(failure))


def _copy_of(message: Msg) -> Copy | None:
    """Return the message as a copy of one that JetStream has stored, None if it is not."""
    headers = message.headers or {}
    try:
        return Copy(
            headers["Nats-Stream"], int(headers["Nats-Last-Sequence"]), int(headers["Nats-Sequence"]), message.data
        )
    except (KeyError, ValueError):
        return None


def _announced(copy: Copy) -> bytes:
    """Return what a history store would have published."""
    return announcement(copy.prev, Position(epoch_of(copy.stream), copy.offset), copy.data)


def epoch_of(stream: str) -> str:
    """Return the epoch of a stream, which is the end of its name."""
    return stream.rpartition("_")[2]


def servers_in(url: str) -> list[str]:
    """Return the URLs of servers in `url`, which may have commas in between.

    Raise `ValueError` for a URL without a host.
    """
    scheme = url.partition("://")[0]
    servers = [part if "://" in part else f"{scheme}://{part}" for part in url.split(",")]
    if not all(urlsplit(server).hostname for server in servers):
        raise ValueError("it does not name a host")
    return servers


def opener(url: str) -> Open:
    """Return a function that opens links to the broker at `url`, or at one of several URLs with commas in between.

    Raise `ValueError` for a URL without a host.
    """
    servers = servers_in(url)

    async def open_link(topics: Sequence[str]) -> Link:
        link = NatsLink()
        try:
            await link.open(servers, topics)
        except BaseException as exc:
            await link.aclose()
            if isinstance(exc, (Error, OSError, TimeoutError)):
                raise BrokerError(link.failure or str(exc) or repr(exc)) from exc
            raise
        return link

    return open_link
