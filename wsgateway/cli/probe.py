"""Asks what stands in front of a gateway, as a page and its visitor would. Knows nothing of what the answers mean."""

import asyncio
import os
from typing import Any
from urllib.parse import urlsplit

from wsgateway import client
from wsgateway.addresses import is_loopback
from wsgateway.cli.checks import Probe
from wsgateway.exceptions import SendError
from wsgateway.text import mask_url

STRANGER = "wsgateway-doctor.invalid"
"""A host name that nobody has (RFC 2606)."""


PAGE = 100
"""Connections in a page of `/info`."""


async def probe(url: str, *, api_key: str | None = None) -> Probe:
    """What answers at `url`, asked as a page and its visitor would. Raises `ValueError` for what is not an HTTP URL."""
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    path = f"/ws/doctor-{os.urandom(6).hex()}"
    ready, detail = await _status(url + "/ready")
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
    return Probe(
        mask_url(url),
        ready,
        upgrade,
        detail[:300],
        without_origin=without_origin,
        address=address,
        strangers=strangers,
    )


def opened_to_strangers(url: str, api_key: str | None) -> str:
    """Return what makes a caller through `url` a local one, empty if nothing does.

    Only a local caller may ask for `/info` without a key, and with one the answer says whether it would be. A stranger
    may ask for any name: a proxy that passes it on has to be asked for `localhost`, and one that puts another in its
    place for one that is not local, so that an address of this host is told from what stands in front of it.
    """
    parts = urlsplit(url)
    names = [STRANGER] if is_loopback(parts.hostname or "") else [parts.netloc.rpartition("@")[2], "localhost"]
    for name in names:
        if _asked_as(url, name, None) is not None:
            return f"asked for the host {name!r} it shows /info without a key"
        shown = _asked_as(url, name, api_key) if api_key else None
        if shown is not None and shown["local"] is True:
            return f"asked for the host {name!r}; only the api_key keeps strangers out"
    return ""


def _asked_as(url: str, host: str, api_key: str | None) -> dict[str, Any] | None:
    """Return how a gateway sees a request for its `/info` under the name `host`; None if it does not answer that."""
    try:
        shown = client.request("GET", f"{url}/info?limit=1", token=api_key, host=host)
    except (OSError, ValueError, SendError):
        return None
    caller = shown.get("caller") if isinstance(shown, dict) else None
    return caller if isinstance(caller, dict) and "local" in caller else None


async def _status(url: str) -> tuple[int, str]:
    try:
        await asyncio.to_thread(client.request, "GET", url)
    except SendError as exc:
        return exc.status, str(exc.problem.get("detail", "")) if 300 <= exc.status <= 399 else ""
    except OSError as exc:
        return 0, str(exc)
    return 200, ""


async def address_of(url: str, path: str, api_key: str) -> str | None:
    """The address that the gateway has of a client which connects at `path` through the proxy."""
    async with client.connect(client.websocket_url(url) + path):
        try:
            total = (await _info(url, api_key, 0))["total"]
            page = (await _info(url, api_key, max(0, total - PAGE)))["connections"]  # the newest are the last
        except (OSError, ValueError, LookupError, TypeError, SendError):
            return None  # another key, another server, or the proxy keeps it to itself
    return next((str(conn["address"]) for conn in page if conn["path"] == path), None)


async def _info(url: str, api_key: str, offset: int) -> Any:
    return await asyncio.to_thread(client.request, "GET", f"{url}/info?offset={offset}&limit={PAGE}", token=api_key)
