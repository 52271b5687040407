"""The lifespan protocol of ASGI, as the server of a gateway uses it. Knows no gateway."""

from collections.abc import Awaitable, Callable

from starlette.types import Receive, Send

from wsgateway.exceptions import StartError


async def run_lifespan(
    receive: Receive, send: Send, *, start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]
) -> None:
    """Call `start`, and `stop` when the server shuts down. Report a failed start to the server."""
    await receive()
    try:
        await start()
    except (StartError, RuntimeError) as exc:
        await send({"type": "lifespan.startup.failed", "message": str(exc)})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await stop()
    await send({"type": "lifespan.shutdown.complete"})
