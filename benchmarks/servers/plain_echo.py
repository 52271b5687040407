"""The echo on plain ASGI: a mounted gateway under plain uvicorn, on a free port, which it prints."""

import asyncio
import socket

import uvicorn
from echo_listener import Listener
from starlette.applications import Starlette
from starlette.routing import Mount

from wsgateway import Gateway


def main() -> None:
    gateway = Gateway(Listener)
    app = Starlette(routes=[Mount("/", gateway)], lifespan=gateway.lifespan)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(2048)
    print(f"serves at http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    asyncio.run(uvicorn.Server(config).serve([listening]))


if __name__ == "__main__":
    main()
