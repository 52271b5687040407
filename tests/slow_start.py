"""A listener that takes its time to start."""

import anyio

from wsgateway import Event


async def on_start(event: Event) -> None:
    await anyio.sleep(0.5)
