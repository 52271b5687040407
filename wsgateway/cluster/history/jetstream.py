"""A connection to a NATS server with JetStream: requests, and publications that a stream acknowledges.

Does not know what they mean.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from nats.aio.msg import Msg
from nats.errors import Error, MaxPayloadError, NoRespondersError

from wsgateway.cluster.brokers.nats import NatsClient, connect, servers_in
from wsgateway.cluster.history.faults import LATE
from wsgateway.config.grace import BROKER_GRACE
from wsgateway.exceptions import HistoryError
from wsgateway.limits import Backlog

R = TypeVar("R")

TIMEOUT = 2.0
"""Seconds until a publication must have been acknowledged, or a request answered."""

MAX_UNANSWERED = 10_000
MAX_UNANSWERED_BYTES = 32 * 1024 * 1024
"""Limits of the publications without an acknowledgement. Above them, a publication fails immediately."""

MAX_REQUESTS = 256
"""Requests in flight. More wait."""

CLOSED = "the history is closed, because the gateway does not run"

WITHOUT_JETSTREAM = (
    "the server {name} has no JetStream for the user of the broker's URL: start nats-server with -js, or enable "
    "jetstream in its configuration and for the account, or set history = 0"
)

SENTENCES = {
    10023: "the server has reached the limit of its memory for JetStream, raise max_mem",
    10028: "the account has reached the limit of its memory for JetStream, raise it",
    10002: "the account has reached the limit of its memory for JetStream, raise it",
    10039: "JetStream is not enabled for the account of the broker's URL, enable it",
    10076: "JetStream is not enabled on the server, start nats-server with -js",
}
"""What to do about errors of JetStream, by their number."""


class _Unanswered(NamedTuple):
    """A publication whose acknowledgement, once converted, is the result of `future`."""

    future: "asyncio.Future[Any]"
    convert: Callable[[dict[str, Any]], Any]
    sent: float


class JetStream:
    """Connects when it is needed. If the connection is lost, everything that waits for an answer fails."""

    def __init__(self, url: str) -> None:
        """Raise `ValueError` for a URL without a host."""
        self._servers = servers_in(url)
        self.name = ", ".join([f"{part.hostname}:{part.port or 4222}" for part in map(urlsplit, self._servers)])
        self.generation = 0
        """Grows with each connection, because a server that was started again may have lost its streams."""

        self._client: NatsClient | None = None
        self._connecting = asyncio.Lock()
        self._failure = ""
        self._unreachable: tuple[float, str] | None = None  # when and why the last attempt has failed
        self._heard = 0.0
        self._inbox = ""
        self._number = 0
        self._unanswered: dict[int, _Unanswered] = {}
        self._backlog = Backlog(MAX_UNANSWERED, MAX_UNANSWERED_BYTES)
        self._timer: asyncio.TimerHandle | None = None
        self._requests = asyncio.Semaphore(MAX_REQUESTS)
        self.is_closed = False

    async def connect(self) -> NatsClient:
        """Return the connected client. Raise `HistoryError`."""
        client = self._client
        if client is not None and not client.is_closed and not self._failure:
            return client
        loop = asyncio.get_running_loop()
        asked = loop.time()
        async with self._connecting:
            if self.is_closed:
                raise HistoryError(CLOSED)
            if self._client is not None and not self._client.is_closed and not self._failure:
                return self._client
            if self._unreachable is not None and self._unreachable[0] > asked:  # an attempt has failed meanwhile
                raise HistoryError(self._unreachable[1])
            await self._drop()
            try:
                client = await connect(self._servers, self._failed, self._ended)
                self._client, self._failure = client, ""
                self.generation += 1
                self._inbox = client.new_inbox()
                await client.subscribe(f"{self._inbox}.*", cb=self._answered)
            except (Error, OSError, TimeoutError) as exc:
                text = f"the server {self.name} cannot be reached: {_text_of(exc)}"
                self._unreachable = (loop.time(), text)
                raise HistoryError(text) from exc
            return client

    async def aclose(self) -> None:
        """Wait at most `BROKER_GRACE` seconds for acknowledgements, and close the connection. May be called twice."""
        self.is_closed = True
        waiting = [unanswered.future for unanswered in self._unanswered.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=BROKER_GRACE)
        async with self._connecting:
            await self._drop()

    # Requests

    async def ask(self, subject: str, request: Mapping[str, object]) -> Msg:
        """Return the answer to a request of JetStream's API. Raise `HistoryError`."""
        async with self._requests:
            client = await self.connect()
            try:
                answer = await client.request(f"$JS.API.{subject}", json.dumps(request).encode(), timeout=TIMEOUT)
            except NoRespondersError as exc:
                raise HistoryError(WITHOUT_JETSTREAM.format(name=self.name)) from exc
            except TimeoutError as exc:
                self._suspect()
                raise HistoryError(f"the server {self.name} did not answer within {TIMEOUT:g} s") from exc
            except asyncio.CancelledError as exc:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                raise HistoryError(f"the connection to {self.name} was lost") from exc
            except (Error, OSError) as exc:
                raise HistoryError(f"the server {self.name} cannot be used: {_text_of(exc)}") from exc
            self._heard = asyncio.get_running_loop().time()
            return answer

    async def ask_json(self, subject: str, request: Mapping[str, object], *, but: int = 0) -> dict[str, Any]:
        """Return the answer as JSON. Raise `HistoryError` for an error, except the one with the number `but`."""
        answer: dict[str, Any] = json.loads((await self.ask(subject, request)).data)
        error = answer.get("error")
        if error and error.get("err_code") != but:
            raise HistoryError(f"the server {self.name} refuses: {_sentence_of(error)}")
        return answer

    # Publications

    def accept(self, future: "asyncio.Future[Any]", size: int) -> None:
        """Count a publication of this size until `future` is done. Raise `HistoryError` if too many wait."""
        if not self._backlog.fits(size):
            text = f"too many publications wait for the history in {self.name}, check whether the server is overloaded"
            raise HistoryError(text)
        self._backlog.add(size)
        future.add_done_callback(lambda _: self._backlog.remove(size))

    async def publish(
        self,
        subject: str,
        data: bytes,
        headers: dict[str, str] | None,
        future: "asyncio.Future[R]",
        convert: Callable[[dict[str, Any]], R],
    ) -> None:
        """Publish to a stream, whose acknowledgement, once converted, is the result of `future`. Raises nothing."""
        self._number += 1
        number = self._number
        unanswered = _Unanswered(future, convert, asyncio.get_running_loop().time())
        try:
            client = await self.connect()
            self._unanswered[number] = unanswered
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(TIMEOUT, self._expire)
            await client.publish(subject, data, f"{self._inbox}.{number}", headers)
        except MaxPayloadError:
            self._finish(number)
            text = f"the publication is larger than max_payload of the server {self.name}, raise it there"
            fail(future, HistoryError(text))
        except HistoryError as exc:
            fail(future, exc)
        except (Error, OSError) as exc:
            self._finish(number)
            fail(future, HistoryError(f"the server {self.name} cannot be used: {_text_of(exc)}; {LATE}", is_late=True))

    async def _answered(self, message: Msg) -> None:
        self._heard = asyncio.get_running_loop().time()
        unanswered = self._finish(int(message.subject.rpartition(".")[2]))
        if unanswered is None or unanswered.future.done():
            return
        if message.headers and message.headers.get("Status") == "503":
            text = f"no stream of {self.name} has stored the publication, because it was deleted; try again"
            fail(unanswered.future, HistoryError(text))
            return
        try:
            answer = json.loads(message.data)
            if "error" in answer:
                text = f"the server {self.name} refuses: {_sentence_of(answer['error'])}"
                fail(unanswered.future, HistoryError(text))
            else:
                unanswered.future.set_result(unanswered.convert(answer))
        except (ValueError, TypeError, KeyError):
            fail(unanswered.future, HistoryError(f"the server {self.name} answers with garbage; {LATE}", is_late=True))

    def _finish(self, number: int) -> _Unanswered | None:
        return self._unanswered.pop(number, None)

    def _expire(self) -> None:
        """Fail the publications that were not acknowledged in time."""
        loop = asyncio.get_running_loop()
        self._timer = None
        late = loop.time() - TIMEOUT
        for number, unanswered in list(self._unanswered.items()):
            if unanswered.sent > late:
                self._timer = loop.call_at(unanswered.sent + TIMEOUT, self._expire)
                return
            self._finish(number)
            self._suspect()
            text = f"the server {self.name} did not answer within {TIMEOUT:g} s; {LATE}"
            fail(unanswered.future, HistoryError(text, is_late=True))

    # The end of a connection

    def _suspect(self) -> None:
        """Let the next request open a new connection, if nothing is heard through this one."""
        if asyncio.get_running_loop().time() - self._heard >= TIMEOUT:
            self._failure = self._failure or "the server does not answer"

    async def _failed(self, error: Exception) -> None:
        self._lose(_text_of(error))

    async def _ended(self) -> None:
        self._lose("the connection was closed")

    def _lose(self, failure: str) -> None:
        self._failure = self._failure or failure
        text = CLOSED if self.is_closed else f"the connection to {self.name} was lost: {self._failure.rstrip('.')}"
        for number in list(self._unanswered):
            unanswered = self._finish(number)
            if unanswered is not None:
                fail(unanswered.future, HistoryError(f"{text}; {LATE}", is_late=True))

    async def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None and not client.is_closed:
            try:
                await client.close()
            except (Error, OSError):
                pass  # it is closed already
        self._lose("the connection was closed")
        self._failure = ""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def fail(future: "asyncio.Future[Any]", error: HistoryError) -> None:
    """Let a future fail, unless it is done."""
    if not future.done():
        future.set_exception(error)
        future.exception()  # so that nothing is logged if nobody waits for it


def _text_of(error: BaseException) -> str:
    return (str(error) or repr(error)).rstrip(".").removeprefix("nats: ")


def _sentence_of(error: Mapping[str, Any]) -> str:
    text = str(error.get("description"))
    number = error.get("err_code")
    return f"{SENTENCES[number]} ({text})" if number in SENTENCES else text
