"""Brokers, which carry bytes between the nodes of a gateway, chosen by URL. Knows nothing of what the bytes mean."""

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Sequence
from importlib.util import find_spec
from typing import Protocol
from urllib.parse import urlsplit

from wsgateway.exceptions import BrokerError, ConfigError
from wsgateway.text import mask_url


class Link(Protocol):
    """One connection to a broker, subscribed to some topics. A link that fails is replaced, never repaired."""

    @property
    def max_payload(self) -> int:
        """Bytes of the largest message that the broker accepts."""

    async def publish(self, batch: Sequence[tuple[str, bytes]]) -> None:
        """Write each `(topic, data)`, in order; one caller at a time. Raise `BrokerError` when the link is lost."""

    async def subscribe(self, topics: Sequence[str]) -> None:
        """Subscribe to more topics; one caller at a time. Return when everything that is published from then on will be
        received, which requires that `receive` is called meanwhile. Raise `BrokerError` when the link is lost."""

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """Unsubscribe from topics; one caller at a time. Some messages may still arrive. Raise `BrokerError` when the
        link is lost."""

    async def receive(self) -> Sequence[tuple[str, bytes]]:
        """Wait for messages and return them with their topics, those of one sender and topic in order. The list may be
        empty. Raise `BrokerError` when the link is lost."""

    async def aclose(self) -> None:
        """Close the link. May be called twice, never raises."""


Open = Callable[[Sequence[str]], Awaitable[Link]]
"""Opens a link that is subscribed to topics, or raises `BrokerError`. Call `release` when no more are needed."""


async def release(open_link: Open) -> None:
    """Release what `open_link` keeps for further links. That is the proxy of `ipc://`; others keep nothing."""
    release_kept: Callable[[], Awaitable[None]] | None = getattr(open_link, "release", None)
    if release_kept is not None:
        await release_kept()


def fail(future: asyncio.Future[None], error: BrokerError) -> None:
    """Set `error` as the exception of `future`, unless it is done. Nothing is logged if no caller awaits it."""
    if not future.done():
        future.set_exception(error)
        future.exception()  # marks it as retrieved


DRIVERS = {
    "ipc": ("ipc", "zmq"),
    "redis": ("redis", "redis"),
    "rediss": ("redis", "redis"),
    "redis-sentinel": ("redis", "redis"),
    "unix": ("redis", "redis"),
    "nats": ("nats", "nats"),
    "tls": ("nats", "nats"),
}
"""For each scheme, the module here and the package that it requires."""


def opener(url: str) -> Open:
    """Return a function that opens links to the broker at `url`. Raise `ConfigError` with advice."""
    if not isinstance(url, str):
        raise ConfigError(["broker: it is not a URL such as redis://host:6379"])
    scheme = url.partition("://")[0].lower()
    url = scheme + url[len(scheme) :]
    if "://" not in url or scheme not in DRIVERS:  # without a scheme, any part may be a password
        what = repr(mask_url(url)) if "://" in url else "it"
        kinds = "ipc://, redis://, rediss://, redis-sentinel://, unix:// and nats://"
        raise ConfigError([f"broker: {what} is not one of {kinds}; one looks like redis://host:6379"])
    module, package = DRIVERS[scheme]
    if find_spec(package) is None:
        raise ConfigError(
            [f"broker: {scheme}:// requires a package that is not installed: pip install 'wsgateway[{module}]'"]
        )
    driver = importlib.import_module(f"wsgateway.cluster.brokers.{module}")
    try:
        if scheme != "ipc":
            for server in url.split(",") if module == "nats" else _sentinels_in(url) or [url]:
                _check_server(server if "://" in server else f"{scheme}://{server}")
        open_link: Open = driver.opener(url)
    except ValueError as exc:
        raise ConfigError([f"broker: {mask_url(url)!r} cannot be used: {exc}"]) from None
    return open_link


def _sentinels_in(url: str) -> list[str]:
    """Return a URL for each Sentinel in `url`; an empty list if it names none. The first also has all other parts."""
    scheme, _, rest = url.partition("://")
    if scheme != "redis-sentinel":
        return []
    end = min((index for mark in "/?#" if (index := rest.find(mark)) >= 0), default=len(rest))
    user, at, hosts = rest[:end].rpartition("@")
    first, *others = hosts.split(",")
    return [f"{user}{at}{first}{rest[end:]}", *others]


def _check_server(url: str) -> None:
    """Raise `ValueError` unless host and port of `url` are unambiguous. Drivers would quote a password in errors."""
    try:
        parts = urlsplit(url)
        _ = parts.hostname, parts.port
    except ValueError:
        parts = None
    if parts is None or (parts.netloc and "@" in parts.path + parts.query + parts.fragment):
        raise ValueError(
            "its host or port cannot be read; write %2F for `/`, %3F for `?`, %23 for `#`, %40 for `@` in a password"
        ) from None
