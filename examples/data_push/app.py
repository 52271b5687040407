"""Prices that a backend script, push_prices.py, pushes to every open page."""

import argparse
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Mount, Route

from wsgateway import Gateway, MessageEvent, OpenEvent

HERE = Path(__file__).parent


class Prices:
    """Remembers the last price of each symbol, for pages that are opened later."""

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}

    async def on_client_open(self, event: OpenEvent) -> None:
        await event.conn.send(self.latest)

    async def on_message(self, event: MessageEvent) -> None:
        if event.conn is not None:  # a page; only the backend sets prices
            event.connections = []
            return
        prices = event.message
        if not isinstance(prices, dict) or not all(isinstance(price, int | float) for price in prices.values()):
            raise TypeError(f"prices look like {{'ACME': 12.5}}, not {prices!r}")  # POST /send answers 500
        self.latest.update(prices)


gateway = Gateway(listener=Prices, id="stocks", local_access=True, test_page=False)


async def page(request: Request) -> FileResponse:
    return FileResponse(HERE / "index.html")


app = Starlette(
    routes=[Route("/", page), Mount("/", gateway)],
    lifespan=gateway.lifespan,
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=10126)
    port = parser.parse_args().port
    uvicorn.run(app, host="127.0.0.1", port=port, ws="wsgateway.server:WebSocketProtocol")
