"""The program of a worker process, which serves a gateway together with others. `workers` starts it.

    python -m wsgateway.supervisor.worker TELL LISTENING…

It reads its settings as one line of JSON from standard input, and serves on the inherited sockets LISTENING. It writes
one line of JSON to the descriptor TELL: its `node`, or why it `failed`. SIGUSR1 closes its connections, and the process
continues. It ends on SIGTERM, or when standard input ends because the process that started it has ended.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from wsgateway.config.settings import Settings
from wsgateway.exceptions import ConfigError, StartError
from wsgateway.gateway.gateway import Gateway
from wsgateway.logs import flush_log, limit_repeats, log_to_terminal, mask_queries
from wsgateway.server.process import end_process, loop_factory, stop_at_signals
from wsgateway.server.serving import serving


def main(tell: int, *listening: int) -> int:
    """Serve. Return the exit code: 0, or 3 if the start failed."""
    for descriptor in (tell, *listening):
        os.set_inheritable(descriptor, False)  # a process that the listener starts must not hold them open
    sys.path.insert(0, str(Path.cwd()))  # listeners are imported from the working folder
    log_to_terminal(has_pid=True)
    mask_queries()
    limit_repeats()
    try:
        settings = Settings(**json.loads(sys.stdin.buffer.readline()))
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_serve(settings, [socket.socket(fileno=number) for number in listening], tell))
    except (ConfigError, StartError) as exc:
        os.write(tell, json.dumps({"failed": str(exc)}).encode() + b"\n")
        return end_process(3)
    return end_process(0)


async def _serve(settings: Settings, listening: list[socket.socket], tell: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    gateway = Gateway(settings=settings)
    draining: list[asyncio.Task[None]] = []

    def drain(*_: object) -> None:
        loop.call_soon_threadsafe(lambda: draining.append(loop.create_task(gateway.stop())))

    stop_at_signals(stop)
    signal.signal(signal.SIGUSR1, drain)
    threading.Thread(target=_until_orphaned, args=(loop, stop), daemon=True).start()
    async with serving(gateway, settings, inherited=listening):
        os.write(tell, json.dumps({"node": gateway.cluster.node}).encode() + b"\n")
        os.close(tell)
        await stop.wait()
    await asyncio.gather(*draining)


def _until_orphaned(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Stop when the parent process has ended. If this process is stopping already, end it immediately."""
    os.read(sys.stdin.fileno(), 1)
    if stop.is_set():
        flush_log()
        os._exit(1)
    try:
        loop.call_soon_threadsafe(stop.set)
    except RuntimeError:
        pass  # the loop is closed


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:3])))
