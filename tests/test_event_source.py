"""An `EventSource` in a real browser: it receives, reconnects by itself, and misses nothing."""

import anyio
import pytest
from playwright.async_api import Browser, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route

from tests.servers import OwnServer, PlainUvicorn, Serve
from wsgateway import Gateway

PAGE = """
<!doctype html><title>stream</title><pre id="messages"></pre><pre id="states"></pre><pre id="opens">0</pre>
<script>
  const put = (id, text) => { document.getElementById(id).textContent += text + "\\n"; };
  const source = new EventSource("live/sse?channel=room&channel=user:1");
  let session;
  source.addEventListener("open", (event) => {
    if (event.data) {
      session = JSON.parse(event.data).session;
      document.getElementById("opens").textContent = Number(document.getElementById("opens").textContent) + 1;
    }
  });
  source.addEventListener("subscribed", (event) => {
    const { channel, recovered } = JSON.parse(event.data);
    put("states", `${channel} ${recovered}`);
  });
  source.onmessage = (event) => put("messages", event.data);
  window.say = (text) => fetch(`live/session/${session}?channel=room`, { method: "POST", body: text });
</script>
"""


async def page(_: Request) -> Response:
    return HTMLResponse(PAGE)


@pytest.mark.parametrize("server", [OwnServer(), PlainUvicorn()], ids=lambda server: server.name)
async def test_an_event_source_misses_nothing_over_a_reconnect(server: Serve, browser: Browser) -> None:
    options = {"history": 100, "public": True, "clients": ["subscribe", "publish"]}
    gateway = Gateway(channels={"*": options})  # type: ignore[dict-item]  # its values are checked at run time
    app = Starlette(routes=[Route("/", page), Mount("/live", gateway)], lifespan=gateway.lifespan)
    async with server(app) as url:
        context = await browser.new_context()
        tab = await context.new_page()
        await tab.goto(url + "/")
        await expect(tab.locator("#opens")).to_have_text("1")
        await expect(tab.locator("#states")).to_have_text("room false\nuser:1 false\n")
        sent: list[str] = []
        for cycle in range(2):
            for number in range(20):
                text = f"{cycle} {number}\nsecond line"
                await gateway.publish(text, channel="room" if number % 2 else "user:1")
                sent.append(text)
                if number == 10:
                    (conn,) = gateway.connections
                    await conn.close(3000, "come back")
            await expect(tab.locator("#opens")).to_have_text(str(cycle + 2))
        await expect(tab.locator("#messages")).to_contain_text("1 19")
        assert await tab.evaluate("window.say('from the page').then((answer) => answer.status)") == 200
        await expect(tab.locator("#messages")).to_contain_text("from the page")
        shown = (await tab.locator("#messages").inner_text()).removesuffix("\n").split("\nsecond line\n")
        assert sorted(f"{text}\nsecond line" for text in shown[:-1]) == sorted(sent)
        states = (await tab.locator("#states").inner_text()).split()
        assert states[4:] == ["room", "true", "user:1", "true"] * 2
        await context.close()
        with anyio.fail_after(20):
            while len(gateway.connections):
                await anyio.sleep(0.01)  # nothing reports that a browser has disconnected
