"""Fetches the key set of an issuer (RFC 7517), and keeps it. Knows no tokens and no claims."""

import asyncio
import re
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from http.client import HTTPException, HTTPMessage
from threading import Thread
from typing import IO, NamedTuple, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit

from wsgateway.auth.tokens import Key, KeyRefused, keys_of_set
from wsgateway.config.addresses import is_loopback
from wsgateway.exceptions import Refused
from wsgateway.logs import GatewayLog
from wsgateway.protocols.identity import KEYS_UNAVAILABLE
from wsgateway.text import mask_url

LIFETIME = 300.0
"""Seconds that a key set is used without fetching it again, unless the response has a `max-age`."""

MAX_LIFETIME = 3600.0
"""The maximum of a `max-age`, in seconds."""

STALE = 86400.0
"""Seconds that a key set is used after its lifetime while the issuer is unreachable."""

PAUSE = 10.0
"""Seconds between two fetches for key ids that are not known, and between two for a key set that has expired."""

FIRST_PAUSE = 1.0
"""Seconds before the second attempt to fetch the first key set. The pause doubles up to `PAUSE`."""

TIMEOUT = 5.0
"""Seconds that a fetch may take."""

MAX_BYTES = 65536
"""Bytes of a key set."""

_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=\"?(\d{1,9})", re.IGNORECASE)

T = TypeVar("T")


class Document(NamedTuple):
    """The body of a response, and how long it may be kept, in seconds."""

    body: bytes
    lifetime: float


Fetch = Callable[[str], Awaitable[Document]]
"""Returns the document at a URL."""


class KeySet:
    """The key set at one URL. Clients whose key is not known wait for the fetch, which is made for all of them."""

    def __init__(self, url: str, log: GatewayLog, *, patience: float, fetch: Fetch) -> None:
        """A client waits at most `patience` seconds for the first key set. `fetch` raises as `download`."""
        self._url = url
        self._log = log
        self._patience = patience
        self._download = fetch
        self._loop = asyncio.get_running_loop()
        self._keys: tuple[Key, ...] = ()
        self._expires = 0.0  # in the time of the event loop, as all times here
        self._may_look_at = 0.0
        self._may_renew_at = 0.0
        self._ready = asyncio.Event()
        self._fetching: asyncio.Task[None] | None = None
        self._first: asyncio.Task[None] | None = None
        self._has_failed = False

    def start(self) -> None:
        """Fetch the key set in the background, until it has arrived."""
        self._first = asyncio.create_task(self._fetch_first())

    async def aclose(self) -> None:
        """Stop fetching. May be called twice."""
        tasks = [task for task in (self._first, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def keys(self, kid: str | None) -> Sequence[Key]:
        """Return the keys with the id `kid`, or every key if it is None. An unknown id may cause a fetch.

        Raise `Refused` if no key set could be fetched in time.
        """
        await self._renewed()
        if not self._keys:
            raise Refused.of(KEYS_UNAVAILABLE)
        if kid is None:
            return self._keys
        if not self._find(kid) and self._loop.time() >= self._may_look_at:
            self._may_look_at = self._loop.time() + PAUSE
            await self._fetched()
        elif not self._find(kid) and self._fetching is not None:
            await self._fetched()
        return self._find(kid) or self._find(None)

    def _find(self, kid: str | None) -> Sequence[Key]:
        return [key for key in self._keys if key.kid == kid]

    async def _renewed(self) -> None:
        """Wait for the first key set, or fetch one that has expired."""
        if self._keys and self._loop.time() >= self._expires:
            if self._fetching is not None or self._loop.time() >= self._may_renew_at:
                self._may_renew_at = self._loop.time() + PAUSE
                await self._fetched()
            if self._loop.time() >= self._expires + STALE:
                self._keys = ()
                self._ready.clear()
                self.start()
        if not self._keys:
            try:
                async with asyncio.timeout(self._patience):
                    await self._ready.wait()
            except TimeoutError:
                pass

    async def _fetch_first(self) -> None:
        pause = FIRST_PAUSE
        while not self._keys:
            await self._fetched()
            if not self._keys:
                await asyncio.sleep(pause)  # so that an issuer that is down is not asked all the time
                pause = min(pause * 2, PAUSE)

    async def _fetched(self) -> None:
        """Wait for the fetch that runs. Without one, begin it."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch())
        await asyncio.wait((self._fetching,))

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                document = await self._download(self._url)
            keys = keys_of_set(document.body)
        except (OSError, HTTPException, ValueError) as exc:  # a `TimeoutError` is an `OSError`
            self._has_failed = True
            reason = f"no answer within {TIMEOUT:g} s" if isinstance(exc, TimeoutError) else exc
            self._log.limited("key set").warning(
                "cannot fetch the keys of tokens from %s: %s%s",
                mask_url(self._url),
                reason,
                "; the old ones are still used" if self._keys else "",
            )
        else:
            self._keys = keys
            self._expires = self._loop.time() + document.lifetime
            self._ready.set()
            if self._has_failed:
                self._has_failed = False
                self._log.info("fetched the keys of tokens from %s", mask_url(self._url))
        finally:
            self._fetching = None


async def fetched(url: str) -> Document:
    """Return the document at `url`, without blocking the event loop. Raise as `download`."""
    return await in_thread(lambda: download(url))


async def in_thread(function: Callable[[], T]) -> T:
    """Return the result of `function`, which runs in a thread of its own. The process does not wait for the thread."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return  # the caller was cancelled, or has not waited for so long
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None only if `T` includes it

    def run() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = function()
        except Exception as exc:
            error = exc
        try:
            loop.call_soon_threadsafe(finish, result, error)
        except RuntimeError:
            pass  # the event loop was closed

    Thread(target=run, name="wsgateway keys", daemon=True).start()
    return await future


class _SameOrigin(urllib.request.HTTPRedirectHandler):
    """Refuses redirects to another host, whose keys would then be trusted."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if _origin_of(newurl) != _origin_of(req.full_url):
            raise OSError("it redirects to another host, so write the URL of that host as token_jwks")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _origin_of(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def download(url: str) -> Document:
    """Return the document at `url`. Raise `OSError`, `ValueError`, or `HTTPException`. Called in a thread."""
    deadline = time.monotonic() + TIMEOUT
    handlers: list[urllib.request.BaseHandler] = [_SameOrigin()]
    if is_loopback(urlsplit(url).hostname or ""):  # a proxy would be another host, whose keys would count
        handlers.append(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers={"accept": "application/json", "user-agent": "wsgateway"})  # noqa: S310  `fault_of_jwks` has checked it
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT) as response:
            body = bytearray()
            while chunk := response.read1(MAX_BYTES):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise KeyRefused(f"it has more than {MAX_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError
            return Document(bytes(body), lifetime_of(response.headers.get("cache-control", "")))
    except HTTPError as exc:
        with exc:
            raise OSError(f"the answer has the status {exc.code}") from None


def lifetime_of(cache_control: str) -> float:
    """Return the seconds that a response with the header `Cache-Control` is kept (RFC 9111 5.2.2.1)."""
    match = _MAX_AGE.search(cache_control)
    return LIFETIME if match is None else min(max(float(match[1]), PAUSE), MAX_LIFETIME)
