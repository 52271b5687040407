"""The history of `ipc://`, which the process with the proxy keeps for all: requests to the history server there."""

import asyncio
import json
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import zmq

from wsgateway.cluster.brokers.ipc import folder_of, topic_name
from wsgateway.cluster.envelopes import MAX_ENVELOPE
from wsgateway.cluster.history.requests import (
    MAX_ITEMS,
    MAX_RECORD,
    RequestError,
    decode_answer,
    encode_header,
    item_of_append,
    item_of_read,
)
from wsgateway.cluster.history.service import SOCKET
from wsgateway.cluster.history.store import Append, Request, StoredPage
from wsgateway.exceptions import HistoryError
from wsgateway.frames import Position
from wsgateway.limits import Backlog
from wsgateway.logs import GatewayLog

TIMEOUT = 5.0
"""Seconds that an append or a read may take, including the time until the server can be reached."""

PATIENCE = 25.0
"""Seconds after that until the client connects again, if it asks for more and has still got no answer."""

MAX_LATE = 0.5
"""Seconds that a timer may be late. If it is later, the event loop was blocked, and answers may still arrive."""

MAX_WAITING = 10_000
MAX_WAITING_BYTES = 32 * 1024 * 1024
"""Limits of the appends that wait, and likewise of the other requests. At either limit, a further one fails."""

BATCH_BYTES = 1024 * 1024
"""Bytes of the appends in one request, unless the first alone has more. It has `MAX_ITEMS` at most."""

MAX_ASKED = 8
"""Requests, except appends, that are sent before the first is answered."""

RETRY = 1.0
"""Seconds until a socket is opened again, if that has failed."""


class _Call:
    """An append, or another request: its `items`, and the future of its caller. Fails at `deadline`."""

    __slots__ = ("deadline", "future", "items", "operation", "record", "size")

    def __init__(
        self, operation: str, items: Sequence[str], future: asyncio.Future[Any], deadline: float, record: bytes = b""
    ) -> None:
        self.operation = operation
        self.items = items
        self.record = record
        self.future = future
        self.deadline = deadline
        self.size = sum(map(len, items)) + len(record)

    def resolve(self, value: Any) -> None:
        if not self.future.done():
            self.future.set_result(value)

    def fail(self, text: str, *, is_late: bool = False) -> None:
        """Let the caller get a `HistoryError`. With `is_late`, a publication may have been stored."""
        if not self.future.done():
            if is_late and self.operation == "append":
                text = f"{text}; it may have been stored, so send it again with the same idempotency_key"
            self.future.set_exception(HistoryError(text, is_late=is_late))
            self.future.exception()  # not every caller waits, and asyncio would log that


class _Lane:
    """Calls that wait, and those that were sent and are not answered. The oldest is first in both."""

    def __init__(self) -> None:
        self.waiting: deque[_Call] = deque()
        self.backlog = Backlog(MAX_WAITING, MAX_WAITING_BYTES)
        self.sent: dict[int, list[_Call]] = {}

    def put(self, call: _Call) -> bool:
        """Let a call wait. Return False if that would exceed the limits."""
        if not self.backlog.fits(call.size):
            return False
        self.backlog.add(call.size)
        self.waiting.append(call)
        return True

    def pop(self) -> _Call:
        call = self.waiting.popleft()
        self.backlog.remove(call.size)
        return call

    def all_sent(self) -> Iterator[_Call]:
        for calls in self.sent.values():
            yield from calls


class IpcHistory:
    """Implements `HistoryStore`.

    All appends of an iteration of the event loop form one request. Until it is answered, those that come meanwhile
    wait, and form the next. So they stay in order, and the batches become larger under load.

    What was sent counts as sent until the server answers or its process ends, even if the caller has got an error
    because the time was over. So no more is sent to a server that has stopped, and nothing overtakes. After `PATIENCE`,
    the client gives that up.

    When the server's process ends, another one takes over, whose histories are empty and have new epochs.
    """

    def __init__(self, url: str, *, gateway: str, history_bytes: int, log: GatewayLog) -> None:
        """`gateway` is the id of the gateway, and `history_bytes` its setting. Raise `ValueError` for a bad URL."""
        self.bytes = 0
        self.evicted = 0
        """Those of the `MemoryHistory` in the server, as of its last answer."""
        self._folder = folder_of(url)
        self._gateway = gateway
        self._history_bytes = history_bytes
        self._log = log
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._appends = _Lane()
        self._others = _Lane()
        self._sockets: list[zmq.Socket[bytes]] = []
        self._number = 0
        self._is_woken = False
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        # If the loop ends first, nobody calls `aclose`, and a context without this would wait for its sockets for ever.
        self._release = weakref.finalize(self, _close_all, self._context, self._sockets)
        self._connect()

    async def aclose(self) -> None:
        if self._context is None:
            return
        self._disconnect()
        if self._timer is not None:
            self._timer.cancel()
        for lane in (self._appends, self._others):
            self._fail_sent(lane, "the gateway has stopped before the history server answered")
            while lane.waiting:
                lane.pop().fail("the gateway has stopped")
        self._context = None
        self._release()

    def append(self, append: Append) -> asyncio.Future[tuple[Position, bool]]:
        loop = self._loop or asyncio.get_running_loop()
        future: asyncio.Future[tuple[Position, bool]] = loop.create_future()
        item = item_of_append(append, topic_name(append.topic).decode())
        call = _Call("append", (item,), future, loop.time() + TIMEOUT, append.record)
        if len(append.record) > MAX_RECORD or len(item) > MAX_ENVELOPE // 2:
            call.fail(f"the publication is too large for a history: {call.size} bytes, at most {MAX_RECORD}")
        else:
            self._put(self._appends, call)
        return future

    async def read(self, requests: Sequence[Request]) -> list[StoredPage]:
        pages: list[StoredPage] = []
        items = [item_of_read(request) for request in requests]
        while len(pages) < len(items):
            more = await self._ask("read", items[len(pages) : len(pages) + MAX_ITEMS])
            if not more:
                raise HistoryError("the history server has answered without a page")
            pages += more
        return pages

    async def renew(self, channel: str, epoch: str) -> None:
        await self._ask("renew", [json.dumps([channel, epoch])])

    async def forget(self, channel: str) -> None:
        await self._ask("forget", [json.dumps(channel)])

    # Waiting

    async def _ask(self, operation: str, items: Sequence[str]) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._put(self._others, _Call(operation, items, future, loop.time() + TIMEOUT))
        return await future

    def _put(self, lane: _Lane, call: _Call) -> None:
        if self._context is None or self._loop is None:
            call.fail("the history is closed, because the gateway does not run")
        elif not lane.put(call):
            call.fail("too many requests wait for the history server")
        else:
            if not self._is_woken:
                self._is_woken = True
                self._loop.call_soon(self._send)
            if self._timer is None:
                self._timer = self._loop.call_at(call.deadline, self._expire)

    def _expire(self) -> None:
        """Fail what has waited for too long."""
        assert self._loop is not None
        assert self._timer is not None
        now = self._loop.time()
        if now > self._timer.when() + MAX_LATE:
            self._timer = self._loop.call_at(now + MAX_LATE, self._expire)
            return
        self._timer = None
        self._watch()
        self._receive()
        dues = []
        for lane in (self._appends, self._others):
            fault = "does not answer" if lane.sent else "cannot be reached, check the process with the proxy of ipc://"
            while lane.waiting and lane.waiting[0].deadline <= now:
                lane.pop().fail(f"the history server in {self._folder} {fault}")
            for call in lane.all_sent():
                if call.deadline <= now:
                    call.fail(f"the history server has not answered within {TIMEOUT:g} s", is_late=True)
                elif not call.future.done():
                    dues.append(call.deadline)
            if lane.waiting:
                dues.append(lane.waiting[0].deadline)
        if any(call.deadline + PATIENCE <= now for lane in (self._appends, self._others) for call in lane.all_sent()):
            self._reconnect("the history server has not answered")
        if dues:
            self._timer = self._loop.call_at(min(dues), self._expire)

    # The socket

    def _connect(self) -> None:
        """Open a socket. ZeroMQ connects as soon as there is a server, and only then accepts a request."""
        assert self._loop is not None
        if self._context is None or self._sockets:
            return
        try:
            self._open(self._context)
        except zmq.ZMQError as exc:  # no descriptor is left
            self._close_sockets()
            self._log.limited("history server").error("cannot connect to the history server: %s", exc)
            self._loop.call_later(RETRY, self._connect)
            return
        self._loop.add_reader(self._socket.FD, self._receive)
        self._loop.add_reader(self._events.FD, self._watch)
        for look in (self._receive, self._watch):
            self._loop.call_soon(look)  # the descriptors report changes only

    def _open(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._socket = context.socket(zmq.DEALER)
        self._sockets.append(self._socket)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.IMMEDIATE, 1)
        self._events = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._sockets.append(self._events)
        self._socket.connect(f"ipc://{self._folder / SOCKET}")

    def _disconnect(self) -> None:
        if self._sockets:
            assert self._loop is not None
            self._loop.remove_reader(self._socket.FD)
            self._loop.remove_reader(self._events.FD)
            self._socket.disable_monitor()
            self._close_sockets()

    def _close_sockets(self) -> None:
        while self._sockets:
            self._sockets.pop().close(linger=0)

    def _watch(self) -> None:
        """Notice that the server's process has ended."""
        if not self._sockets:
            return
        try:
            self._events.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        self._read()
        self._log.limited("history server").warning(
            "the process with the history server has ended; the histories start again in another one"
        )
        self._reconnect("the process with the history server has ended before it answered")

    def _reconnect(self, reason: str) -> None:
        """Replace the socket, and fail what was sent. A new socket cannot get answers to requests of the old one."""
        self._disconnect()
        for lane in (self._appends, self._others):
            self._fail_sent(lane, reason)
        self._connect()

    def _fail_sent(self, lane: _Lane, text: str) -> None:
        sent, lane.sent = lane.sent, {}
        for calls in sent.values():
            for call in calls:
                call.fail(text, is_late=True)

    def _receive(self) -> None:
        """Read the answers that have arrived, then send what may be sent."""
        self._read()
        self._send()

    def _read(self) -> None:
        try:
            while self._sockets:
                self._answered(self._socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            pass

    def _send(self) -> None:
        self._is_woken = False
        if not self._sockets:
            return
        sends = False
        while self._appends.waiting and not self._appends.sent and self._send_appends():
            sends = True
        while self._others.waiting and len(self._others.sent) < MAX_ASKED and self._send_other():
            sends = True
        if sends:
            assert self._loop is not None
            self._loop.call_soon(self._receive)  # the descriptor may have reported an answer while it was sent

    def _send_appends(self) -> bool:
        waiting = self._appends.waiting
        calls: list[_Call] = []
        size = 0
        for call in waiting:
            size += call.size
            if len(calls) == MAX_ITEMS or (calls and size > BATCH_BYTES):
                break
            calls.append(call)
        return self._write(self._appends, calls, [call.items[0] for call in calls], [call.record for call in calls])

    def _send_other(self) -> bool:
        call = self._others.waiting[0]
        return self._write(self._others, [call], call.items, [])

    def _write(self, lane: _Lane, calls: list[_Call], items: Sequence[str], records: list[bytes]) -> bool:
        """Send the first calls of a lane. Return False if the server cannot be reached now."""
        self._number += 1
        header = encode_header(self._number, calls[0].operation, self._gateway, self._history_bytes, items)
        try:
            self._socket.send_multipart([header, *records], zmq.NOBLOCK)
        except zmq.Again:
            return False
        for _ in calls:
            lane.pop()
        lane.sent[self._number] = calls
        return True

    # Answers

    def _answered(self, frames: list[bytes]) -> None:
        try:
            answer = decode_answer(frames[0])
        except RequestError as exc:
            self._log.limited("history server").error("%s", exc)
            return  # its request fails when its time is over
        lane = self._appends if answer.number in self._appends.sent else self._others
        calls = lane.sent.pop(answer.number, [])
        fault = f"the history server has refused a request: {answer.error}" if answer.error else ""
        if calls and not fault:
            self.bytes, self.evicted = answer.bytes, answer.evicted
            try:
                _resolve(calls, answer.results, frames[1:])
            except (ValueError, TypeError):
                fault = "the answer of the history server cannot be read; restart all processes"
        for call in calls:  # those that are not resolved
            call.fail(fault)


def _close_all(context: zmq.Context[zmq.Socket[bytes]], sockets: list[zmq.Socket[bytes]]) -> None:
    for socket in sockets:
        socket.close(linger=0)
    context.term()  # does not wait, because nothing is left to be written


def _resolve(calls: list[_Call], results: list[Any], records: list[bytes]) -> None:
    """Set the results of calls that were sent together. Raise `ValueError` or `TypeError` if these do not fit."""
    operation = calls[0].operation
    if operation == "append":
        if len(results) != len(calls):
            raise ValueError("results")
        for call, (offset, epoch, is_new) in zip(calls, results, strict=True):
            call.resolve((Position(epoch, offset), is_new))
    else:
        calls[0].resolve(_pages(results, records) if operation == "read" else None)


def _pages(results: list[Any], records: list[bytes]) -> list[StoredPage]:
    pages = []
    first = 0
    for epoch, top, start, offsets in results:
        items = records[first : first + len(offsets)]
        first += len(offsets)
        entries = [(prev, offset, record) for (prev, offset), record in zip(offsets, items, strict=True)]
        pages.append(StoredPage(epoch, top, start, entries))
    return pages
