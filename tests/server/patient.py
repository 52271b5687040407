"""A request that is answered when the test says so."""

import anyio

from wsgateway import Event


class Patient:
    """Answers `/send` once `release` is set."""

    def __init__(self) -> None:
        self.release = anyio.Event()

    async def on_message(self, event: Event) -> None:
        await self.release.wait()
