"""Takes a picture of every page of the panel, from a server with a prepared state: `make screenshots`.

Each page is taken at 1280 and 390 pixels, light and dark, and written to build/screenshots. With `--docs`, those of
the documentation are written to this folder, too.
"""

import argparse
import asyncio
import math
import os
import random
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from wsgateway.admin import AdminApp
from wsgateway.config.settings import Settings
from wsgateway.gateway.trend import STEP, Trend
from wsgateway.server.serving import serving
from wsgateway.supervisor.store import Store
from wsgateway.supervisor.supervisor import Supervisor
from wsgateway.testing import Client

DOCS = Path(__file__).parent
PICTURES = DOCS.parent.parent / "build" / "screenshots"

WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")

FOR_DOCS = {
    "overview": "overview",
    "gateway": "gateway",
    "connection": "connection",
    "settings": "settings",
    "log": "log",
}
"""Pages whose picture, light and at 1280 pixels, is part of the documentation, by the name of its file."""

LISTENER = """\
from wsgateway import HandshakeEvent, MessageEvent, SubscribeEvent


class Chat:
    def on_handshake(self, event: HandshakeEvent) -> None:
        event.conn.user = event.conn.query.get("user")

    def on_subscribe(self, event: SubscribeEvent) -> None:
        pass  # every client may subscribe

    def on_message(self, event: MessageEvent) -> None:
        event.connections = event.gateway.connections  # every client receives it
"""

FILE = """\
log_file = "WebSocket.log"
pong_timeout = 20
local_access = true

[gateways.chat]
port = 10125
listener = "chat.py:Chat"
max_connections = 5000

[gateways.chat.channels."room:*"]
history = 100
presence = true
clients = ["subscribe", "publish"]

[gateways.prices]
port = 10126
outbox_messages = 64

[gateways.support]
port = {taken}

[gateways.archive]
port = 10128
startup = "manual"
"""

USERS = ("ann", "bob", "ann", "bob", "")
PATHS = ("/ws", "/ws/kitchen", "/ws/kitchen", "/ws", "/ws")

TEXTS = ("hello", "is anybody here?", "yes, in the kitchen", "the bread is done", "thanks!", "see you at noon")


@dataclass(frozen=True, slots=True)
class State:
    """A server whose gateways have clients and a past."""

    supervisor: Supervisor
    url: str
    connection: str
    """The id of a connection of ann."""


@asynccontextmanager
async def prepared_server(folder: Path) -> AsyncIterator[State]:
    """Serve four gateways: two with clients, one that has failed, and one that is stopped."""
    ports = _free_ports(4)
    text = FILE
    for usual, port in zip(("10125", "10126", "10128"), ports, strict=False):
        text = text.replace(usual, str(port))
    with socket.create_server(("127.0.0.1", ports[3])):
        (folder / "wsgateway.toml").write_text(text.format(taken=ports[3]))
        (folder / "chat.py").write_text(LISTENER)
        async with AsyncExitStack() as stack:
            supervisor = await stack.enter_async_context(Supervisor(Store(str(folder / "wsgateway.toml"))))
            app = AdminApp(supervisor, bound_host="127.0.0.1", folder=folder)
            url = await stack.enter_async_context(serving(app, Settings(port=0)))
            connection = await _fill(supervisor, stack)
            yield State(supervisor, url, connection)
            supervisor.end_streams()


def _free_ports(count: int) -> list[int]:
    """Return ports that are free, the usual ones first."""
    ports: list[int] = []
    for port in range(10125, 11125):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                ports.append(port)
        if len(ports) == count:
            break
    return ports


async def _fill(supervisor: Supervisor, stack: AsyncExitStack) -> str:
    """Connect clients, publish into channels, and let messages flow until the stack is closed."""
    chat, prices = supervisor.find("chat"), supervisor.find("prices")
    clients = []
    for number, user in enumerate(USERS):
        channels = [f"room:{number % 3 + 1}", "room:1"] if number else ["room:1"]
        path = f"{PATHS[number]}?user={user}"
        client = Client(chat.url, path, channels=dict.fromkeys(channels)) if number % 2 else Client(chat.url, path)
        clients.append(await stack.enter_async_context(client))
    clients += [await stack.enter_async_context(Client(prices.url, "/ws/eur")) for _ in range(24)]
    for text in TEXTS:
        await chat.gateway.send(text, channel="room:1")
    tasks = await stack.enter_async_context(asyncio.TaskGroup())
    running = [tasks.create_task(_read(client)) for client in clients]
    running += [tasks.create_task(_talk(clients[0])), tasks.create_task(_push(prices.gateway))]
    for task in running:
        stack.callback(task.cancel)
    _add_past(chat.gateway.trend, connections=180, rate=24, seed=1)
    _add_past(prices.gateway.trend, connections=420, rate=160, seed=2)
    return next(conn.id for conn in chat.gateway.connections if conn.user == "ann")


async def _read(client: Client) -> None:
    async for _ in client.socket:
        pass


async def _talk(client: Client) -> None:
    for number in range(100_000):
        await client.send(TEXTS[number % len(TEXTS)])
        await asyncio.sleep(0.4)  # the rate of the traffic that the pictures show


async def _push(gateway: object) -> None:
    for number in range(100_000):
        await gateway.send({"eur": 1.08 + number % 7 / 1000})
        await asyncio.sleep(0.15)  # the rate of the traffic that the pictures show


def _add_past(trend: Trend, *, connections: int, rate: int, seed: int) -> None:
    """Add samples of the last 50 minutes, which rise and fall like the traffic of a day, but faster."""
    chance = random.Random(seed)  # noqa: S311  of pictures only
    now = time.time() // STEP * STEP
    counts = {"connections": 0.0, "in": 0.0, "out": 0.0, "dropped": 0.0, "hooks": 0.0, "hook_seconds": 0.0}
    past = Trend()
    for step in range(300, 0, -1):
        wave = 0.6 + 0.4 * math.sin((300 - step) / 45 + seed) + chance.uniform(-0.06, 0.06)
        received = rate * STEP * wave * 0.25
        counts["connections"] = round(connections * (0.75 + 0.25 * wave))
        counts["in"] += received
        counts["out"] += rate * STEP * wave
        counts["dropped"] += 3 if 110 < step < 118 else 0
        counts["hooks"] += received
        counts["hook_seconds"] += received * 0.0004 * (0.8 + wave)
        past.add(now - step * STEP, counts)
    trend.continue_from(past)


def pages(state: State) -> Mapping[str, str]:
    """Return the path of each page, by the name of its picture."""
    one = "gateways/chat"
    return {
        "overview": "",
        "gateway": one,
        "connections": f"{one}/connections",
        "connection": f"{one}/connections/{state.connection}",
        "channels": f"{one}/channels",
        "channel": f"{one}/channel?name=room:1",
        "send": f"{one}/send",
        "settings": f"{one}/settings",
        "gateway-log": f"{one}/log",
        "failed": "gateways/support",
        "new": "new",
        "log": "log",
        "missing": "nowhere",
    }


async def take_all(browser: Browser, state: State, folder: Path, only: str) -> list[Path]:
    """Take a picture of each page whose name contains `only`, at each width and in each scheme."""
    pictures = []
    for scheme in SCHEMES:
        for width in WIDTHS:
            height = 800 if width > 500 else 844
            context = await browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme, locale="en-GB"
            )
            for name, path in pages(state).items():
                if only in name:
                    picture = folder / f"{name}-{width}-{scheme}.png"
                    await _take(context, f"{state.url}/{path}", picture)
                    pictures.append(picture)
            await context.close()
    return pictures


async def _take(context: BrowserContext, url: str, picture: Path) -> None:
    page = await context.new_page()
    await page.goto(url)
    if await page.locator("#link").count():
        await expect(page.locator("#link")).to_have_text("live")
    await _settle(page)
    await page.screenshot(path=picture, full_page=True)
    await page.close()


async def _settle(page: Page) -> None:
    """Wait until the page has had two pushes, so that it shows rates."""
    if await page.locator("[data-rate], [data-own], figure.chart").count():
        await page.wait_for_function("() => before !== null && performance.now() > 2500")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", action="store_true", help="write the pictures of the documentation, too")
    parser.add_argument("--only", default="", help="take only pages whose name contains this text")
    options = parser.parse_args()
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the listener and the log of the server are there
        async with prepared_server(Path(folder)) as state, async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=os.environ.get("CHROMIUM") or "/usr/bin/chromium",
                args=["--no-sandbox", "--disable-gpu"],
            )
            taken = await take_all(browser, state, PICTURES, options.only)
            await browser.close()
    print(f"{len(taken)} pictures are in {PICTURES}")


if __name__ == "__main__":
    asyncio.run(main())
