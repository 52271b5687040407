"""The connection of one process to its broker: a bounded outbox, a link that is replaced whenever it is lost, topics
that each link is subscribed to, and probes that have to return. No caller waits for the broker. Does not know what the
bytes mean.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from wsgateway.cluster.brokers import Link, Open, release
from wsgateway.cluster.topics import Topics
from wsgateway.config.grace import BROKER_GRACE
from wsgateway.exceptions import BrokerError
from wsgateway.limits import Backlog
from wsgateway.logs import GatewayLog
from wsgateway.metrics import Metrics

OUTBOX_MESSAGES = 10_000
OUTBOX_BYTES = 32 * 1024 * 1024
"""Limits of the messages that wait for a slow or unavailable broker. At either limit, the oldest is dropped."""

OPEN_TIMEOUT = 2.0
"""Seconds to open a link, and again until the first probe returns."""

FIRST_PROBE = 0.05
"""Seconds between the first probes of a new link, because a subscription may take effect after a moment."""

PROBE_INTERVAL = 3.0
PROBE_TIMEOUT = 4.0
"""Seconds between probes, and until they have to return. A half-open link is noticed within the sum of both."""

TOPICS_TIMEOUT = 4.0
"""Seconds in which the link has to subscribe to one batch of topics."""

STEPS = 8
"""Parts of that time."""

MAX_BACKOFF = 2.0
BASE_BACKOFF = 0.1

BATCH = 500
"""Messages that are passed to the link together."""

READS_PER_ITERATION = 100
"""Messages that are read in one iteration of the event loop."""

PROBE = b"\xc1"
"""The first byte of a probe. MessagePack never uses it, so no envelope begins with it."""


class Bus:
    """The broker link of one process.

    `received` gets each message with its topic, except probes. `changed` is called with whether the broker is
    available, each time that changes.
    """

    def __init__(
        self,
        open_link: Open,
        topics: Sequence[str],
        *,
        name: str,
        received: Callable[[str, bytes], None],
        changed: Callable[[bool], None],
        metrics: Metrics,
        log: GatewayLog,
    ) -> None:
        """Subscribe to `topics` on every link, and probe each; `name` is the broker's, for the log."""
        self._open = open_link
        self._fixed = tuple(topics)
        self._topics = Topics()
        self._name = name
        self._received = received
        self._changed = changed
        self._metrics = metrics
        self._log = log
        self._outbox: deque[tuple[str, bytes]] = deque()
        self._waiting = Backlog(OUTBOX_MESSAGES, OUTBOX_BYTES)
        self._probes: deque[tuple[str, bytes]] = deque()
        self._expected: set[str] = set()
        self._mark = b""
        self._wake = asyncio.Event()
        self._probed = asyncio.Event()
        self._emptied = asyncio.Event()
        self._restored = asyncio.Event()
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_ending = False
        self._max_payload = 0
        self.is_up = False
        self.failure = ""
        """Why the broker is unavailable; empty while it is available, or was not tried yet."""

    async def start(self) -> None:
        """Open the link, and keep trying if that fails. Return when the link is up, or the first try has failed."""
        self._task = asyncio.create_task(self._run())
        await self._tried.wait()

    async def aclose(self) -> None:
        """Write what waits, for at most `BROKER_GRACE` seconds, and close the link. May be called twice."""
        task, self._task = self._task, None
        if task is None:
            return
        if self.is_up:
            try:
                async with asyncio.timeout(BROKER_GRACE):
                    await self._emptied.wait()
            except TimeoutError:
                pass  # the broker has stopped reading
        self._is_ending = True
        task.cancel()
        await asyncio.wait({task})
        await release(self._open)
        self.is_up = False
        self._topics.close("the gateway has stopped")

    def publish(self, topic: str, data: bytes) -> bool:
        """Queue `data` for `topic`, and drop the oldest if it does not fit. Return False if it is too large."""
        size = len(data)
        if self._max_payload and size > self._max_payload:
            self._metrics.broker_dropped["too_large"] += 1
            text = "a message of %d bytes is too large for the broker: %d"
            self._log.limited("broker too large").warning(text, size, self._max_payload)
            return False
        while not self._waiting.fits(size):
            self._waiting.remove(len(self._outbox.popleft()[1]))
            self._metrics.broker_dropped["outbox"] += 1
        self._outbox.append((topic, data))
        self._waiting.add(size)
        self._emptied.clear()
        self._wake.set()
        return True

    def publish_first(self, topic: str, data: bytes) -> None:
        """Write `data` to `topic` before everything that waits. Drop it if the broker is unavailable."""
        if self.is_up:
            self._probes.append((topic, data))
            self._wake.set()

    @property
    def topics(self) -> int:
        """How many topics are followed."""
        return len(self._topics)

    def follow(self, topic: str) -> asyncio.Future[None]:
        """Subscribe to `topic`, on this link and on each later one, until `unfollow`.

        The future is done when everything published from then on will be received. It fails with `BrokerError` if there
        is no link, if the link is lost before, and if `unfollow` is called before; only in the last case, the topic is
        no longer followed. Each call returns a future of its own, which may be cancelled or not awaited.
        """
        return self._topics.follow(topic)

    def unfollow(self, topic: str) -> None:
        """Unsubscribe from `topic`. Some of its messages may still arrive."""
        self._topics.unfollow(topic)

    # Its task

    async def _run(self) -> None:
        failures = 0
        while not self._is_ending:  # before 3.13, a cancellation is lost if the link is lost in the same iteration
            try:
                async with asyncio.timeout(OPEN_TIMEOUT):
                    link = await self._open(self._fixed)
            except TimeoutError:
                self._down(f"no answer within {OPEN_TIMEOUT:g} s")
            except Exception as exc:  # whatever a driver raises, because a broker must not end a process
                self._down(str(exc) or repr(exc))
            else:
                if self._is_ending:
                    await self._close(link)
                    return
                failures = 0 if await self._use(link) else failures
            self._tried.set()
            if self._is_ending:
                return
            delay = min(MAX_BACKOFF, BASE_BACKOFF * 2 ** min(failures, 10))
            failures += 1
            await asyncio.sleep(random.uniform(0, delay))  # noqa: S311  full jitter, so that processes do not connect at the same time

    async def _use(self, link: Link) -> bool:
        """Use `link` until it is lost. Return whether it was ever up."""
        self._max_payload = link.max_payload
        self._expected.clear()
        self._probes.clear()
        self._restored.clear()
        self._topics.open()
        was_up = False
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(link))
                tasks.create_task(self._write(link))
                tasks.create_task(self._subscribe(link))
                tasks.create_task(self._probe())
        except* Exception as group:  # BrokerError, or whatever a driver raises
            was_up = self.is_up
            self._down(str(group.exceptions[0]) or repr(group.exceptions[0]))
        finally:
            await self._close(link)
        return was_up

    async def _close(self, link: Link) -> None:
        """Close `link`, also when this task is cancelled meanwhile. A server that does not answer must not hold up the
        next link."""
        closing = asyncio.create_task(link.aclose())
        try:
            await asyncio.wait({closing}, timeout=BROKER_GRACE)
        except asyncio.CancelledError:
            await asyncio.wait({closing}, timeout=BROKER_GRACE)
            raise
        finally:
            if not closing.done():
                closing.cancel()
            elif not closing.cancelled() and closing.exception() is not None:
                self._log.debug("closing the link to the broker: %r", closing.exception())

    async def _read(self, link: Link) -> None:
        count = 0
        while True:
            for topic, data in await link.receive():
                count += 1
                if data[:1] == PROBE:
                    if data[1:] == self._mark:
                        self._expected.discard(topic)
                        if not self._expected:
                            self._probed.set()
                else:
                    self._metrics.broker_received += 1
                    self._received(topic, data)
            if count >= READS_PER_ITERATION:
                count = 0
                await asyncio.sleep(0)  # `receive` may return without waiting

    async def _subscribe(self, link: Link) -> None:
        """Subscribe `link` to all topics that are followed, and then to changes, one batch at a time."""
        while True:
            await self._topics.changed.wait()
            self._topics.changed.clear()
            while any(batch := self._topics.take()):
                added, removed = batch
                if removed:
                    await self._within(TOPICS_TIMEOUT, link.unsubscribe(removed))
                if added:
                    await self._within(TOPICS_TIMEOUT, link.subscribe(added))
                    self._topics.confirm(added)
            self._restored.set()

    async def _within(self, seconds: float, change: Coroutine[Any, Any, None]) -> None:
        """Await `change`, which the link has to finish within `seconds`. Raise `BrokerError` if it does not."""
        task = asyncio.ensure_future(change)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may fail as it is cancelled
        try:
            for _ in range(STEPS):  # a time in which the loop was blocked counts as one step
                await asyncio.wait({task}, timeout=seconds / STEPS)
                if task.done():
                    return task.result()
        finally:
            task.cancel()
        raise BrokerError(f"topics were not subscribed within {seconds:g} s")

    async def _write(self, link: Link) -> None:
        task = asyncio.current_task()
        assert task is not None
        while True:
            await self._wake.wait()
            self._wake.clear()
            while batch := self._next_batch():
                await link.publish(batch)
                self._metrics.broker_sent += len(batch)
                if task.cancelling():  # a driver has lost it, as `asyncio.wait_for` may before 3.12
                    raise asyncio.CancelledError
                await asyncio.sleep(0)  # serves others between two batches
            if not self._outbox:
                self._emptied.set()

    def _next_batch(self) -> list[tuple[str, bytes]]:
        """Return waiting probes and, once the link is up, messages of the outbox."""
        batch = list(self._probes)
        self._probes.clear()
        if self.is_up:
            while self._outbox and len(batch) < BATCH:
                topic, data = self._outbox.popleft()
                self._waiting.remove(len(data))
                if len(data) > self._max_payload:  # it was queued before the broker's limit was known
                    self._metrics.broker_dropped["too_large"] += 1
                else:
                    batch.append((topic, data))
        return batch

    async def _probe(self) -> None:
        """Check all subscriptions, first for a new link and then regularly. Raise `BrokerError` if a probe is lost."""
        await self._probe_once(FIRST_PROBE, OPEN_TIMEOUT)
        await self._restored.wait()
        self._up()
        while True:
            await asyncio.sleep(PROBE_INTERVAL)  # a subscription can be lost without an error
            await self._probe_once(PROBE_TIMEOUT, PROBE_TIMEOUT)

    async def _probe_once(self, interval: float, within: float) -> None:
        """Send a probe on each fixed topic, again after `interval`, until one has returned on each."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        self._probed.clear()
        self._expected = set(self._fixed)
        self._mark = random.randbytes(8)  # noqa: S311  distinguishes these probes from older ones and other processes'
        while True:
            self._send_probes()
            try:
                async with asyncio.timeout(min(interval, max(deadline - loop.time(), 0.001))):
                    await self._probed.wait()
                return
            except TimeoutError:
                for _ in range(3):
                    await asyncio.sleep(0)  # read first what has arrived while the loop was blocked
                if self._probed.is_set():
                    return
                if loop.time() >= deadline:
                    raise BrokerError(f"no probe has returned within {within:g} s") from None

    def _send_probes(self) -> None:
        self._probes.extend((topic, PROBE + self._mark) for topic in self._fixed)
        self._wake.set()

    def _up(self) -> None:
        self.is_up = True
        self.failure = ""
        self._log.info("the broker %s is connected", self._name)
        self._changed(True)
        self._tried.set()
        self._wake.set()

    def _down(self, reason: str) -> None:
        was_up, self.is_up = self.is_up, False
        if not self.failure:
            self._log.error(
                "the broker %s is unavailable: %s; this process continues alone until the broker returns",
                self._name,
                reason.rstrip("."),
            )
        self.failure = reason
        self._topics.close(reason)
        if was_up:
            self._changed(False)
