"""Brokers: what carries bytes between the processes of a gateway, chosen by URL. Knows nothing of what they mean."""

import importlib
from collections.abc import Awaitable, Callable, Sequence
from importlib.util import find_spec
from typing import Protocol
from urllib.parse import urlsplit

from wsgateway.exceptions import ConfigError
from wsgateway.text import mask_url


class Link(Protocol):
    """One connection to a broker, subscribed to some topics. It is never mended: when it fails, another is opened."""

    @property
    def max_payload(self) -> int:
        """Bytes that the broker takes at once."""

    async def publish(self, batch: Sequence[tuple[str, bytes]]) -> None:
        """Write each `(topic, data)`, in order; one caller at a time. Raises `BrokerError` when the link is lost."""

    async def receive(self) -> Sequence[tuple[str, bytes]]:
        """Wait for messages and return them with their topics, those of one sender in order. Raise `BrokerError` when
        the link is lost."""

    async def aclose(self) -> None:
        """Close it. May be called twice, never raises."""


Open = Callable[[Sequence[str]], Awaitable[Link]]
"""Opens a link that is subscribed to topics. Raises `BrokerError`."""

DRIVERS = {
    "ipc": ("ipc", "zmq"),
    "redis": ("redis", "redis"),
    "rediss": ("redis", "redis"),
    "unix": ("redis", "redis"),
    "nats": ("nats", "nats"),
    "tls": ("nats", "nats"),
}
"""The module here, and the package it needs, for each scheme."""


def opener(url: str) -> Open:
    """What opens links to the broker at `url`. Connects to nothing yet. Raises `ConfigError` with what to do."""
    if not isinstance(url, str):
        raise ConfigError(["broker: it is no URL; one looks like redis://host:6379"])
    scheme = url.partition("://")[0].lower()
    url = scheme + url[len(scheme) :]
    if "://" not in url or scheme not in DRIVERS:  # without a scheme nobody knows which part of it is a password
        what = repr(mask_url(url)) if "://" in url else "it"
        kinds = "ipc://, redis://, rediss://, unix:// and nats://"
        raise ConfigError([f"broker: {what} is none of {kinds}, as redis://host:6379"])
    module, package = DRIVERS[scheme]
    if find_spec(package) is None:
        raise ConfigError([f"broker: {scheme}:// needs more than is installed: pip install 'wsgateway[{module}]'"])
    driver = importlib.import_module(f"wsgateway.cluster.brokers.{module}")
    try:
        if scheme != "ipc":
            for server in url.split(",") if module == "nats" else [url]:
                _check_server(server if "://" in server else f"{scheme}://{server}")
        found: Open = driver.opener(url)
    except ValueError as exc:
        raise ConfigError([f"broker: {mask_url(url)!r} cannot be used: {exc}"]) from None
    return found


def _check_server(url: str) -> None:
    """Raise `ValueError` if the host or port of `url` cannot be read for certain. Drivers would quote the password."""
    try:
        parts = urlsplit(url)
        _ = parts.hostname, parts.port
    except ValueError:
        parts = None
    if parts is None or (parts.netloc and "@" in parts.path + parts.query + parts.fragment):
        raise ValueError(
            "its host or port cannot be read; write %2F for `/`, %3F for `?`, %23 for `#`, %40 for `@` in a password"
        ) from None
