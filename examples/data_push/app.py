"""Prices that a backend script, push_prices.py, pushes to every open page."""

from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

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
            raise TypeError(f"prices look like {{'ACME': 12.5}}, not {prices!r}")  # POST /live/send answers 500
        self.latest.update(prices)


gateway = Gateway(listener=Prices, id="stocks", local_access=True)
app = Starlette(
    routes=[
        Route("/", lambda _: FileResponse(HERE / "index.html")),
        Mount("/shared", StaticFiles(directory=HERE.parent / "shared")),
        Mount("/live", gateway),
    ],
    lifespan=gateway.lifespan,
)
