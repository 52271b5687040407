"""Sends the heartbeats of a node from a thread while its event loop is blocked. Knows no particular broker."""

import asyncio
import threading

from wsgateway.cluster import envelopes
from wsgateway.cluster.brokers import Open
from wsgateway.cluster.envelopes import VERSION, Heartbeat
from wsgateway.logs import GatewayLog

INTERVAL = 1.0
"""Seconds between two heartbeats of the thread."""

TIMEOUT = 2.0
"""Seconds for the broker to accept a connection or a heartbeat."""


class Pulse:
    """Publishes heartbeats of `node` on `topic`, over a link and in a thread that exist only while a loop is blocked.

    The link is subscribed to `unused`, a topic on which nothing is published.
    """

    def __init__(self, open_link: Open, node: str, topic: str, *, unused: str, log: GatewayLog) -> None:
        self._open = open_link
        self._topic = topic
        self._data = envelopes.encode(Heartbeat(VERSION, node, 0, None))
        self._unused = unused
        self._log = log
        self._thread: threading.Thread | None = None

    def begin(self, blocked: asyncio.AbstractEventLoop) -> None:
        """Begin to send, until the loop `blocked` runs again. Call it in another thread than that of the loop."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, args=(blocked,), name="wsgateway heartbeat", daemon=True)
            self._thread.start()

    def _run(self, blocked: asyncio.AbstractEventLoop) -> None:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(self._send(blocked))

    async def _send(self, blocked: asyncio.AbstractEventLoop) -> None:
        loop, resumed = asyncio.get_running_loop(), asyncio.Event()

        def report() -> None:
            try:
                loop.call_soon_threadsafe(resumed.set)
            except RuntimeError:
                pass  # this thread has ended

        try:
            blocked.call_soon_threadsafe(report)
        except RuntimeError:
            return  # the loop was closed
        while not resumed.is_set():
            try:
                await self._use_link(resumed)
            except Exception as exc:  # whatever a driver raises
                self._log.debug("a heartbeat of the blocked process cannot be sent: %r", exc)
                await _wait(resumed)

    async def _use_link(self, resumed: asyncio.Event) -> None:
        async with asyncio.timeout(TIMEOUT):
            link = await self._open([self._unused])
        try:
            while not resumed.is_set():
                async with asyncio.timeout(TIMEOUT):
                    await link.publish([(self._topic, self._data)])
                await _wait(resumed)
        finally:
            await link.aclose()


async def _wait(resumed: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(INTERVAL):
            await resumed.wait()
    except TimeoutError:
        pass
