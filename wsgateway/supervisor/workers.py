"""The worker processes that serve one gateway on one port: started, replaced when they die or are rolled, and ended.

Each runs `python -m wsgateway.supervisor.worker` and inherits the listening sockets. A broker carries messages between
them.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from socket import socket
from tempfile import TemporaryDirectory

from wsgateway.cluster.cluster import Cluster
from wsgateway.config.grace import seconds_to_stop
from wsgateway.config.settings import Settings
from wsgateway.exceptions import ConfigError, StartError
from wsgateway.server.binding import bind, unbind, url_of
from wsgateway.supervisor.observer import Observer

START_TIMEOUT = 30.0
"""Seconds that a worker may take to start."""

QUICK = 5.0
"""Seconds after its start. A worker that dies earlier has died quickly."""

MAX_QUICK = 5
"""Workers that may die quickly one after the other. If more die, the gateway has failed."""

END_TIMEOUT = 5.0
"""Seconds that a worker has to end if it could not start."""

BACKOFF = 0.25
"""Seconds until the next worker is started after two died quickly. They double with each further one."""

MAX_BACKOFF = 5.0
"""The maximum of `BACKOFF` after it has doubled."""


@dataclass(slots=True)
class Roll:
    """A roll that runs or has ended: how many of the `workers` are replaced, and the `failure` that ended it early."""

    workers: int
    replaced: int = 0
    failure: str = ""


class Worker:
    """One worker process. `node` is the id of its node."""

    def __init__(self, process: asyncio.subprocess.Process, node: str, grace: float) -> None:
        self.process = process
        self.node = node
        self.started = time.monotonic()
        self._grace = grace
        self._is_ending = False

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def end(self) -> None:
        """Let the worker close its connections and end. May be called twice."""
        if not self._is_ending:  # a second signal would end the process immediately
            self._is_ending = True
            self.send_signal(signal.SIGTERM)

    async def stop(self) -> None:
        """Call `end`, and wait until the process has ended. Kill it if it takes too long."""
        self.end()
        await _end(self.process, self._grace)


async def start_worker(settings: Settings, listening: Sequence[socket]) -> Worker:
    """Start a worker, and return it once it serves. Raise `StartError` with the worker's reason."""
    try:
        return await _start_worker(settings, listening)
    except (OSError, ValueError) as exc:  # no descriptor is left, or the worker's line is not JSON
        raise StartError(f"a worker cannot be started: {getattr(exc, 'strerror', None) or exc}") from exc


async def _start_worker(settings: Settings, listening: Sequence[socket]) -> Worker:
    report, tell = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "wsgateway.supervisor.worker",
            str(tell),
            *(str(sock.fileno()) for sock in listening),
            stdin=asyncio.subprocess.PIPE,  # it ends with this process, and then the worker ends, too
            pass_fds=(tell, *(sock.fileno() for sock in listening)),
            start_new_session=True,  # this process handles Ctrl-C in a terminal
        )
    except BaseException:
        os.close(report)
        raise
    finally:
        os.close(tell)
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(settings)).encode() + b"\n")
        async with asyncio.timeout(START_TIMEOUT):
            answer = json.loads(await _read_line(report) or b"{}")
    except BaseException as exc:
        await _end(process, 0)
        if isinstance(exc, TimeoutError):
            raise StartError(f"a worker did not serve within {START_TIMEOUT:g} s") from exc
        raise
    if "node" not in answer:
        await _end(process, END_TIMEOUT)
        raise StartError(answer.get("failed") or f"a worker ended with {process.returncode} before it served")
    return Worker(process, answer["node"], seconds_to_stop(settings) + 1)


async def _end(process: asyncio.subprocess.Process, seconds: float) -> None:
    """Wait until the process has ended. Kill it if that takes more than `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _read_line(descriptor: int) -> bytes:
    """Return the first line that is written to the pipe; empty if the pipe ends before. Close the pipe."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "rb", 0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        return await reader.readline()
    finally:
        transport.close()


class Workers:
    """Starts the workers of one gateway, and replaces those that die.

    If too many die quickly one after the other it calls `on_failure` with the reason, and starts no more.
    """

    def __init__(
        self, settings: Settings, listening: Sequence[socket], observer: Observer, on_failure: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._listening = listening
        self._log = observer.log
        self._observer = observer
        self._on_failure = on_failure
        self._workers: list[Worker] = []
        self._watching: set[asyncio.Task[None]] = set()
        self._quick = 0
        self._is_ending = False

    @property
    def pids(self) -> list[int]:
        """The ids of the processes."""
        return [worker.process.pid for worker in self._workers]

    async def start(self) -> None:
        """Start all workers. Raise `StartError`, and end all, if one cannot start."""
        starting = [start_worker(self._settings, self._listening) for _ in range(self._settings.workers)]
        started = await asyncio.gather(*starting, return_exceptions=True)
        for worker in started:
            if isinstance(worker, Worker):
                self._add(worker)
        for error in started:
            if isinstance(error, BaseException):
                await self.aclose()
                raise error

    async def roll(self, roll: Roll) -> None:
        """Replace the workers one after the other, and count them in `roll`. Raise `StartError`.

        Each new worker serves before the old one ends.
        """
        roll.replaced = roll.workers - len(self._workers)  # those have died, and `_watch` replaces them
        try:
            for old in tuple(self._workers):
                if self._is_ending:
                    return
                await self._replace(old)
                roll.replaced += 1
        except StartError as exc:
            roll.failure = str(exc)
            raise

    async def _replace(self, old: Worker) -> None:
        """Replace a worker, unless it has died, because then `_watch` replaces it."""
        if old not in self._workers:
            return
        new = await start_worker(self._settings, self._listening)
        if old not in self._workers or self._is_ending:  # since the new one was started
            await new.stop()
            return
        self._add(new)
        self._workers.remove(old)
        self._log.info("worker %d replaces worker %d", new.process.pid, old.process.pid)
        await old.stop()

    async def drain(self) -> None:
        """Let all workers close their connections, but not end. Wait until their nodes have left."""
        for worker in self._workers:
            worker.send_signal(signal.SIGUSR1)
        cluster = self._observer.cluster
        if isinstance(cluster, Cluster):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds_to_stop(self._settings) + 1):
                    await cluster.have_left([worker.node for worker in self._workers])

    def begin_end(self) -> None:
        """Let all workers end, and start no more. A roll ends early. `aclose` has to follow."""
        self._is_ending = True
        for worker in self._workers:
            worker.end()

    async def aclose(self) -> None:
        """End all workers concurrently. May be called twice."""
        self._is_ending = True
        for task in tuple(self._watching):
            task.cancel()
        if self._watching:
            await asyncio.wait(self._watching)
        workers, self._workers = self._workers, []
        await asyncio.gather(*(worker.stop() for worker in workers))

    def _add(self, worker: Worker) -> None:
        self._workers.append(worker)
        task = asyncio.create_task(self._watch(worker))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def _watch(self, worker: Worker) -> None:
        """Replace `worker` when it dies."""
        code = await worker.process.wait()
        if self._is_ending or worker not in self._workers:
            return
        self._workers.remove(worker)
        if isinstance(self._observer.cluster, Cluster):
            self._observer.cluster.died(worker.node)
        lived = time.monotonic() - worker.started
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        self._log.error("worker %d %s after %.1f s and is replaced", worker.process.pid, how, lived)
        self._quick = self._quick + 1 if lived < QUICK else 0
        while not self._is_ending:
            if self._quick > MAX_QUICK:
                self._on_failure(f"{self._quick} workers died one after the other, the log has the reasons")
                return
            if self._quick > 1:
                await asyncio.sleep(min(MAX_BACKOFF, BACKOFF * 2 ** (self._quick - 2)))  # it may recover
            try:
                self._add(await start_worker(self._settings, self._listening))
                return
            except StartError as exc:
                self._log.error("a worker does not start: %s", exc)
                self._quick += 1


@asynccontextmanager
async def serving_workers(
    observer: Observer, settings: Settings, on_failure: Callable[[str], None]
) -> AsyncIterator[tuple[str, Workers]]:
    """Serve with worker processes, as `settings` require. Yield the URL and the workers. Raise `StartError`.

    `observer` stands for the gateway that they serve, and sees them through the broker.
    """
    assert isinstance(settings.listener, str | None)  # a settings file contains its name
    try:
        listening = await asyncio.to_thread(bind, settings)
    except StartError as exc:
        observer.fail(str(exc))
        raise
    with TemporaryDirectory(prefix="wsgateway-") as folder:
        broker = settings.broker or f"ipc://{Path(folder) / 'ipc'}"
        url = url_of(settings, listening)
        port = settings.port if settings.uds else listening[0].getsockname()[1]
        workers = Workers(replace(settings, broker=broker, port=port), listening, observer, on_failure)
        try:
            await observer.start(broker)
            await workers.start()
            observer.mark_running()
            yield url, workers
        except (ConfigError, StartError) as exc:  # ConfigError: the broker's library is not installed
            observer.fail(str(exc))
            raise StartError(str(exc)) from exc
        finally:
            for sock in listening:
                sock.close()  # else new clients would wait in its queue, from which no process accepts them
            await workers.aclose()
            await observer.stop()
            unbind(settings, listening)
