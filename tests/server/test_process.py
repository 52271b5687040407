"""The process that serves, at its end."""

import subprocess
import sys

from tests.processes import environment

HANGING = """
import asyncio
import sys
import threading

from wsgateway import Gateway, HookError
from wsgateway.server.process import end_process


class Listener:
    def on_message(self, event):
        threading.Event().wait()


async def main():
    gateway = Gateway(Listener, hook_timeout=0.1, drain=0.1)
    async with gateway.lifespan():
        try:
            await gateway.send("hi")
        except HookError:
            pass


asyncio.run(main())
sys.exit(end_process(5))
"""


def test_a_process_ends_although_a_hook_still_runs_in_a_thread() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HANGING], env=environment(), check=False, timeout=60, capture_output=True, text=True
    )
    assert ended.returncode == 5
    assert "a hook still runs in a thread, which is left behind" in ended.stderr
