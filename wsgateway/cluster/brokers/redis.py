"""Redis and Valkey: PUBLISH and SUBSCRIBE, over TCP, TLS, or a Unix socket."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from wsgateway.cluster.brokers import Link, Open
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
