"""Takes a picture of every page of the panel, from a server with a prepared state: `make screenshots`.

Each page is taken at 1280 and 390 pixels, light and dark, and written to build/screenshots. With `--docs`, the pictures
of the documentation are written to docs/panel, too.
"""

import argparse
import asyncio
import math
import os
import random
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tools.palette import reduced
from wsgateway.admin import AdminApp
from wsgateway.admin.passwords import write_password
from wsgateway.auth.admin import Access
from wsgateway.config.settings import Settings
from wsgateway.gateway.gateway import Gateway
from wsgateway.gateway.trend import STEP, Trend
from wsgateway.server.serving import serving
from wsgateway.supervisor.observer import Observer
from wsgateway.supervisor.store import Store
from wsgateway.supervisor.supervisor import Supervisor
from wsgateway.testing import Client

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs" / "panel"
PICTURES = ROOT / "build" / "screenshots"

WIDTHS = (1280, 390)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")

IN_DOCS = ("overview", "gateway", "connections", "connection", "channel", "settings", "log")
"""Pages whose picture, light and at 1280 pixels, is part of the documentation."""

MAX_HEIGHT = 1035
"""Pixels of a picture in the documentation. The rest of a longer page is cut off."""

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
    assert isinstance(chat.gateway, Gateway)
    publish = chat.gateway.publish
    for text in TEXTS:
        await publish(text, channel="room:1")
    tasks = await stack.enter_async_context(asyncio.TaskGroup())
    running = [tasks.create_task(_read(client)) for client in clients]
    running += [tasks.create_task(_talk(clients[0])), tasks.create_task(_push(prices.gateway))]
    for task in running:
        stack.callback(task.cancel)
    _add_past(chat.gateway.trend, connections=6, received=2.5, sent=12.5, seed=1)
    _add_past(prices.gateway.trend, connections=25, received=0, sent=150, seed=2)
    for supervised in (chat, prices):
        gateway = supervised.gateway
        gateway.trend.begin(time.time(), gateway.inspector.reported_totals())  # without the seconds before the traffic
    return next(conn.id for conn in chat.gateway.connections if conn.user == "ann")


async def _read(client: Client) -> None:
    async for _ in client.socket:
        pass


async def _talk(client: Client) -> None:
    for number in range(100_000):
        await client.send(TEXTS[number % len(TEXTS)])
        await asyncio.sleep(0.4)  # the rate of the traffic that the pictures show


async def _push(gateway: Gateway | Observer) -> None:
    for number in range(100_000):
        await gateway.send({"eur": 1.08 + number % 7 / 1000})
        await asyncio.sleep(0.15)  # the rate of the traffic that the pictures show


def _add_past(trend: Trend, *, connections: int, received: float, sent: float, seed: int) -> None:
    """Add samples of the last 50 minutes, which rise and fall like the traffic of a day, but faster."""
    chance = random.Random(seed)
    now = time.time() // STEP * STEP
    counts = {"connections": 0.0, "in": 0.0, "out": 0.0, "dropped": 0.0, "hooks": 0.0, "hook_seconds": 0.0}
    past = Trend()
    for step in range(300, -1, -1):
        wave = 0.7 + 0.3 * math.cos(step / 45) + chance.uniform(-0.05, 0.05)
        counts["connections"] = round(connections * (0.5 + 0.5 * wave))
        counts["in"] += received * STEP * wave
        counts["out"] += sent * STEP * wave
        counts["dropped"] += 3 if 110 < step < 118 and not received else 0
        counts["hooks"] += received * STEP
        counts["hook_seconds"] += received * STEP * 0.0008 * (0.8 + wave)
        past.add(now - step * STEP, counts)
    trend.continue_from(past)


@dataclass(frozen=True, slots=True)
class Shown:
    """One page: the name of its picture, its path, and the button that leads to it from there."""

    name: str
    path: str
    press: str = ""


def pages(state: State) -> list[Shown]:
    """Return every page of the panel."""
    one = "gateways/chat"
    return [
        Shown("overview", ""),
        Shown("gateway", one),
        Shown("failed", "gateways/support"),
        Shown("stop", one, "Stop"),
        Shown("connections", f"{one}/connections"),
        Shown("connection", f"{one}/connections/{state.connection}"),
        Shown("channels", f"{one}/channels"),
        Shown("channel", f"{one}/channel?name=room:1"),
        Shown("send", f"{one}/send"),
        Shown("settings", f"{one}/settings"),
        Shown("gateway-log", f"{one}/log"),
        Shown("new", "new"),
        Shown("log", "log"),
        Shown("missing", "nowhere"),
    ]


async def take_all(browser: Browser, shown: Sequence[tuple[str, Shown]], folder: Path, only: str) -> int:
    """Take a picture of each page, at a URL, whose name contains `only`, at each width and in each scheme."""
    count = 0
    for scheme in SCHEMES:
        context = await browser.new_context(color_scheme=scheme, locale="en-GB")
        for url, page in shown:
            if only in page.name:
                count += await _take(context, url, page, folder, scheme)
        await context.close()
    return count


async def _take(context: BrowserContext, url: str, shown: Shown, folder: Path, scheme: str) -> int:
    page = await context.new_page()
    await page.goto(f"{url}/{shown.path}")
    if await page.locator("#link").count():
        await expect(page.locator("#link")).to_have_text("live")
    if shown.press:
        await page.get_by_role("button", name=shown.press, exact=True).click()
    await _settle(page)
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": 800})
        height = await page.evaluate("document.documentElement.scrollHeight")
        # else a bar that sticks would be in the middle
        await page.set_viewport_size({"width": width, "height": height})
        before = await page.evaluate("performance.now()")
        await page.wait_for_function("before => performance.now() > before + 100", arg=before)  # charts have been drawn
        await page.screenshot(path=folder / f"{shown.name}-{width}-{scheme}.png")
    await page.close()
    return len(WIDTHS)


async def _settle(page: Page) -> None:
    """Wait until the page has had two pushes, so that it shows rates."""
    if await page.locator("[data-rate], [data-own], figure.chart").count():
        await page.wait_for_function("() => before !== null && performance.now() > 2500")


@asynccontextmanager
async def small_server(folder: Path, *, has_password: bool) -> AsyncIterator[str]:
    """Serve a panel without gateways."""
    await asyncio.to_thread(folder.mkdir)
    (folder / "wsgateway.toml").write_text("[gateways]\n")
    if has_password:
        await asyncio.to_thread(write_password, folder / "wsgateway.password", "correct horse", Access.FULL)
    async with Supervisor(Store(str(folder / "wsgateway.toml"))) as supervisor:
        app = AdminApp(supervisor, bound_host="127.0.0.1", folder=folder)
        async with serving(app, Settings(port=0)) as url:
            yield url
            supervisor.end_streams()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", action="store_true", help="write the pictures of the documentation, too")
    parser.add_argument("--only", default="", help="take only pages whose name contains this text")
    options = parser.parse_args()
    PICTURES.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.chdir(folder)  # the listener and the log of the server are there
        empty = await stack.enter_async_context(small_server(folder / "empty", has_password=False))
        closed = await stack.enter_async_context(small_server(folder / "closed", has_password=True))
        state = await stack.enter_async_context(prepared_server(folder))
        shown = [
            *((state.url, page) for page in pages(state)),
            (empty, Shown("empty", "")),
            (closed, Shown("login", "")),
        ]
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or "/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        count = await take_all(browser, shown, PICTURES, options.only)
        await browser.close()
    print(f"{count} pictures are in {PICTURES}")
    if options.docs:
        for name in IN_DOCS:
            (DOCS / f"{name}.png").write_bytes(
                reduced((PICTURES / f"{name}-1280-light.png").read_bytes(), max_height=MAX_HEIGHT)
            )
        (DOCS / "phone.png").write_bytes(
            reduced((PICTURES / "connections-390-dark.png").read_bytes(), max_height=MAX_HEIGHT)
        )


if __name__ == "__main__":
    asyncio.run(main())
