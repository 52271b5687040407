"""`live.request`, and `live.on("request", …)`, in a real browser: against a script, and on a real gateway."""

from typing import Any

import anyio
import pytest
from playwright.async_api import Browser

from tests.cutting import cutting_proxy
from tests.protocols.test_requests import Answering, Asking, only
from tests.test_client_js import LOAD, connected, page_with, seen
from wsgateway import Connection, Gateway, RequestRefused
from wsgateway.testing import serve


async def test_a_request_is_answered_refused_or_late(browser: Browser) -> None:
    async with connected(browser, "outcome(live.request({ n: 1 }, { name: 'first' }))") as (server, page):
        peer = await server.accept()
        first = await peer.receive()
        ident = first.pop("id")
        assert first == {"request": {"n": 1}, "name": "first"}
        await page.evaluate("for (const name of ['b', 'c', 'd']) outcome(live.request(undefined, { name })); 0")
        assert [await peer.receive() for _ in range(3)] == [
            {"request": None, "name": name, "id": ident + 1 + place} for place, name in enumerate("bcd")
        ]
        await peer.send({"reply": None, "base64": "AAH/", "id": ident + 2}, {"reply": {"a": [1]}, "id": ident})
        await peer.send({"refused": None, "id": ident + 1, "status": 404, "reason": "no such method"})
        await peer.send({"reply": None, "id": ident + 3}, {"reply": "twice", "id": ident})
        answers = [
            ["accepted", {"0": 0, "1": 1, "2": 255}],
            ["accepted", {"a": [1]}],
            ["rejected", 404, "no such method"],
        ]
        assert await seen(page, 4) == [*answers, ["accepted", None]]
        await page.evaluate("outcome(live.request(1, { timeout: 1 }))")
        late = await peer.receive()
        assert (await seen(page, 5))[4] == ["rejected", 0, "timeout"]
        await peer.send({"reply": "late", "id": late["id"]})
        await page.evaluate("outcome(live.request(2, { timeout: Infinity }))")
        await peer.send({"reply": "in time", "id": (await peer.receive())["id"]})
        assert (await seen(page, 6))[5] == ["accepted", "in time"]


async def test_a_break_rejects_open_requests_and_sends_none_again(browser: Browser) -> None:
    async with connected(browser, "outcome(live.request(1))") as (server, page):
        peer = await server.accept()
        await peer.receive()
        await peer.cut()
        assert await seen(page, 1) == [["rejected", 0, "unknown"]]
        peer = await server.accept()
        await page.evaluate("outcome(live.request(2))")
        assert (await peer.receive())["request"] == 2
        await page.evaluate("live.close(); outcome(live.request(3))")
        assert sorted(await seen(page, 3)) == [
            ["rejected", 0, "closed"],
            ["rejected", 0, "unknown"],
            ["rejected", 0, "unknown"],
        ]


async def test_a_request_that_expires_before_it_could_be_sent_is_never_sent(browser: Browser) -> None:
    code = "outcome(live.request('late', { timeout: 0 })); outcome(live.request('next'))"
    async with connected(browser, f"setTimeout(() => {{}}); {code}", "{ token: () => window.gate }") as (server, page):
        assert await seen(page, 1) == [["rejected", 0, "timeout"]]
        peer = await server.accept()
        assert "token" in await peer.receive()
        assert (await peer.receive())["request"] == "next"


LISTENER = """live.on("request", async (message, name) => {
  if (name === "throw") throw new Error("by the test");
  if (name === "refuse") throw new SendError("not now", 409);
  if (name === "bigint") return 5n;
  return name === "nothing" ? undefined : [message, name];
})"""


async def test_a_page_answers_requests_of_the_server(browser: Browser) -> None:
    reports = "window.reportError = note('reported')"
    async with connected(browser, f"{reports}; {LISTENER}; outcome(live.request('mine'))") as (server, page):
        peer = await server.accept()
        mine = await peer.receive()
        await peer.send({"request": {"a": 1}, "id": mine["id"]})  # the two directions number independently
        assert await peer.receive() == {"reply": [{"a": 1}, ""], "id": mine["id"]}
        await peer.send({"reply": "yours", "id": mine["id"]})
        assert await seen(page, 1) == [["accepted", "yours"]]
        for ident, name in enumerate(("nothing", "throw", "refuse", "bigint")):
            await peer.send({"request": 1, "id": ident, "name": name})
            answer = await peer.receive()
            assert answer["id"] == ident
            match name:
                case "nothing":
                    assert answer["reply"] is None
                case "refuse":
                    assert answer == {"refused": None, "id": ident, "status": 409, "reason": "not now"}
                case _:
                    assert (answer["refused"], answer["status"]) == (None, 500)
        assert [event[0] for event in await seen(page, 3)] == ["accepted", "reported", "reported"]
        await peer.send({"request": None, "base64": "AAH/", "id": 9})
        assert await peer.receive() == {"reply": [{"0": 0, "1": 1, "2": 255}, ""], "id": 9}


async def test_a_page_without_a_listener_refuses(browser: Browser) -> None:
    async with connected(browser) as (server, _):
        peer = await server.accept()
        await peer.send({"request": 1, "id": 1})
        answer = await peer.receive()
        assert (answer["refused"], answer["status"], answer["id"]) == (None, 404, 1)


async def test_an_answer_is_not_sent_on_another_connection(browser: Browser) -> None:
    code = "live.on('request', () => new Promise((resolve) => { window.resolve = resolve; }))"
    async with connected(browser, code) as (server, page):
        peer = await server.accept()
        await peer.send({"request": 1, "id": 1})
        await page.wait_for_function("!!window.resolve")
        await peer.cut()
        peer = await server.accept()
        await page.evaluate("resolve('late'); setTimeout(() => outcome(live.send('after')))")
        assert (await peer.receive())["message"] == "after"


async def ask(page: Any, name: str, message: object) -> Any:
    return await page.evaluate(
        "([name, message]) => live.request(message, { name }).then((reply) => "
        "reply instanceof Uint8Array ? ['bytes', ...reply] : reply, ({ status, reason }) => ({ status, reason }))",
        [name, message],
    )


async def check_answers(page: Any) -> None:
    assert await ask(page, "sum", [1, 2]) == {"sum": 3}
    assert await ask(page, "echo", "gr\u00fc\u00dfe") == "gr\u00fc\u00dfe"
    assert await ask(page, "nothing", None) is None
    assert await ask(page, "bytes", 1) == ["bytes", 0, 1]
    assert await ask(page, "unknown", 1) == {"status": 404, "reason": "there is no such method"}
    assert (await ask(page, "fail", 1))["status"] == 500


async def test_requests_of_both_directions_on_a_gateway(browser: Browser) -> None:
    gateway = Gateway(listener=Answering, id="own", test_page=False)
    async with serve(gateway) as url, page_with(browser) as page, anyio.create_task_group() as tasks:
        await page.goto(f"{url}/health")
        await page.evaluate(LOAD)
        await page.evaluate(f"live = connect('/ws'); {LISTENER}; 0")
        await check_answers(page)
        conn: Connection = await only(gateway)
        assert await conn.request({"sure": True}, "confirm") == [{"sure": True}, "confirm"]
        with pytest.raises(RequestRefused, match="409 not now"):
            await conn.request(1, "refuse")
        asking = Asking()
        tasks.start_soon(asking.run, conn, b"\x00\x01", "")
        assert await asking.outcome() == [{"0": 0, "1": 1}, ""]


async def test_requests_over_a_stream(browser: Browser) -> None:
    gateway = Gateway(listener=Answering, id="own", test_page=False)
    async with (
        serve(gateway) as url,
        cutting_proxy(url, refuses_websockets=True) as proxy,
        page_with(browser) as page,
    ):
        await page.goto(f"{proxy.url}/health")
        await page.evaluate(LOAD)
        await page.evaluate("live = connect('/ws'); 0")
        await check_answers(page)
