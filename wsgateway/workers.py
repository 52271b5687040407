"""Several processes that serve one gateway on one port: started, replaced when they die or are rolled, ended. Each is
`python -m wsgateway.worker`, which inherits the listening socket; a broker carries messages between them."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from socket import socket
from tempfile import TemporaryDirectory

from wsgateway.config import Settings
from wsgateway.exceptions import ConfigError, StartError
from wsgateway.gateway import Gateway
from wsgateway.limits import LINGER
from wsgateway.server import GRACEFUL, bind, unbind, url_of

START_TIMEOUT = 30.0
"""Seconds until a worker has to serve."""

QUICK = 5.0
"""Seconds: a worker that dies earlier than that has hardly begun."""

MAX_QUICK = 5
"""Workers that may die quickly one after the other; then it is given up."""

BACKOFF = 0.25
MAX_BACKOFF = 5.0


class Worker:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process, grace: float) -> None:
        self.process = process
        self.started = time.monotonic()
        self._grace = grace

    async def stop(self) -> None:
        """Let it close its clients and end; end it where it does not."""
        if self.process.returncode is None:
            self.process.terminate()
        try:
            async with asyncio.timeout(self._grace):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


async def start_worker(settings: Settings, listening: socket) -> Worker:
    """A worker that serves. Raises `StartError` with its reason."""
    told, tell = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "wsgateway.worker",
            str(listening.fileno()),
            str(tell),
            stdin=asyncio.subprocess.PIPE,  # which it reads to its end: when this process is gone, so is the worker
            pass_fds=(listening.fileno(), tell),
            start_new_session=True,  # Ctrl-C in a terminal is this process's to handle
        )
    finally:
        os.close(tell)
    worker = Worker(process, settings.drain + LINGER + GRACEFUL + 1)
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(_described(settings)).encode() + b"\n")
        async with asyncio.timeout(START_TIMEOUT):
            said = await _read_line(told)
    except BaseException as exc:
        process.kill()
        await process.wait()
        if isinstance(exc, TimeoutError):
            raise StartError(f"a worker did not serve within {START_TIMEOUT:g} s") from exc
        raise
    if said != b"ready":
        await process.wait()
        raise StartError(said.decode(errors="replace") or f"a worker ended with {process.returncode} before it served")
    return worker


async def _read_line(descriptor: int) -> bytes:
    """What is written to the pipe until its end, which is closed then."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "rb", 0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        return (await reader.read()).strip()
    finally:
        transport.close()


def _described(settings: Settings) -> dict[str, object]:
    """`settings` as a worker reads them."""
    values = {spec.name: getattr(settings, spec.name) for spec in fields(settings)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


class Workers:
    """The workers of one gateway. `gave_up` is told why, when they die one after the other."""

    def __init__(self, settings: Settings, listening: socket, gateway: Gateway, gave_up: Callable[[str], None]) -> None:
        self._settings = settings
        self._listening = listening
        self._log = gateway.log
        self._gateway = gateway
        self._gave_up = gave_up
        self._workers: list[Worker] = []
        self._watching: set[asyncio.Task[None]] = set()
        self._rolling = asyncio.Lock()
        self._quick = 0
        self._is_ending = False

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers]

    async def start(self) -> None:
        """Start all. Raises `StartError` if one does not start."""
        starting = [start_worker(self._settings, self._listening) for _ in range(self._settings.workers)]
        found = await asyncio.gather(*starting, return_exceptions=True)
        for worker in found:
            if isinstance(worker, Worker):
                self._adopt(worker)
        for error in found:
            if isinstance(error, BaseException):
                await self.aclose()
                raise error

    async def roll(self) -> None:
        """Replace one after the other: the new one serves before the old one is told to end. Raises `StartError`."""
        async with self._rolling:
            for old in tuple(self._workers):
                if old not in self._workers:
                    continue  # it has died, and is replaced
                new = await start_worker(self._settings, self._listening)
                self._adopt(new)
                self._workers.remove(old)
                self._log.info("worker %d takes the place of %d", new.process.pid, old.process.pid)
                await old.stop()

    def drain(self) -> None:
        """Let all close their clients, and stay."""
        for worker in self._workers:
            worker.process.send_signal(signal.SIGUSR1)

    async def aclose(self) -> None:
        """End all, at once. May be called twice."""
        self._is_ending = True
        workers, self._workers = self._workers, []
        await asyncio.gather(*(worker.stop() for worker in workers))
        for task in tuple(self._watching):
            task.cancel()
        if self._watching:
            await asyncio.wait(self._watching)

    def _adopt(self, worker: Worker) -> None:
        self._workers.append(worker)
        task = asyncio.create_task(self._watch(worker))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def _watch(self, worker: Worker) -> None:
        """Replace `worker` when it dies unasked."""
        code = await worker.process.wait()
        if self._is_ending or worker not in self._workers:
            return
        self._workers.remove(worker)
        if self._gateway.cluster is not None:
            self._gateway.cluster.died(worker.process.pid)
        lived = time.monotonic() - worker.started
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        self._log.error("worker %d %s after %.1f s, another takes its place", worker.process.pid, how, lived)
        self._quick = self._quick + 1 if lived < QUICK else 0
        while not self._is_ending:
            if self._quick > MAX_QUICK:
                self._gave_up(f"{MAX_QUICK} workers died one after the other, the log has the reasons")
                return
            if self._quick > 1:
                await asyncio.sleep(min(MAX_BACKOFF, BACKOFF * 2 ** (self._quick - 2)))
            try:
                self._adopt(await start_worker(self._settings, self._listening))
                return
            except StartError as exc:
                self._log.error("a worker does not start: %s", exc)
                self._quick += 1


@asynccontextmanager
async def serving_workers(
    gateway: Gateway, settings: Settings, gave_up: Callable[[str], None]
) -> AsyncIterator[tuple[str, Workers]]:
    """Serve as `settings` say, by processes; their URL and they. `gateway` only watches. Raises `StartError`."""
    if not isinstance(settings.listener, str | None):
        raise StartError("workers: with several the listener has to be named, as package.module:Name")
    try:
        listening = await asyncio.to_thread(bind, settings)
    except StartError as exc:
        gateway.fail(str(exc))
        raise
    with TemporaryDirectory(prefix="wsgateway-") as folder:
        broker = settings.broker or f"ipc://{Path(folder) / 'ipc'}"
        url = url_of(settings, listening)
        host, port = (None, 0) if settings.uds else listening.getsockname()[:2]
        del host
        values = {spec.name: getattr(settings, spec.name) for spec in fields(settings)}
        workers = Workers(
            Settings(**{**values, "broker": broker, "port": port or settings.port}), listening, gateway, gave_up
        )
        try:
            gateway.bound_to(url, None if settings.uds else settings.host)
            await gateway.watch(broker)
            await workers.start()
            yield url, workers
        except (ConfigError, StartError) as exc:  # the former when what the broker needs is not installed
            gateway.fail(str(exc))
            raise StartError(str(exc)) from exc
        finally:
            await workers.aclose()
            await gateway.stop()
            unbind(settings, listening)
