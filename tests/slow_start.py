"""A listener that takes its time to start."""

import anyio

from wsgateway import Event


async def on_start(event: Event) -> None:
    await anyio.sleep(0.5)  # as long as a client may take to come before the start is complete
