"""`client.js` in a real browser, against a server that plays `wsgateway.v1` by a script."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from tests.scripted import Peer, ScriptedServer, scripted
from wsgateway import Gateway
from wsgateway.testing import serve

LOAD = """async () => {
  Math.random = () => 0.01;  // the wait before the first attempts is a few milliseconds
  Object.assign(window, await import("/client.js"));
  window.seen = [];
  window.note = (name) => (...values) => { seen.push([name, ...values]); };
  window.outcome = (promise) => void promise.then((value) => seen.push(["accepted", value]),
    ({ status, reason }) => seen.push(["rejected", status, reason]));
}"""


@asynccontextmanager
async def page_with(browser: Browser, *, may_fail: bool = False) -> AsyncIterator[Page]:
    """A page with the module and a list of what it has seen. No script may fail in it, unless `may_fail`."""
    problems: list[str] = []
    async with serve(Gateway(test_page=False)) as url, await browser.new_context() as context:
        page = await context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        await page.goto(url + "/health")
        await page.evaluate(LOAD)
        yield page
    assert may_fail or problems == []


@asynccontextmanager
async def connected(
    browser: Browser, code: str = "", options: str = "{}"
) -> AsyncIterator[tuple[ScriptedServer, Page]]:
    """A scripted server, and a page that connects to it and then runs `code`."""
    async with scripted() as server, page_with(browser) as page:
        await page.evaluate(f"live = connect({json.dumps(server.url)}, {options}); {code}; 0")
        yield server, page


async def seen(page: Page, count: int) -> Any:
    """Return what the page has seen, once that is `count` events or more."""
    handle = await page.wait_for_function(f"seen.length >= {count} && JSON.stringify(seen)")
    return json.loads(await handle.json_value())


ROOM = "room = live.channel('room:1', { last: 3, data: 'hi' })"
MESSAGES = f"{ROOM}.on('message', note('message')).on('subscribed', note('subscribed'))"


def publication(offset: int, channel: str = "room:1") -> dict[str, Any]:
    return {"channel": channel, "message": offset, "at": f"e:{offset}"}


async def subscribing(server: ScriptedServer, **fields: Any) -> tuple[Peer, int]:
    """Accept a connection whose first command subscribes to room:1. Return it, and the id of the command."""
    peer = await server.accept()
    command = await peer.receive()
    ident = command.pop("id")
    assert command == {"subscribe": "room:1", "last": 3, "data": "hi", **fields}
    return peer, ident


async def test_a_room_recovers_from_the_newest_position(browser: Browser) -> None:
    async with connected(browser, MESSAGES) as (server, page):
        peer, ident = await subscribing(server)
        await peer.send({"subscribed": "room:1", "at": "e:4", "recovered": False, "reply": {"n": 1}, "id": ident})
        extra = {"name": "n", "key": "k", "tags": {"a": "b"}, "from": {"id": "1", "user": "ann"}}
        await peer.send({**publication(5), **extra}, {"channel": "room:1", "message": "without history"})
        assert await seen(page, 3) == [
            ["subscribed", {"channel": "room:1", "at": "e:4", "recovered": False, "reply": {"n": 1}}],
            ["message", 5, {"channel": "room:1", "at": "e:5", **extra}],
            ["message", "without history", {"channel": "room:1", "at": None}],
        ]
        await peer.cut()
        peer, ident = await subscribing(server, since="e:5")
        await peer.send({"subscribed": "room:1", "at": "e:5", "recovered": True, "id": ident})
        assert (await seen(page, 4))[3] == ["subscribed", {"channel": "room:1", "at": "e:5", "recovered": True}]


@pytest.mark.parametrize("sent", range(5))
@pytest.mark.parametrize("recovered", [True, False])
async def test_a_break_at_any_object_of_a_recovery_loses_and_doubles_nothing(
    browser: Browser, sent: int, recovered: bool
) -> None:
    """Four objects answer a `subscribe`; the connection breaks after `sent` of them, again and again."""
    code = f"{MESSAGES}; room.on('subscribed', ({{ recovered }}) => recovered || note('reset')())"
    async with connected(browser, code) as (server, page):
        top, since = 7, None
        peer, ident = await subscribing(server)
        if recovered:
            await peer.send({"subscribed": "room:1", "at": "e:4", "recovered": False, "id": ident})
            await peer.cut()
            since = "e:4"
            peer, ident = await subscribing(server, since=since)
        expected = []
        for _ in range(4):
            at = int(since[2:]) if since else 4
            answer = {"subscribed": "room:1", "at": f"e:{at}", "recovered": since is not None, "id": ident}
            objects = [answer, *map(publication, range(at + 1, top + 1))][:sent]
            await peer.send(*objects)
            await peer.cut()
            expected += [each["message"] for each in objects if "message" in each]
            since = objects[-1]["at"] if objects else since
            peer, ident = await subscribing(server, **({"since": since} if since else {}))
        at = int(since[2:]) if since else 4
        await peer.send({"subscribed": "room:1", "at": f"e:{at}", "recovered": since is not None, "id": ident})
        await peer.send(*map(publication, range(at + 1, top + 2)))
        await page.wait_for_function("seen.some(([name, message]) => name === 'message' && message === 8)")
        events = await seen(page, 0)
        assert [event[1] for event in events if event[0] == "message"] == [5, 6, 7, 8]
        assert sum(event[0] == "reset" for event in events) == 1


async def test_unsubscribed_from_2500_on_starts_over_and_below_is_forgotten(browser: Browser) -> None:
    code = f"{MESSAGES}.on('unsubscribed', note('unsubscribed'))"
    async with connected(browser, code) as (server, page):
        peer, ident = await subscribing(server)
        await peer.send({"subscribed": "room:1", "at": "e:4", "recovered": False, "id": ident}, publication(5))
        await peer.send({"unsubscribed": "room:1", "code": 2500, "reason": "lost"}, publication(6))
        command = await peer.receive()
        ident = command.pop("id")
        assert command == {"subscribe": "room:1", "last": 3, "data": "hi"}
        await peer.send({"subscribed": "room:1", "at": "f:1", "recovered": False, "id": ident}, publication(2))
        await peer.send({"unsubscribed": "room:1", "code": 2000, "reason": "banned"}, publication(3))
        events = await seen(page, 5)
        assert [event[:2] for event in events if event[0] == "message"] == [["message", 5], ["message", 2]]
        assert events[-1] == ["unsubscribed", {"channel": "room:1", "code": 2000, "reason": "banned"}]
        await peer.close()
        peer = await server.accept()
        await page.evaluate("outcome(live.send('first'))")
        assert (await peer.receive())["message"] == "first"


async def test_what_belongs_to_an_earlier_subscription_is_ignored(browser: Browser) -> None:
    async with connected(browser, MESSAGES) as (server, page):
        peer, first = await subscribing(server)
        await page.evaluate(f"room.unsubscribe(); room.unsubscribe(); {MESSAGES}; 0")
        left, command = await peer.receive(), await peer.receive()
        assert left["unsubscribe"] == command["subscribe"] == "room:1"
        await peer.send({"subscribed": "room:1", "at": "e:1", "recovered": False, "id": first}, publication(2))
        await peer.send({"unsubscribed": "room:1", "code": 2000, "reason": "", "id": left["id"]}, publication(3))
        await peer.send({"channel": "room:1", "joined": {"id": "1", "user": "ann"}})
        await peer.send({"subscribed": "room:1", "at": "e:3", "recovered": False, "id": command["id"]}, publication(4))
        events = await seen(page, 2)
        assert [event[1] for event in events] == [{"channel": "room:1", "at": "e:3", "recovered": False}, 4]
        assert await page.evaluate("room.members.size") == 0


async def test_the_same_channel_twice_is_one_room(browser: Browser) -> None:
    async with connected(browser, MESSAGES) as (server, page):
        peer, ident = await subscribing(server)
        assert await page.evaluate("live.channel('room:1', { last: 9 }) === room")
        await page.evaluate("room.unsubscribe()")
        assert (await peer.receive())["unsubscribe"] == "room:1"
        assert await page.evaluate("live.channel('room:1') !== room")
        assert await peer.receive() == {"subscribe": "room:1", "id": ident + 2}


async def test_a_message_is_accepted_refused_or_unknown(browser: Browser) -> None:
    async with connected(browser, f"{ROOM}; outcome(room.publish({{ text: 'a' }}, {{ name: 'n' }}))") as (server, page):
        peer, ident = await subscribing(server)
        assert await peer.receive() == {"channel": "room:1", "message": {"text": "a"}, "name": "n", "id": ident + 1}
        await page.evaluate("outcome(live.send()); outcome(live.send('c', { name: 'e' })); outcome(live.send(4))")
        assert await peer.receive() == {"message": None, "id": ident + 2}
        assert await peer.receive() == {"message": "c", "name": "e", "id": ident + 3}
        refused = {"refused": None, "status": 403, "reason": "no", "id": ident + 3}
        await peer.send({"id": ident + 1, "at": "e:1"}, {"id": ident + 2}, refused)
        await peer.receive()
        await peer.cut()
        assert await seen(page, 4) == [
            ["accepted", {"at": "e:1"}],
            ["accepted", {"at": None}],
            ["rejected", 403, "no"],
            ["rejected", 0, "unknown"],
        ]


async def test_messages_wait_in_a_queue_that_can_be_full(browser: Browser) -> None:
    code = "message = { n: 1 }; for (const i of [1, 2, 3]) outcome(live.send(message)); message.n = 2; " + ROOM
    async with connected(browser, code, "{ queue: 2 }") as (server, page):
        peer, ident = await subscribing(server)
        for number in (1, 2):
            assert await peer.receive() == {"message": {"n": 1}, "id": ident + number}
        await page.evaluate("for (let i = 0; i < 50; i++) outcome(live.send(i))")  # no queue while it is connected
        for number in range(50):
            assert (await peer.receive())["message"] == number
        await page.evaluate("live.close(); outcome(live.send(51))")
        await page.evaluate(
            "const loop = {}; loop.loop = loop; live.send(loop).catch((error) => note('loop')(error.name)); 0"
        )
        events = await seen(page, 55)
        assert events[:1] == [["rejected", 0, "full"]]
        assert ["rejected", 0, "closed"] in events
        assert ["loop", "TypeError"] in events
        assert sum(event[-1] == "unknown" for event in events) == 52


async def test_the_token_is_asked_for_before_every_attempt(browser: Browser) -> None:
    options = (
        "{ token: async () => { count++; if (count === 2) throw 'offline'; return count === 3 ? null : 't' + count; } }"
    )
    async with scripted() as server, page_with(browser) as page:
        events = "live.on('status', note('status')).on('message', note('message'))"
        await page.evaluate(f"count = 0; live = connect({json.dumps(server.url)}, {options}); {ROOM}; {events}; 0")
        for token, since in (("t1", []), ("", ["user:1@e:8"]), ("t4", ["user:1@e:8"])):
            peer = await server.accept()
            assert peer.query == [("auth", "first")]
            assert await peer.receive() == {"token": token, "since": since}
            assert (await peer.receive())["subscribe"] == "room:1"
            await peer.send({"subscribed": "user:1", "at": "e:7", "recovered": bool(since)}, publication(8, "user:1"))
            await peer.cut()
        states = [event[1] for event in await seen(page, 12) if event[0] == "status"]
        assert states[:6] == ["connecting", "open", "waiting", "connecting", "waiting", "connecting"]


async def test_channels_of_the_server_are_recovered_through_the_url(browser: Browser) -> None:
    events = "for (const name of ['message', 'subscribed', 'unsubscribed', 'refused']) live.on(name, note(name))"
    async with connected(browser, events) as (server, page):
        peer = await server.accept()
        assert peer.query == []
        await peer.send({"subscribed": "user:1", "at": "e:1", "recovered": False}, publication(2, "user:1"))
        await peer.send({"message": "all", "name": "n"}, {"base64": "AAH/", "channel": "user:1", "at": "e:3"})
        await peer.send({"refused": "news", "status": 403, "reason": "no"})
        events = await seen(page, 5)
        assert events[0][1] == {"channel": "user:1", "at": "e:1", "recovered": False}
        assert events[1] == ["message", 2, {"channel": "user:1", "at": "e:2"}]
        assert events[2] == ["message", "all", {"name": "n", "at": None}]
        assert await page.evaluate("[...seen[3][1]]") == [0, 1, 255]
        assert events[4] == ["refused", {"channel": "news", "status": 403, "reason": "no"}]
        await peer.cut()
        peer = await server.accept()
        assert peer.query == [("since", "user:1@e:3")]
        await peer.send({"subscribed": "user:1", "at": "e:3", "recovered": True})
        await peer.send({"unsubscribed": "user:1", "code": 2500, "reason": ""})
        command = await peer.receive()
        assert command == {"subscribe": "user:1", "id": command["id"]}
        await peer.send({"subscribed": "user:1", "at": "f:0", "recovered": False, "id": command["id"]})
        await seen(page, 7)
        await page.evaluate("live.channel('user:1').on('message', note('taken')); 0")
        command = await peer.receive()
        assert command == {"subscribe": "user:1", "id": command["id"]}
        await peer.send(publication(9, "user:1"))  # of the subscription before
        await peer.send({"subscribed": "user:1", "at": "f:0", "recovered": False, "id": command["id"]})
        await peer.send(publication(1, "user:1"))
        assert (await seen(page, 8))[7:] == [["taken", 1, {"channel": "user:1", "at": "e:1"}]]


async def test_members_are_kept_current(browser: Browser) -> None:
    code = f"{ROOM}.on('joined', note('joined')).on('left', note('left')).on('subscribed', note('subscribed'))"
    members = "Object.fromEntries([...room.members].map(([user, list]) => [user, list.map(({ id }) => id)]))"
    ann, phone, bob = ({"id": str(number), "user": user} for number, user in enumerate(("ann", "ann", "bob")))
    async with connected(browser, code) as (server, page):
        peer, ident = await subscribing(server)
        await peer.send({"subscribed": "room:1", "recovered": False, "members": [ann, phone], "id": ident})
        await peer.send(*({"channel": "room:1", "joined": member} for member in (bob, ann)))
        await peer.send(*({"channel": "room:1", "left": member} for member in (phone, bob, bob)))
        events = await seen(page, 6)
        assert events[1] == ["joined", bob, {"channel": "room:1"}]
        assert events[3] == ["left", phone, {"channel": "room:1"}]
        assert await page.evaluate(members) == {"ann": ["0"]}
        await peer.cut()
        peer, ident = await subscribing(server)
        await peer.send({"subscribed": "room:1", "recovered": False, "members": [bob], "id": ident})
        await seen(page, 7)
        assert await page.evaluate(members) == {"bob": ["2"]}


async def test_a_listener_that_fails_stops_nothing(browser: Browser) -> None:
    async with scripted() as server, page_with(browser, may_fail=True) as page:
        await page.evaluate(f"live = connect({json.dumps(server.url)}); {ROOM}; 0")
        await page.evaluate("onerror = (text) => { note('error')(text); }; 0")
        await page.evaluate("room.on('message', () => { throw new Error('mine'); }).on('message', note('message')); 0")
        peer, ident = await subscribing(server)
        await peer.send({"subscribed": "room:1", "recovered": False, "id": ident}, publication(1), publication(2))
        events = await seen(page, 4)
        assert [event[1] for event in events if event[0] == "message"] == [1, 2]
        assert [event[1] for event in events if event[0] == "error"] == ["Uncaught Error: mine"] * 2
        await page.evaluate("outcome(room.publish(3))")
        await peer.send({"id": (await peer.receive())["id"], "at": "e:3"})
        assert (await seen(page, 5))[4] == ["accepted", {"at": "e:3"}]


@pytest.mark.parametrize(("status", "asks_again"), [(403, False), (404, False), (429, True), (500, True), (503, True)])
async def test_a_refused_room_asks_again_where_that_may_help(browser: Browser, status: int, asks_again: bool) -> None:
    async with connected(browser, f"{ROOM}.on('refused', note('refused'))") as (server, page):
        peer, ident = await subscribing(server)
        await peer.send({"refused": "room:1", "status": status, "reason": "no", "id": ident})
        assert await seen(page, 1) == [["refused", {"channel": "room:1", "status": status, "reason": "no"}]]
        if asks_again:
            assert (await peer.receive())["subscribe"] == "room:1"
        else:
            await peer.cut()
            peer = await server.accept()
            await page.evaluate("live.channel('room:1', { last: 1 }); 0")
            command = await peer.receive()
            assert command == {"subscribe": "room:1", "last": 1, "id": command["id"]}


async def test_a_url_may_be_relative_and_name_channels(browser: Browser) -> None:
    async with page_with(browser) as page:
        await page.evaluate("addEventListener('online', () => 0); live = connect('ws?channel=a b#here'); 0")
        async with page.expect_websocket() as opening:
            pass
        assert (await opening.value).url.endswith("/ws?channel=a%20b")


# A page without a network: the test decides when a socket opens and closes, and what time it is

PLAYED = """async () => {
  delays = []; sockets = []; states = []; Math.random = () => 0.5;
  WebSocket = class {
    readyState = 0; sent = [];
    constructor(url) { this.url = url; sockets.push(this); }
    send(text) { this.sent.push(JSON.parse(text)); }
    open() { this.readyState = 1; this.onopen(); }
    close() { this.isClosed = true; }
  };
  Object.assign(window, await import("/client.js"));
  live = connect("http://gateway.test/ws", window.options);
  live.on("status", (...values) => { states.push(values); if (values[0] === "waiting") delays.push(values[1]); });
}"""
CLOSED = "([code, reason]) => sockets.at(-1).onclose({ code, reason })"


@asynccontextmanager
async def played(browser: Browser, setup: str = "") -> AsyncIterator[Page]:
    async with page_with(browser) as page:
        await page.evaluate(f"() => {{ {setup} }}")
        await page.clock.install(time=0)
        await page.clock.pause_at(1000)
        await page.evaluate(PLAYED)
        await page.clock.run_for(10)
        yield page


async def test_the_wait_is_capped_and_begins_anew_after_a_stable_connection(browser: Browser) -> None:
    async with played(browser) as page:
        for _ in range(8):
            await page.evaluate(CLOSED, [1012, ""])
            await page.clock.run_for(10_500)
            await page.evaluate("sockets.at(-1).open()")
        await page.clock.run_for(4_900)  # not yet stable
        await page.evaluate(CLOSED, [1012, ""])
        await page.clock.run_for(10_500)
        await page.evaluate("sockets.at(-1).open()")
        await page.clock.run_for(5_100)
        await page.evaluate(CLOSED, [1012, ""])
        assert await page.evaluate("delays") == [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000, 250]


BACK, AWAY = '{"reconnect":true}', '{"reconnect":false,"reason":"why"}'


@pytest.mark.parametrize(
    ("code", "reason", "state"),
    [
        (1000, "", "waiting"),
        (1006, "", "waiting"),
        (3499, "null", "waiting"),
        (4000, "[]", "waiting"),
        (4499, "x", "waiting"),
        (3500, BACK, "waiting"),
        (1009, "too big", "closed"),
        (3500, "", "closed"),
        (3999, "x", "closed"),
        (4500, "", "closed"),
        (4999, "", "closed"),
        (1012, AWAY, "closed"),
    ],
)
async def test_a_close_decides_whether_to_reconnect(browser: Browser, code: int, reason: str, state: str) -> None:
    async with played(browser) as page:
        await page.evaluate("sockets[0].open()")
        await page.evaluate(CLOSED, [code, reason])
        await page.clock.run_for(3_600_000)
        assert await page.evaluate("sockets.length > 1") == (state == "waiting")
        last = (await page.evaluate("states"))[2]
        assert last[0] == state
        if state == "closed":
            assert last[1] == {"code": code, "reason": "why" if reason == AWAY else reason}


async def test_the_server_says_when_to_reconnect(browser: Browser) -> None:
    async with played(browser) as page:
        await page.evaluate(CLOSED, [1012, '{"retry_after_ms":60000}'])
        await page.evaluate("dispatchEvent(new Event('online'))")  # no reason to come earlier than the server asked for
        await page.clock.run_for(59_000)
        assert await page.evaluate("sockets.length") == 1
        await page.clock.run_for(2_000)
        assert await page.evaluate("sockets.length") == 2
        await page.evaluate(CLOSED, [1012, '{"retry_after_ms": 1e12}'])  # a timer that is too long would fire at once
        assert await page.evaluate("delays") == [60_250, 2**31 - 1]


async def test_it_stays_closed_when_the_page_closes_it_while_it_waits(browser: Browser) -> None:
    async with played(browser) as page:
        await page.evaluate(CLOSED, [1012, ""])
        await page.evaluate("live.close(); live.close(); dispatchEvent(new Event('online'))")
        await page.clock.run_for(60_000)
        assert await page.evaluate("sockets.length") == 1
        assert (await page.evaluate("states"))[-1] == ["closed", {"code": 1000, "reason": ""}]


async def test_a_connection_that_does_not_open_is_given_up(browser: Browser) -> None:
    async with played(browser) as page:
        await page.clock.run_for(15_500)
        assert await page.evaluate("sockets[0].isClosed")
        assert await page.evaluate("sockets.length") == 2


async def test_it_does_not_wait_once_the_network_is_back(browser: Browser) -> None:
    async with played(browser) as page:
        for _ in range(6):
            await page.evaluate(CLOSED, [1006, ""])
            await page.clock.run_for(10_000)
            await page.evaluate("sockets.at(-1).open()")
        await page.evaluate(CLOSED, [1006, ""])
        assert await page.evaluate("dispatchEvent(new Event('online')); sockets.length") == 8


@pytest.mark.parametrize("answers", [True, False])
async def test_a_connection_that_may_have_died_is_probed(browser: Browser, answers: bool) -> None:
    async with played(browser) as page:
        await page.evaluate("sockets[0].open(); dispatchEvent(new Event('online'))")
        (probe,) = await page.evaluate("sockets[0].sent")
        assert list(probe) == ["id"]
        if answers:
            refused = json.dumps({"refused": None, "status": 400, "reason": "no command", "id": probe["id"]})
            await page.evaluate("(data) => sockets[0].onmessage({ data })", refused)
        await page.clock.run_for(20_000)
        assert await page.evaluate("sockets.length") == (1 if answers else 2)
        assert await page.evaluate("!!sockets[0].isClosed") != answers


async def test_a_page_that_becomes_visible_probes_and_one_that_is_hidden_does_not(browser: Browser) -> None:
    async with played(browser) as page:
        await page.evaluate(
            "sockets[0].open(); Object.defineProperty(document, 'hidden', { value: true, writable: true })"
        )
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange', { bubbles: true }))")
        assert await page.evaluate("sockets[0].sent.length") == 0
        await page.evaluate("document.hidden = false")
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange', { bubbles: true }))")
        assert await page.evaluate("sockets[0].sent.length") == 1


# A token that expires

TOKENS = """
  asked = 0; tokens = ["first"]; warnings = []; console.warn = (...values) => warnings.push(values.join(" "));
  token = async () => { asked++; if (!tokens.length) throw new Error("offline"); return tokens.shift(); };
  object = (value) => sockets.at(-1).onmessage({ data: JSON.stringify(value) });
  window.options = { token };
"""
REFUSED = {"code": 3500, "reason": "token expired"}


@asynccontextmanager
async def renewing(browser: Browser, *tokens: str | None, expires: int = 100) -> AsyncIterator[Page]:
    """A page whose connection has sent its first token, which expires in `expires` seconds. `tokens` follow."""
    async with played(browser, TOKENS) as page:
        await page.evaluate("(more) => { tokens.push(...more); }", tokens)
        await page.evaluate("(expires) => { sockets.at(-1).open(); object({ expires }); }", expires)
        assert await page.evaluate("asked") == 1
        yield page


async def sent_tokens(page: Page) -> list[str]:
    found: list[str] = await page.evaluate(
        "sockets.flatMap(({ sent }) => sent).map(({ token }) => token).filter((token) => token !== undefined)"
    )
    return found


async def test_a_token_is_renewed_before_it_expires(browser: Browser) -> None:
    async with renewing(browser, "second", "third") as page:
        await page.clock.run_for(80_000)
        assert await page.evaluate("asked") == 1
        await page.clock.run_for(10_000)
        assert await sent_tokens(page) == ["first", "second"]
        await page.evaluate("object({ expires: 10, id: sockets.at(-1).sent.at(-1).id })")
        await page.clock.run_for(9_000)
        assert await sent_tokens(page) == ["first", "second", "third"]
        await page.evaluate("object({ expires: null, id: sockets.at(-1).sent.at(-1).id })")
        await page.clock.run_for(10_000_000)
        assert await page.evaluate("asked") == 3
        assert not any("http" in token for token in await page.evaluate("warnings"))


async def test_a_renewal_that_fails_is_tried_again_after_longer_and_longer(browser: Browser) -> None:
    async with renewing(browser) as page:
        await page.clock.run_for(90_000)
        assert await page.evaluate("asked") in (4, 5, 6, 7)  # within 5 s, after 0.25, 0.5, 1, 2… seconds
        await page.clock.run_for(100_000)
        assert await page.evaluate("asked") < 20
        await page.evaluate("tokens.push('late')")
        await page.clock.run_for(10_000)
        assert await sent_tokens(page) == ["first", "late"]
        assert await page.evaluate("sockets.length") == 1


@pytest.mark.parametrize(("status", "asks_again"), [(400, False), (429, True), (503, True)])
async def test_a_renewal_that_is_refused_is_tried_again_where_that_may_help(
    browser: Browser, status: int, asks_again: bool
) -> None:
    async with renewing(browser, "second", "third") as page:
        await page.clock.run_for(86_000)
        refused = {"refused": None, "status": status, "reason": "later"}
        await page.evaluate("(refused) => object({ ...refused, id: sockets.at(-1).sent.at(-1).id })", refused)
        await page.clock.run_for(500)
        assert await sent_tokens(page) == ["first", "second", "third"][: 3 if asks_again else 2]


async def test_without_another_token_nothing_is_sent(browser: Browser) -> None:
    async with renewing(browser, None) as page:
        await page.clock.run_for(1_000_000)
        assert await sent_tokens(page) == ["first"]
        assert await page.evaluate("asked") == 2


async def test_without_a_token_function_nothing_is_renewed(browser: Browser) -> None:
    async with played(browser) as page:
        await page.evaluate("sockets[0].open(); sockets[0].onmessage({ data: '{\"expires\":1}' })")
        await page.clock.run_for(100_000)
        assert await page.evaluate("sockets.length") == 1
        assert await page.evaluate("sockets[0].sent") == []


async def test_a_token_that_expires_in_a_year_is_not_renewed_at_once(browser: Browser) -> None:
    async with renewing(browser, expires=366 * 86_400) as page:
        await page.clock.run_for(1_000_000)
        assert await page.evaluate("asked") == 1


@pytest.mark.parametrize("close", [{"code": 3005, "reason": "connection expired"}, REFUSED])
async def test_an_expired_token_is_replaced(browser: Browser, close: dict[str, Any]) -> None:
    async with renewing(browser, "second") as page:
        await page.evaluate("(close) => sockets.at(-1).onclose(close)", close)
        await page.clock.run_for(300)
        await page.evaluate("sockets.at(-1).open()")
        assert await sent_tokens(page) == ["first", "second"]
        await page.clock.run_for(100_000)  # the timer of the first token is gone
        assert await page.evaluate("asked") == 2


async def test_expired_tokens_without_end_are_sent_less_and_less_often(browser: Browser) -> None:
    async with renewing(browser, *["expired"] * 100) as page:
        for _ in range(60):
            await page.evaluate("(close) => { const { onclose } = sockets.at(-1); onclose?.(close); }", REFUSED)
            await page.clock.run_for(1_000)
            await page.evaluate("{ const last = sockets.at(-1); if (last.onopen && !last.readyState) last.open(); }")
        assert 8 <= await page.evaluate("asked") <= 13


@pytest.mark.parametrize("reason", ["invalid token", "log in first", ""])
async def test_a_token_that_is_not_valid_is_not_replaced(browser: Browser, reason: str) -> None:
    async with renewing(browser, "second") as page:
        await page.evaluate(CLOSED, [3500, reason])
        await page.clock.run_for(100_000)
        assert await page.evaluate("states.at(-1)") == ["closed", {"code": 3500, "reason": reason}]
        assert await page.evaluate("asked") == 1


# Streams, without a network

STREAMED = """() => {
  fetched = []; streams = []; posted = [];
  const text = new TextEncoder();
  fetch = async (url, options) => {
    if (options.method === "POST") {
      posted.push([String(url), await options.body.text()]);
      return new Response('{"at":"e:9"}');
    }
    fetched.push([String(url), options.headers, options.credentials]);
    if (fetched.length === 1) throw new TypeError("no network");
    return new Response(new ReadableStream({ start(controller) {
      options.signal.onabort = () => controller.error(options.signal.reason);
      const write = (line) => text.encode(line + "\\n").forEach((byte) => controller.enqueue(Uint8Array.of(byte)));
      streams.push({ write, end: () => controller.close() });
    } }));
  };
  line = (object) => streams.at(-1).write(JSON.stringify(object));
  received = []; outcomes = [];
  live.on("message", (message) => received.push(message));
  room = live.channel("a&b", { last: 3, data: { n: 1 } }).on("message", (message) => received.push(message));
}"""
OPEN = "line({ open: { id: '1', session: 'n.secret' } })"
FIRST = "http://gateway.test/stream?channel=a%26b&last=3&data=%7B%22n%22%3A1%7D"


@asynccontextmanager
async def streamed(browser: Browser, setup: str = "") -> AsyncIterator[Page]:
    """A page in which two WebSockets and a stream have failed, then two WebSockets, and the second stream is open."""
    async with played(browser, setup) as page:
        await page.evaluate(STREAMED)
        for count in (1, 2):
            await page.evaluate(CLOSED, [1006, ""])
            await page.clock.run_for(1_000)
            assert await page.evaluate("fetched.length") == count - 1
        await page.wait_for_function("sockets.length === 2 && states.at(-1)[0] === 'waiting'")
        await page.clock.run_for(5_000)
        assert await page.evaluate("sockets.length") == 3
        await page.evaluate(CLOSED, [1006, ""])
        await page.clock.run_for(5_000)
        await page.wait_for_function("streams.length === 1")
        assert await page.evaluate("sockets.length") == 3
        await page.evaluate(OPEN)
        await page.wait_for_function("states.at(-1)[0] === 'open'")
        yield page


async def test_sockets_and_streams_take_turns_until_one_opens(browser: Browser) -> None:
    async with streamed(browser) as page:
        assert await page.evaluate("fetched") == [[FIRST, {}, "include"]] * 2
        await page.evaluate("line({ subscribed: 'a&b', at: 'e:1', recovered: false })")
        await page.evaluate("line({ channel: 'a&b', message: '\u00e9\u20ac\\n', at: 'e:2' }); streams[0].write('')")
        await page.evaluate("line({ subscribed: 'mine', at: 'm:1', recovered: false }); line({ message: 2 })")
        await page.wait_for_function("received.length === 2")
        assert await page.evaluate("received") == ["\u00e9\u20ac\n", 2]
        await page.evaluate("streams[0].end()")
        await page.wait_for_function("states.at(-1)[0] === 'waiting'")
        await page.clock.run_for(10_000)
        await page.wait_for_function("fetched.length === 3")
        assert await page.evaluate("sockets.length") == 3
        url = "http://gateway.test/stream?since=a%26b%40e%3A2&since=mine%40m%3A1&" + FIRST.partition("?")[2]
        assert (await page.evaluate("fetched"))[2][0] == url


async def test_messages_are_posted_in_order_and_a_change_of_channels_waits_for_them(browser: Browser) -> None:
    async with streamed(browser) as page:
        await page.evaluate(
            "post = (message) => live.send(message, { name: 'n' }).then(({ at }) => outcomes.push(at)); 0"
        )
        await page.evaluate(
            "post(1); post(2); room.unsubscribe(); room.publish(3); live.channel('c'); live.channel('d'); 0"
        )
        await page.clock.run_for(100)
        await page.wait_for_function("fetched.length === 3")
        assert await page.evaluate("outcomes") == ["e:9", "e:9"]
        channels = "channel=c&last=&data=&channel=d&last=&data="
        assert (await page.evaluate("fetched"))[2][0] == f"http://gateway.test/stream?{channels}"
        await page.wait_for_function("streams.length === 2")
        await page.evaluate(OPEN)
        await page.wait_for_function("posted.length === 3")
        target = "http://gateway.test/session/n.secret?"
        assert await page.evaluate("posted") == [
            [target + "name=n", "1"],
            [target + "name=n", "2"],
            [target + "channel=a%26b", "3"],
        ]


@pytest.mark.parametrize(("reconnect", "state"), [(True, "waiting"), (False, "closed")])
async def test_the_end_of_a_stream_decides_whether_to_reconnect(browser: Browser, reconnect: bool, state: str) -> None:
    async with streamed(browser) as page:
        close = {"code": 3500, "reason": "why", "reconnect": reconnect, "retry_after_ms": 70_000}
        await page.evaluate("(close) => { line({ close }); line({ message: 'too late' }); }", close)
        await page.wait_for_function("(state) => states.at(-1)[0] === state", arg=state)
        detail = (await page.evaluate("states"))[-1][1]
        assert detail >= 70_000 if reconnect else detail == {"code": 3500, "reason": "why"}
        assert await page.evaluate("received") == []


async def test_a_stream_with_a_new_token_follows_before_the_token_expires(browser: Browser) -> None:
    async with streamed(browser, TOKENS + "tokens = ['1', '2', '3', '4', '5', '6']") as page:
        await page.evaluate("line({ expires: 100 }); line({ subscribed: 'a&b', at: 'e:1', recovered: false })")
        await page.evaluate("line({ message: 1 })")
        await page.wait_for_function("received.length === 1")
        assert (await page.evaluate("fetched"))[-1] == [FIRST, {"authorization": "Bearer 5"}, "same-origin"]
        await page.clock.run_for(86_000)
        await page.wait_for_function("fetched.length === 3")
        url = "http://gateway.test/stream?since=a%26b%40e%3A1&" + FIRST.partition("?")[2]
        assert (await page.evaluate("fetched"))[-1] == [url, {"authorization": "Bearer 6"}, "same-origin"]
        assert await page.evaluate("asked") == 6
