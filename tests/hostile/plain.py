"""A mounted gateway under plain uvicorn: the ASGI path, with nothing of the gateway's own server.

    python plain.py '{"max_message_size": 1000}'

prints its URL, as `wsgateway serve` does.
"""

import asyncio
import json
import socket
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.hostile.listener import Listener
from wsgateway import Gateway


def main() -> None:
    gateway = Gateway(Listener(), local_access=True, **json.loads(sys.argv[1]))
    app = Starlette(routes=[Mount("/", gateway)], lifespan=gateway.lifespan)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        ws_ping_interval=gateway.settings.ping_interval,
        ws_ping_timeout=gateway.settings.pong_timeout,
    )
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(2048)
    print(f"serves at http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(uvicorn.Server(config).serve([listening]))


if __name__ == "__main__":
    main()
