"""A listener whose start and stop wait until the test lets them go on."""

from tests.gates import GATES
from wsgateway import Event


class Gated:
    async def on_start(self, event: Event) -> None:
        await GATES["start"].wait()

    async def on_stop(self, event: Event) -> None:
        await GATES["stop"].wait()
