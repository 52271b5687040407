"""Redis and Valkey: PUBLISH and SUBSCRIBE, over TCP, TLS, or a Unix socket."""

import asyncio
from collections.abc import Sequence

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from wsgateway.cluster.brokers import Link, Open, fail
from wsgateway.cluster.brokers.redis_server import RedisServer
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

    async def open(self, topics: Sequence[str]) -> None:
        """Connect and subscribe. Raise `RedisError`, `OSError`."""
        self._unconfirmed = len(topics)
        await self._pubsub.subscribe(*topics)

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
        self._unconfirmed += len(topics)
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
    server = RedisServer(url)

    async def open_link(topics: Sequence[str]) -> Link:
        try:
            reading = await server.client(answer_seconds=None)  # it may wait for long
            pubsub = reading.pubsub()
            link = RedisLink(await server.client(answer_seconds=TIMEOUT), reading, pubsub)
        except (RedisError, OSError) as exc:
            raise BrokerError(str(exc) or repr(exc)) from exc
        try:
            await link.open(topics)
        except BaseException as exc:
            await link.aclose()
            if isinstance(exc, (RedisError, OSError)):
                raise BrokerError(str(exc) or repr(exc)) from exc
            raise
        return link

    return open_link
