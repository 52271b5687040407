"""The broker for several processes of one host: ZeroMQ on Unix sockets.

One of the processes runs the proxy that forwards all messages: the parent of `wsgateway serve --workers`, else the
first to get the lock. When that process ends, another takes over.
"""

import asyncio
import fcntl
import hashlib
import os
import secrets
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from wsgateway.cluster.brokers import Link, Open
from wsgateway.cluster.envelopes import MAX_ENVELOPE
from wsgateway.cluster.history.service import SOCKET, HistoryService
from wsgateway.exceptions import BrokerError

HIGH_WATER = 2_000
"""Batches of messages that may wait for a process that does not read. If there are more, it loses some, and notices."""

FENCE = "wsgateway.fence."
"""The beginning of the topics that show when subscriptions are in force."""

FIRST_FENCE = 0.001
FENCE_INTERVAL = 0.05
"""Seconds between fences, at first and at most. A fence that overtakes the subscriptions is lost."""

FLUSH_MS = 200
"""Milliseconds that the last messages have to be written when a link is closed."""


PUBLICATIONS = "inproc://publications"
"""Where the history server, in the same process, passes publications to the proxy."""

PROXY_ENDED = "the process that forwarded messages has ended"


class Proxy:
    """Forwards every message to the subscribers of its topic, in a thread, while it holds the folder's lock.

    The history server runs beside it, in another thread.
    """

    def __init__(self, folder: Path, lock: int) -> None:
        self._lock = lock
        self._folder = folder
        self._context = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []
        try:
            for name, kind in (("in", zmq.PULL), ("out", zmq.PUB)):
                socket = self._context.socket(kind)
                self._sockets.append(socket)
                socket.set(zmq.LINGER, 0)
                socket.set(zmq.MAXMSGSIZE, MAX_ENVELOPE)
                socket.set(zmq.SNDHWM, HIGH_WATER)
                if kind == zmq.PUB:
                    socket.set(zmq.RCVHWM, 0)  # it receives subscriptions only, and none may be lost
                socket.bind(f"ipc://{folder / name}")
            self._sockets[0].bind(PUBLICATIONS)
            self._history = HistoryService(self._context, folder, PUBLICATIONS)
        except zmq.ZMQError as exc:
            self._context.destroy(linger=0)
            os.close(lock)
            raise BrokerError(f"cannot bind in {folder}: {exc}") from exc
        self._thread = threading.Thread(target=self._run, name="wsgateway ipc", daemon=True)
        self._thread.start()
        self._history.start()

    def _run(self) -> None:
        try:
            zmq.proxy(*self._sockets)
        except zmq.ZMQError:
            pass  # the context was terminated
        finally:
            for socket in self._sockets:
                socket.close(linger=0)

    @property
    def is_intact(self) -> bool:
        """Whether its threads run, and other processes can connect. A cleaner of temporary files may prevent that."""
        try:
            is_same = os.path.samestat(os.fstat(self._lock), self._folder.stat())
        except OSError:
            return False
        has_sockets = all((self._folder / name).exists() for name in ("in", "out", SOCKET))
        return is_same and has_sockets and self._thread.is_alive() and self._history.is_alive

    def close(self) -> None:
        """Stop the proxy. Another process may run one from now on. May be called twice."""
        if self._lock >= 0:
            self._context.term()
            self._thread.join()
            self._history.join()
            os.close(self._lock)
            self._lock = -1


def take_proxy(folder: Path) -> Proxy | None:
    """Create and return the proxy of `folder`; None if another process runs it. Raise `BrokerError`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # the folder itself is locked, because a lock file in it could be removed by a cleaner of temporary files
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        status = os.fstat(lock)
    except OSError as exc:
        raise BrokerError(f"cannot use the folder {folder}: {exc.strerror or exc}") from exc
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        os.close(lock)
        raise BrokerError(f"the folder {folder} belongs to another user, or others may enter it: chmod 700")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return Proxy(folder, lock)


class IpcLink:
    max_payload = MAX_ENVELOPE

    def __init__(self, folder: Path, topics: Sequence[str], opener: "IpcOpener") -> None:
        self._opener = opener  # keeps the proxy, if that runs in this process
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._context: zmq.asyncio.Context | None = zmq.asyncio.Context()
        self._out = self._context.socket(zmq.PUSH)
        self._in = self._context.socket(zmq.SUB)
        self._out.set(zmq.LINGER, FLUSH_MS)
        self._in.set(zmq.RCVHWM, HIGH_WATER)
        self._in.set(zmq.SNDHWM, 0)  # it sends subscriptions only, and drops those above the limit
        self._in.set(zmq.MAXMSGSIZE, MAX_ENVELOPE)
        self._fences: dict[str, asyncio.Future[None]] = {}
        self._events = self._in.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._watching = asyncio.ensure_future(self._watch())
        for topic in topics:
            self._in.subscribe(topic_name(topic))
        self._out.connect(f"ipc://{folder / 'in'}")
        self._in.connect(f"ipc://{folder / 'out'}")

    async def publish(self, batch: Sequence[tuple[str, bytes]]) -> None:
        try:
            first = 0
            for place, (topic, _) in enumerate(batch, 1):  # consecutive messages of one topic are sent together
                if place == len(batch) or batch[place][0] != topic:
                    parts = [topic_name(topic), *(data for _, data in batch[first:place])]
                    await self._out.send_multipart(parts)
                    first = place
        except zmq.ZMQError as exc:
            raise BrokerError(str(exc)) from exc

    async def subscribe(self, topics: Sequence[str]) -> None:
        # The proxy handles the subscriptions of a link in order. So when a message of a topic that was subscribed to
        # last has arrived, all are in force.
        fence = FENCE + secrets.token_hex(8)
        arrived = self._fences[fence] = asyncio.get_running_loop().create_future()
        either: set[asyncio.Future[None]] = {arrived, self._lost}
        interval = FIRST_FENCE
        try:
            for topic in (*topics, fence):
                self._in.subscribe(topic_name(topic))
            while not arrived.done():
                if self._lost.done():
                    raise BrokerError(PROXY_ENDED)
                await self._out.send_multipart([topic_name(fence), b""])
                await asyncio.wait(either, timeout=interval, return_when=asyncio.FIRST_COMPLETED)
                interval = min(2 * interval, FENCE_INTERVAL)
            self._in.unsubscribe(topic_name(fence))
        except zmq.ZMQError as exc:
            raise BrokerError(str(exc)) from exc
        finally:
            del self._fences[fence]

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        try:
            for topic in topics:
                self._in.unsubscribe(topic_name(topic))
        except zmq.ZMQError as exc:
            raise BrokerError(str(exc)) from exc

    async def receive(self) -> Sequence[tuple[str, bytes]]:
        received: asyncio.Future[list[bytes]] = asyncio.ensure_future(self._in.recv_multipart())
        try:
            if not received.done():
                either: set[asyncio.Future[Any]] = {received, self._lost}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not received.done():
                raise BrokerError(PROXY_ENDED)
            name, *parcel = received.result()
            topic = name[:-1].decode()
            if topic.startswith(FENCE):
                arrived = self._fences.get(topic)  # None for a fence that was sent twice
                if arrived is not None and not arrived.done():
                    arrived.set_result(None)
                return ()
            return [(topic, data) for data in parcel]
        except zmq.ZMQError as exc:
            raise BrokerError(str(exc)) from exc
        finally:
            received.cancel()

    async def _watch(self) -> None:
        """Notice that the proxy has stopped. ZeroMQ would wait for another one, which a process first has to start."""
        await self._events.recv_multipart()
        if not self._lost.done():
            self._lost.set_result(None)

    async def aclose(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
            self._in.disable_monitor()
            self._events.close(linger=0)
            self._in.close(linger=0)
            self._out.close()
            await asyncio.to_thread(context.term)  # waits until everything is written, at most `FLUSH_MS`


def topic_name(topic: str) -> bytes:
    """Return the name of `topic` for ZeroMQ. No name may be a prefix of another, because ZeroMQ compares prefixes."""
    return topic.encode() + b"\0"


def folder_of(url: str) -> Path:
    """Return the folder of the sockets: the path in `ipc:///path`, else one for each user and working folder.

    Raise `ValueError` for a path that is too long for a Unix socket, or not absolute.
    """
    path = url.removeprefix("ipc://")
    if path:
        folder = Path(path)
        if not folder.is_absolute():
            raise ValueError("a path begins with a slash: ipc:///run/wsgateway")
    else:
        here = hashlib.sha256(os.fsencode(Path.cwd())).hexdigest()[:12]
        base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        folder = Path(base) / f"wsgateway-{os.getuid()}-{here}"
    if len(os.fsencode(folder / "out")) > 100:
        raise ValueError(f"the path {str(folder)!r} is too long for a Unix socket, which takes about 100 bytes")
    return folder


class IpcOpener:
    """Opens links. Runs the proxy of their folder in this process, unless another one does.

    The proxy outlives a link that is lost, because the histories are lost with it. It ends with `release`, or when
    neither this object nor a link is in use any more.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taking = threading.Lock()
        self._proxy: Proxy | None = None

    async def __call__(self, topics: Sequence[str]) -> Link:
        with self._taking:  # a blocked process opens a link in a thread, too
            if self._proxy is not None and not self._proxy.is_intact:
                self._proxy.close()
                self._proxy = None
            if self._proxy is None:
                self._proxy = take_proxy(self._folder)
                if self._proxy is not None:
                    weakref.finalize(self, self._proxy.close).atexit = False
        try:
            return IpcLink(self._folder, topics, self)
        except zmq.ZMQError as exc:
            raise BrokerError(str(exc)) from exc

    async def release(self) -> None:
        """End the proxy. Another process may run one from now on."""
        proxy, self._proxy = self._proxy, None
        if proxy is not None:
            await asyncio.shield(asyncio.to_thread(proxy.close))


def opener(url: str) -> Open:
    """Return a function that opens links to the broker at `url`. Raise `ValueError` as `folder_of` does."""
    return IpcOpener(folder_of(url))
