"""Redis and Valkey: PUBLISH and SUBSCRIBE, over TCP, TLS, or a Unix socket."""

from collections.abc import Sequence

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from wsgateway.cluster.brokers import Link, Open
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

    async def publish(self, batch: Sequence[tuple[str, bytes]]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for topic, data in batch:
            pipeline.execute_command("PUBLISH", topic, data)
        try:
            await pipeline.execute()
        except (RedisError, OSError) as exc:
            raise BrokerError(str(exc) or repr(exc)) from exc

    async def receive(self) -> Sequence[tuple[str, bytes]]:
        while True:
            try:
                response = await self._pubsub.parse_response(block=True)
            except (RedisError, OSError) as exc:
                raise BrokerError(str(exc) or repr(exc)) from exc
            if isinstance(response, list) and len(response) == 3 and isinstance(response[2], bytes):
                return ((response[1].decode(), response[2]),)

    async def aclose(self) -> None:
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
            await pubsub.subscribe(*topics)
        except BaseException as exc:
            await link.aclose()
            if isinstance(exc, (RedisError, OSError)):
                raise BrokerError(str(exc) or repr(exc)) from exc
            raise
        return link

    return open_link
