"""Probes the proxy in front of a gateway, with requests of a page and its visitor. Does not judge the answers."""

import asyncio
import os
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from wsgateway import client
from wsgateway.cli.checks import Probe
from wsgateway.config.addresses import is_loopback
from wsgateway.exceptions import SendError
from wsgateway.text import mask_url

STRANGER = "wsgateway-doctor.invalid"
"""A host name that cannot exist (RFC 2606)."""


FIRST_BYTE = 3.0
"""Seconds within which the first byte of a stream should arrive."""

PAGE = 100
"""Connections in one page of `/info`."""


async def probe(url: str, *, api_key: str | None = None) -> Probe:
    """Return the answers at `url` to a page and its visitor. Raise `ValueError` if `url` is not an HTTP URL."""
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    path = f"/ws/doctor-{os.urandom(6).hex()}"
    ready, detail = await _ask_ready(url + "/ready")
    upgrade = without_origin = 0
    address: str | None = None
    if 300 <= ready <= 399:
        return Probe(mask_url(url), ready, 0, detail)
    try:
        upgrade, detail = await client.handshake(url + path, origin=origin)
        if upgrade != 101:
            without_origin, _ = await client.handshake(url + path)
        elif api_key and not is_loopback(parts.hostname or ""):
            address = await address_of(url, path, api_key)
    except OSError as exc:
        detail = detail or str(exc)
    strangers = await asyncio.to_thread(opened_to_strangers, url, api_key) if ready else ""
    holds_back = ready == 200 and await asyncio.to_thread(holds_streams_back, url)
    return Probe(
        mask_url(url),
        ready,
        upgrade,
        detail[:300],
        without_origin=without_origin,
        address=address,
        strangers=strangers,
        holds_streams_back=holds_back,
    )


def holds_streams_back(url: str) -> bool:
    """Return whether the first bytes of a stream at `url` do not arrive in time, although it is accepted."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=FIRST_BYTE)
    try:
        connection.connect()
        connection.request("GET", f"{parts.path}/sse", headers={"accept": "text/event-stream"})
        try:
            response = connection.getresponse()
            return response.status == 200 and not response.read1(1)
        except TimeoutError:
            return True
    except (OSError, HTTPException):
        return False  # other probes find other faults
    finally:
        connection.close()


def opened_to_strangers(url: str, api_key: str | None) -> str:
    """Return which request through `url` makes its caller local, in words; empty if no request does.

    Only a local caller gets `/info` without a key. With a key, the answer contains whether its caller is local. A
    stranger may send any `Host`. A proxy that forwards it is tested with `localhost`. On this host, a name that is not
    local distinguishes a proxy that replaces `Host` from the gateway itself.
    """
    parts = urlsplit(url)
    names = [STRANGER] if is_loopback(parts.hostname or "") else [parts.netloc.rpartition("@")[2], "localhost"]
    for name in names:
        if _caller_as(url, name, None) is not None:
            return f"a request for the host {name!r} gets /info without a key"
        shown = _caller_as(url, name, api_key) if api_key else None
        if shown is not None and shown["local"] is True:
            return f"a request for the host {name!r} counts as local, so only the api_key protects it from strangers"
    return ""


def _caller_as(url: str, host: str, api_key: str | None) -> dict[str, Any] | None:
    """Return how a gateway sees a caller that requests `/info` of `host`; None if that is not known."""
    try:
        shown = client.request("GET", f"{url}/info?limit=1", token=api_key, host=host)
    except (OSError, ValueError, SendError):
        return None
    caller = shown.get("caller") if isinstance(shown, dict) else None
    return caller if isinstance(caller, dict) and "local" in caller else None


async def _ask_ready(url: str) -> tuple[int, str]:
    try:
        await asyncio.to_thread(client.request, "GET", url)
    except SendError as exc:
        return exc.status, str(exc.problem.get("detail", "")) if 300 <= exc.status <= 399 else ""
    except OSError as exc:
        return 0, str(exc)
    return 200, ""


async def address_of(url: str, path: str, api_key: str) -> str | None:
    """Return the address that the gateway sees for a client that connects to `path` through the proxy."""
    async with client.connect(client.websocket_url(url) + path):
        try:
            total = (await _ask_info(url, api_key, 0))["total"]
            page = (await _ask_info(url, api_key, max(0, total - PAGE)))["connections"]  # the newest come last
        except (OSError, ValueError, LookupError, TypeError, SendError):
            return None  # another key, another server, or a proxy that hides /info
    return next((str(conn["address"]) for conn in page if conn["path"] == path), None)


async def _ask_info(url: str, api_key: str, offset: int) -> Any:
    return await asyncio.to_thread(client.request, "GET", f"{url}/info?offset={offset}&limit={PAGE}", token=api_key)
