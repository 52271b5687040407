"""The Redis server that Sentinel names: `redis-sentinel://[USER:PASSWORD@]HOST:PORT[,HOST:PORT…]/SERVICE`."""

from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

SCHEME = "redis-sentinel"

DEFAULT_PORT = 26379

ASK_SECONDS = 1.0
"""Seconds that one Sentinel has to answer, before the next one is asked. The one that answers is asked first later."""


class Sentinels:
    """The Sentinels of one URL, and the service whose master they know.

    User, password, and query string are those for the master, except `sentinel_username` and `sentinel_password`.
    """

    def __init__(self, url: str) -> None:
        """Raise `ValueError` if a part of the URL is missing."""
        end = min((index for mark in "/?#" if (index := url.find(mark, url.index("://") + 3)) >= 0), default=len(url))
        self._user, self._at, hosts = url[url.index("://") + 3 : end].rpartition("@")
        parts = urlsplit(f"{SCHEME}://host{url[end:]}")
        self.service = unquote(parts.path[1:])
        if not self.service or "/" in self.service:
            raise ValueError("it does not name a service, as redis-sentinel://host:26379/mymaster does")
        options = parse_qsl(parts.query, keep_blank_values=True)
        self._query = urlencode([option for option in options if not option[0].startswith("sentinel_")])
        self._credentials = {name.removeprefix("sentinel_"): value for name, value in options if "sentinel_" in name}
        if self._credentials.keys() - {"username", "password"}:
            raise ValueError("its query string may have sentinel_username and sentinel_password, and options of Redis")
        self._addresses: list[tuple[str, int]] = []
        for host in hosts.split(","):
            address = urlsplit(f"redis://{host}")
            if not address.hostname:
                raise ValueError("it does not name a host, as redis-sentinel://host:26379/mymaster does")
            self._addresses.append((address.hostname, address.port or DEFAULT_PORT))

    def url_of(self, host: str, port: int) -> str:
        """Return the URL of a server of the service."""
        return f"redis://{self._user}{self._at}{f'[{host}]' if ':' in host else host}:{port}/?{self._query}"

    async def master(self) -> str:
        """Return the URL of the present master. Raise an error of redis-py if no Sentinel knows one."""
        reasons = []
        for host, port in tuple(self._addresses):
            client = self._client(host, port)
            try:
                address: Any = await client.sentinel_get_master_addr_by_name(self.service)
            except (RedisError, OSError) as exc:
                reasons.append(f"{host}:{port}: {exc}")
                continue
            finally:
                await client.aclose()
            if address is not None:
                self._addresses.remove((host, port))
                self._addresses.insert(0, (host, port))
                name, number = address
                return self.url_of(name.decode() if isinstance(name, bytes) else name, int(number))
            reasons.append(f"{host}:{port} has no service of this name")
        raise RedisConnectionError(f"no Sentinel knows the master of {self.service!r} ({'; '.join(reasons)})")

    def _client(self, host: str, port: int) -> "Redis":
        return Redis(
            host=host,
            port=port,
            username=self._credentials.get("username"),
            password=self._credentials.get("password"),
            protocol=2,
            socket_timeout=ASK_SECONDS,
            socket_connect_timeout=ASK_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
