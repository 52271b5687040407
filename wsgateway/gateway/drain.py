"""Closes the WebSockets of one gateway over time, and waits for their hooks. Knows nothing of handshakes.

The order of a shutdown under `wsgateway serve`, from the signal to the last hook:
1. server/process: SIGTERM or SIGINT sets the stop event. A second signal ends the process immediately.
2. cli/serve: `Supervisor.begin_end` ends event streams; all instances begin to stop, concurrently. Workers get
   SIGTERM and run these steps themselves; the parent kills one that takes longer than `seconds_to_stop` + 1 s.
3. server/serving: the listening socket closes. If other nodes serve the gateway, idle HTTP connections have
   POOL_GRACE (4 s) to leave the pools of proxies. Accepted clients have HANDSHAKE_GRACE (0.5 s) to finish their
   handshake.
4. Gateway.stop: the state is STOPPING; other nodes are notified; `/ready`, new handshakes, and `/send` answer 503,
   but a hook may still send.
5. Drain.begin: from now on at most MAX_CLOSE_HOOKS (100) `on_client_close` hooks run concurrently. Connections are
   closed with 1012, 500 per second, or faster so that all are closed within half of `drain`.
6. Each connection leaves the hub, which flushes what is pending for it; its outbox is written, then the close frame.
   Its inbox runs the hooks already waiting, then `on_client_close`, once. After the last connection, `on_last_close`.
7. Drain.wait: until no connection and no running hook is left, at most `drain` seconds. Then sockets are aborted,
   hooks other than `on_client_close` are abandoned, waiting messages are discarded, and the limit of step 5 is
   lifted. After LINGER (2 s), `on_client_close` hooks that still run are abandoned too.
8. `on_stop` runs (`hook_timeout`). The cluster is left: BROKER_GRACE (1 s) for queued envelopes, 1 s to close the
   link. Hook threads are left behind, the watchdog is released, the state is STOPPED, and the log is written out.
9. server/serving: HTTP_GRACE (5 s) for running requests, then abort; the socket is unbound. The process ends even if
   a `def` hook blocks a thread.
Once `on_stop` begins, the gateway waits for no `on_client_close`. Under another server, step 5 begins when that server
closes its sockets (native: `Socket.shutdown`; ASGI: it sends 1012 itself), or when `gateway.signals` notices that
uvicorn waits for a stream, and step 4 when the lifespan ends.
"""

import asyncio
from collections import deque
from random import randrange

from wsgateway.closing import SHUTDOWN
from wsgateway.config.grace import LINGER
from wsgateway.config.settings import Settings
from wsgateway.listeners.runner import Runner
from wsgateway.logs import GatewayLog
from wsgateway.protocols.session import Session

CLOSES_PER_SECOND = 500
"""Connections that a drain closes per second, or more if half of `drain` would not be enough."""

TICK = 0.1
"""Seconds between two groups of closes."""


class Drain:
    """The sessions of one running gateway, from their handshake to their end, and how they are all closed."""

    def __init__(self, runner: Runner, settings: Settings, log: GatewayLog) -> None:
        self._sessions: set[Session] = set()
        self.is_begun = False
        self._runner = runner
        self._seconds = settings.drain
        self._log = log
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def count(self) -> int:
        """The number of sessions, including those that are not open yet."""
        return len(self._sessions)

    def add(self, session: Session) -> None:
        """Wait for `session` too, until `remove`."""
        self._sessions.add(session)
        self._empty.clear()

    def remove(self, session: Session) -> bool:
        """Stop waiting for `session`, which has ended. Return False if it was removed already."""
        if session not in self._sessions:
            return False
        self._sessions.discard(session)
        if not self._sessions:
            self._empty.set()
        return True

    def begin(self) -> None:
        """Begin to close every connection (step 5). May be called twice."""
        if self.is_begun:
            return
        self.is_begun = True
        self._runner.limit_close_hooks()
        rate = CLOSES_PER_SECOND
        if self._seconds:
            rate = max(rate, int(2 * len(self._sessions) / self._seconds))
        waiting = deque(self._sessions)
        spread_ms = max(1000, 1000 * len(waiting) // rate)  # spread reconnects over the time that the closes take
        loop = asyncio.get_running_loop()

        def close_some() -> None:
            for _ in range(min(len(waiting), max(1, int(rate * TICK)))):
                retry_after_ms = randrange(spread_ms)  # noqa: S311  not a secret
                waiting.popleft().outbox.close(1012, SHUTDOWN % retry_after_ms)
            if waiting:
                loop.call_later(TICK, close_some)

        close_some()

    def begin_with_server(self) -> None:
        """Begin, because the server closes its sockets before it ends the lifespan, as uvicorn does."""
        if not self.is_begun:
            self._log.info("the server is shutting down, %d connections are closed", len(self._sessions))
            self.begin()

    async def wait(self) -> None:
        """Wait until no connection and no running hook is left. After `drain` seconds, abandon the rest (step 7).

        If the caller is cancelled, abandon the rest immediately.
        """
        try:
            async with asyncio.timeout(self._seconds):
                await self._until_idle()
        except TimeoutError:
            self._log.warning("after %g s (drain), the remaining connections and hooks are abandoned", self._seconds)
            await self._abandon()
        except asyncio.CancelledError:
            self._log.warning("the stop was cancelled, the remaining connections and hooks are abandoned")
            self._abort()
            self._runner.discard(closes=True)
            raise

    async def _until_idle(self) -> None:
        await self._empty.wait()
        await self._runner.idle()

    async def _abandon(self) -> None:
        """Abort sockets and abandon hooks. The `on_client_close` of the aborted sockets are abandoned last."""
        self._abort()
        self._runner.discard(closes=False)
        try:
            async with asyncio.timeout(LINGER):
                await self._until_idle()
        except TimeoutError:
            self._runner.discard(closes=True)

    def _abort(self) -> None:
        for session in tuple(self._sessions):
            session.abort()
