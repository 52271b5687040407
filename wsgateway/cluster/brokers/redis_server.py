"""The Redis or Valkey server that a URL names, and how to connect to it."""

from typing import Any
from urllib.parse import parse_qsl, urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from wsgateway.cluster.brokers.sentinel import SCHEME, Sentinels
from wsgateway.text import mask_url

CONNECT_TIMEOUT = 2.0
"""Seconds to connect to a server, and again for its first answers."""


class RedisServer:
    """The server of one URL. `name` is the URL without its password."""

    def __init__(self, url: str) -> None:
        """Raise `ValueError` if redis-py cannot use `url`."""
        if url.startswith("unix://") and not urlsplit(url).path:
            raise ValueError("it does not name a socket, as unix:///run/redis.sock does")
        self.name = mask_url(url)
        self._sentinels = Sentinels(url) if url.startswith(f"{SCHEME}://") else None
        self._url = url if self._sentinels is None else self._sentinels.url_of("host", 6379)
        self._checks: dict[str, Any] = {}
        if url.startswith("rediss://"):  # redis-py before 6 accepts any valid certificate for every host
            self._checks["ssl_check_hostname"] = ("ssl_cert_reqs", "none") not in parse_qsl(urlsplit(url).query)
        try:
            pool: Any = self._client(self._url, None).connection_pool
            pool.make_connection()  # which connects to nothing yet
        except (TypeError, RedisError):
            names = ", ".join(name for name, _ in parse_qsl(urlsplit(url).query))
            raise ValueError(f"redis-py does not know a parameter of its query string: {names}") from None

    async def client(self, *, answer_seconds: float | None) -> "Redis":
        """Return a client, which connects with its first command. Without `answer_seconds`, an answer has no limit.

        With Sentinel, it is a client of the present master. Raise an error of redis-py if there is none.
        """
        if self._sentinels is None:
            return self._client(self._url, answer_seconds)
        return self._client(await self._sentinels.master(), answer_seconds)

    async def connect(self) -> Any:
        """Return redis-py's connection, without a time limit for answers. Raise what redis-py raises."""
        client = await self.client(answer_seconds=None)
        pool: Any = client.connection_pool
        connection = pool.make_connection()
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def _client(self, url: str, answer_seconds: float | None) -> "Redis":
        """Return a client. Options that the URL sets take precedence."""
        return Redis.from_url(
            url,
            protocol=2,
            socket_timeout=answer_seconds,
            socket_connect_timeout=CONNECT_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            **self._checks,
        )
