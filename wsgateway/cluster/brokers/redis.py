"""Redis and Valkey: PUBLISH and SUBSCRIBE, over TCP, TLS, or a Unix socket."""

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from wsgateway.cluster.brokers import Link, Open, fail
from wsgateway.exceptions import BrokerError

TIMEOUT = 2.0
"""Seconds for one answer of the server."""


class RedisLink:
    """Two connections: one that is subscribed, one that publishes."""

    max_payload = 512 * 1024 * 1024  # of a Redis string

    def __init__(self, publishing: "Redis", reading: "Redis", pubsub: PubSub) -> None:
        self._client = publishing
        self._reading = reading
        self._pubsub = pubsub
        self._confirmed: asyncio.Future[None] | None = None
        self._unconfirmed = 0

    async def publish(self, batch: Sequence[tuple[str, bytes]]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for topic, data in batch:
            pipeline.execute_command("PUBLISH", topic, data)
        try:
            await pipeline.execute()
        except (RedisError, OSError) as exc:
            raise BrokerError(str(exc) or repr(exc)) from exc

    async def subscribe(self, topics: Sequence[str]) -> None:
        # not `PubSub.subscribe`, because redis-py would subscribe again on a new connection before it raises an error
        confirmed = self._confirmed = asyncio.get_running_loop().create_future()
        self._unconfirmed = len(topics)
        await self._send("SUBSCRIBE", topics)
        await confirmed

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        await self._send("UNSUBSCRIBE", topics)

    async def _send(self, command: str, topics: Sequence[str]) -> None:
        connection = self._pubsub.connection
        if connection is None or not connection.is_connected:  # redis-py would connect again
            raise BrokerError("the connection was closed")
        try:
            # a health check would read what `receive` waits for
            await connection.send_command(command, *topics, check_health=False)
        except (RedisError, OSError) as exc:
            raise BrokerError(str(exc) or repr(exc)) from exc

    async def receive(self) -> Sequence[tuple[str, bytes]]:
        while True:
            try:
                response = await self._pubsub.parse_response(block=True)
            except (RedisError, OSError) as exc:
                error = BrokerError(str(exc) or repr(exc))
                self._end_subscribing(error)
                raise error from exc
            if isinstance(response, list) and len(response) == 3:
                kind, topic, data = response
                if isinstance(data, bytes):
                    return ((topic.decode(), data),)
                if kind == b"subscribe":
                    self._unconfirmed -= 1
                    if not self._unconfirmed:
                        self._end_subscribing(None)

    def _end_subscribing(self, error: BrokerError | None) -> None:
        confirmed, self._confirmed = self._confirmed, None
        if confirmed is not None and not confirmed.done():
            if error is None:
                confirmed.set_result(None)
            else:
                fail(confirmed, error)

    async def aclose(self) -> None:
        self._end_subscribing(BrokerError("the link was closed"))
        for part in (self._pubsub, self._reading, self._client):
            try:
                await part.aclose()
            except (RedisError, OSError):
                pass  # it is closed already


def opener(url: str) -> Open:
    """Return a function that opens links to the broker at `url`. Raise `ValueError` if redis-py cannot use it."""
    if url.startswith("unix://") and not urlsplit(url).path:
        raise ValueError("it does not name a socket, as unix:///run/redis.sock does")

    checks: dict[str, Any] = {}
    if url.startswith("rediss://"):  # redis-py before 6 accepts any valid certificate for every host
        checks = {"ssl_check_hostname": ("ssl_cert_reqs", "none") not in parse_qsl(urlsplit(url).query)}

    def client(timeout: float | None) -> "Redis":
        """Return a client. Options that `url` sets take precedence."""
        return Redis.from_url(
            url,
            protocol=2,
            socket_timeout=timeout,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            **checks,
        )

    async def open_link(topics: Sequence[str]) -> Link:
        reading = client(None)  # it may wait for long
        pubsub = reading.pubsub()
        link = RedisLink(client(TIMEOUT), reading, pubsub)
        try:
            await pubsub.subscribe(*topics)
        except BaseException as exc:
            await link.aclose()
            if isinstance(exc, (RedisError, OSError)):
                raise BrokerError(str(exc) or repr(exc)) from exc
            raise
        return link

    try:
        pool: Any = client(None).connection_pool
        pool.make_connection()  # which connects to nothing yet
    except (TypeError, RedisError):
        names = ", ".join(name for name, _ in parse_qsl(urlsplit(url).query))
        raise ValueError(f"redis-py does not know a parameter of its query string: {names}") from None
    return open_link
