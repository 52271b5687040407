"""wsgateway on the plain ASGI path, as wherever its own server is not: `send` is wrapped, as any middleware does."""

from typing import Any

from wsgateway import Gateway

gateway = Gateway(local_access=True)


async def app(scope: Any, receive: Any, send: Any) -> None:
    async def wrapped(message: Any) -> None:
        await send(message)

    await gateway(scope, receive, wrapped)
