"""wsgateway on plain ASGI, as under another server, because `send` is wrapped, as by a middleware."""

from typing import Any

from wsgateway import Gateway

gateway = Gateway(local_access=True)


async def app(scope: Any, receive: Any, send: Any) -> None:
    async def wrapped(message: Any) -> None:
        await send(message)

    await gateway(scope, receive, wrapped)
