"""The channels of a gateway, as its own port and REST show them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import anyio
import anyio.to_thread
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.typing import Subprotocol

from tests.pipes import joined
from wsgateway import EVERYBODY, Gateway, HandshakeEvent, Settings, SubscribeEvent, testing
from wsgateway.client import request
from wsgateway.cluster.questions import ListedChannel
from wsgateway.config.channels import ChannelSettings
from wsgateway.exceptions import ChannelError
from wsgateway.gateway import channels
from wsgateway.supervisor.observer import Observer

CHANNELS: Any = {"room:*": {"history": 10, "public": True, "presence": True}, "*": {"public": True}}

ODD_NAMES = [
    "room:1",
    "room:a/b",
    "room:/",
    "room:a%2Fb",
    "room:100%",
    "room:a/history",
    "history",
    "a/presence",
    "..",
    ".",
    "../../send",
    "room:ключ/ünd",
    "room:😀",
    "room:?x=1&y#z",
    "room:" + "x" * 250,
    "a//b",
    "\\",
]
"""Names of channels that a path could misunderstand."""


class Named:
    async def on_handshake(self, event: HandshakeEvent) -> None:
        event.conn.user = event.conn.query.get("user")

    async def on_subscribe(self, event: SubscribeEvent) -> None:
        event.info = event.message or None


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    gateway = Gateway(Named, channels=CHANNELS, api_key="key", **options)
    async with testing.serve(gateway) as url:
        async with httpx.AsyncClient(base_url=url, headers={"authorization": "Bearer key"}) as http:
            yield gateway, http


def v1(http: httpx.AsyncClient, query: str) -> testing.Client:
    return testing.Client(str(http.base_url).rstrip("/"), f"/ws?{query}", subprotocols=[Subprotocol("wsgateway.v1")])


async def test_channels_are_listed_in_pages_and_by_prefix() -> None:
    async with served() as (gateway, http):
        assert (await http.get("/channels")).json() == {"total": 0, "offset": 0, "limit": 100, "channels": []}
        published = await gateway.publish("x", channel="room:2")
        async with v1(http, "channel=room:1&channel=news") as client:
            await client.receive_json()
            listed = (await http.get("/channels")).json()
            assert [(one["name"], one["namespace"], one["subscribers"]) for one in listed["channels"]] == [
                ("news", "*", 1),
                ("room:1", "room:*", 1),
                ("room:2", "room:*", 0),
            ]
            news, one, two = listed["channels"]
            assert (news["at"], news["silent"]) == (None, None)
            assert one["at"].endswith(":0")
            assert one["silent"] is None
            assert two["at"] == published.at
            assert 0 <= two["silent"] < 30
            await gateway.publish("x", channel="news")
            assert (await http.get("/channels", params={"prefix": "ne"})).json()["channels"][0]["silent"] < 30
            page = (await http.get("/channels", params={"prefix": "room:", "offset": 1, "limit": 1})).json()
            assert (page["total"], [one["name"] for one in page["channels"]]) == (2, ["room:2"])
            assert (await http.get("/channels", params={"offset": 2**31})).json()["channels"] == []


@pytest.mark.parametrize("mount", ["", "/live"])
@pytest.mark.parametrize("name", ODD_NAMES)
async def test_any_name_can_be_asked_for(name: str, mount: str) -> None:
    gateway = Gateway(channels=CHANNELS, local_access=True)
    app = Starlette(routes=[Mount(mount, gateway)], lifespan=gateway.lifespan) if mount else gateway
    async with testing.serve(app) as url:
        await gateway.publish("x", channel=name)
        for what in ("history", "presence"):
            asked = f"{url}{mount}/channels/{quote(name, safe='')}/{what}"  # by a client that normalizes nothing
            answer = await anyio.to_thread.run_sync(request, "GET", asked)
            assert answer["channel"] == name
            if what == "history":
                assert len(answer["publications"]) == name.startswith("room:")


async def test_a_history_shows_every_kind_of_message_with_what_describes_it() -> None:
    big = 10**40
    async with served() as (gateway, http):
        for message in ("text", {"n": big}, b"\xff\x00"):
            await gateway.publish(message, channel="room:1", name="n", key="k", tags={"a": "b"})
        await gateway.publish(None or 0, channel="room:1")
        history = (await http.get("/channels/room:1/history")).json()
        one, two, three, four = history["publications"]
        assert history["at"] == four["at"]
        assert set(one) == {"channel", "message", "at", "time", "name", "key", "tags"}
        assert (one["message"], one["name"], one["key"], one["tags"]) == ("text", "n", "k", {"a": "b"})
        assert two["message"] == {"n": big}
        assert (three["base64"], "message" in three) == ("/wA=", False)
        assert (four["message"], set(four)) == (0, {"channel", "message", "at", "time"})
        ask = {"since": one["at"], "limit": 1}
        assert [p["at"] for p in (await http.get("/channels/room:1/history", params=ask)).json()["publications"]] == [
            two["at"]
        ]
        newest = await http.get("/channels/room:1/history", params={"reverse": "true", "limit": 2})
        assert [p["at"] for p in newest.json()["publications"]] == [four["at"], three["at"]]
        assert (await http.get("/channels/room:1/history?limit=0")).json()["publications"] == []
        assert (await http.get("/channels/news/history")).json() == {"channel": "news", "at": None, "publications": []}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/channels/room:1/history?since=garbage", 422),
        ("/channels/room:1/history?since=a:9223372036854775808", 422),
        ("/channels/room:1/history?since=a:9223372036854775807", 200),
        ("/channels/room:1/history?since=", 422),
        ("/channels/room:1/history?limit=10000", 200),
        ("/channels/room:1/history?limit=10001", 422),
        ("/channels/room:1/history?limit=-1", 422),
        ("/channels/room:1/history?reverse=maybe", 422),
        ("/channels/room:1/presence?limit=0", 422),
        ("/channels/room:1/presence?offset=x", 422),
        ("/channels?limit=1001", 422),
        ("/channels/a%20b/history", 404),
        ("/channels/a*/presence", 404),
        ("/channels/%00/history", 404),
        ("/channels/" + "x" * 256 + "/history", 404),
        ("/channels//history", 404),
        ("/channels/room:1", 404),
        ("/channels/room:1/history/more", 404),
        ("/channels/%FF%FE/history", 200),
    ],
)
async def test_what_cannot_be_asked_for(path: str, status: int) -> None:
    async with served() as (_, http):
        answer = await http.get(path)
        assert answer.status_code == status, answer.text
        if status != 200:
            assert answer.headers["content-type"] == "application/problem+json"
        async with httpx.AsyncClient(base_url=http.base_url) as stranger:
            is_route = path not in ("/channels//history", "/channels/room:1", "/channels/room:1/history/more")
            assert (await stranger.get(path)).status_code == (401 if is_route else 404)


async def test_members_are_shown_in_pages_with_their_info() -> None:
    async with served() as (gateway, http):
        async with v1(http, "user=ann&channel=room:1") as ann, v1(http, "user=bob&channel=room:1") as bob:
            await ann.receive_json(), await bob.receive_json()
            await gateway.subscribe("news", user="ann", info={"n": 10**40})
            first = (await http.get("/channels/room:1/presence", params={"limit": 1})).json()
            member = {"id": first["members"][0]["id"], "user": "ann", "info": None}
            assert first == {
                "channel": "room:1",
                "total": 2,
                "offset": 0,
                "limit": 1,
                "members": [member],
                "complete": True,
            }
            second = (await http.get("/channels/room:1/presence", params={"offset": 1})).json()
            assert [member["user"] for member in second["members"]] == ["bob"]
            assert (await http.get("/channels/news/presence")).json()["members"][0]["info"] == {"n": 10**40}
        assert (await http.get("/channels/nobody/presence")).json()["members"] == []


async def test_one_channel_is_described_and_its_history_forgotten() -> None:
    async with served() as (gateway, _):
        channels = gateway.inspector.channels
        await gateway.publish("x", channel="room:1")
        info = await channels.describe("room:1")
        assert (info.records, info.settings["history"], info.subscribers) == (1, 10, 0)
        await channels.forget("room:1")
        forgotten = await channels.describe("room:1")
        assert (forgotten.records, forgotten.at, forgotten.silent) == (0, info.at, None)
        with pytest.raises(ChannelError):
            await channels.describe("a b")


async def test_subscriptions_of_a_user_end_and_others_stay() -> None:
    async with served() as (gateway, http):
        async with v1(http, "user=ann&channel=room:1") as ann, v1(http, "user=bob&channel=room:1") as bob:
            await ann.receive_json(), await bob.receive_json()
            ended = await gateway.inspector.channels.unsubscribe("room:1", None, "ann", 2000, "bye")
            assert (ended.unsubscribed, ended.complete) == (1, True)
            assert len(gateway.local_channels["room:1"]) == 1
            with pytest.raises(ValueError, match="2000 to 2999"):
                await gateway.inspector.channels.unsubscribe("room:1", None, "bob", 1000, "")
            assert (await gateway.inspector.close(None, 3503, "", user="nobody")).closed == 0
            assert (await gateway.inspector.close(None, 3503, "", user="ann")).closed == 1
            assert (await ann.closed())[0] == 3503
            assert len(gateway.connections) == 1


async def test_the_channels_of_all_nodes_are_joined(tmp_path_factory: pytest.TempPathFactory) -> None:
    broker = f"ipc://{tmp_path_factory.mktemp('c')}/ipc"
    observer = Observer(Settings(workers=2, channels={"*": ChannelSettings(public=True)}))
    await observer.start(broker)
    gateway = Gateway(Named, channels={"*": {"public": True}}, broker=broker)
    async with testing.serve(gateway) as url, testing.Client(url, "/ws?user=ann&channel=b&channel=a"):
        with anyio.fail_after(10):
            while not observer.inspector.has_running_peers:
                await anyio.sleep(0.01)  # nothing reports a new peer
        await gateway.publish("x", channel="a")
        channels = observer.inspector.channels
        page = await channels.page("", 0, 10)
        assert [(one.name, one.subscribers) for one in page.channels] == [("a", 1), ("b", 1)]
        assert page.total == 2
        assert [one.name for one in (await channels.page("", 1, 10)).channels] == ["b"]
        described = await channels.describe("a")
        assert isinstance(described, ListedChannel)
        assert described.subscribers == 1
        assert described.silent is not None
        presence = await channels.presence("a", 0, 10)
        assert ([member.user for member in presence.members], presence.complete) == (["ann"], True)
        assert (await channels.unsubscribe("a", None, "ann", 2000, "")).unsubscribed == 1
        assert (await observer.inspector.close(None, 1000, "", user="bob")).closed == 0
        assert list(gateway.local_channels) == ["b"]
    await observer.stop()


async def test_channels_and_protocols_are_counted() -> None:
    gateway = Gateway(Named, channels={"room:*": {"public": True, "history": 2}}, history_bytes=100_000)
    async with testing.serve(gateway) as url, testing.Client(url), testing.Client(url, channels=["room:1"]) as ann:
        await ann.subscribed("room:1")
        for number in range(3):
            await gateway.publish("x" * 60_000, channel=f"room:{number}")
        await ann.send_json({"subscribe": "room:1", "since": "other:1"})
        await ann.receive_json(), await ann.receive_json()
        samples = (await gateway.inspector.samples())[0]
        values = {
            (name, *labels.values()): value
            for name, family in samples.items()
            for _, labels, value in family
            if name.startswith(("channels", "subscriptions", "publications", "recoveries", "history", "connections"))
        }
        for_gateway = {name[:1] + name[2:]: value for name, value in values.items()}
        assert 0 < for_gateway.pop(("history_bytes",)) <= 100_000
        assert for_gateway == {
            ("channels",): 1,
            ("subscriptions",): 1,
            ("publications_total", "room:*"): 3,
            ("recoveries_total", "false"): 1,
            ("history_evictions_total",): 3,
            ("connections", "plain", "websocket"): 1,
            ("connections", "v1", "websocket"): 1,
        }
        _, page = await gateway.inspector.page("", 0, 10)
        assert sorted(conn.protocol for conn in page) == ["plain", "v1"]


async def test_the_loop_serves_others_while_many_are_subscribed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "TURN", -1.0)  # one connection in each iteration
    gateway = Gateway(channels=CHANNELS)
    async with gateway.lifespan():
        first, *_, last = [(await joined(gateway)).conn for _ in range(20)]
        subscribing = asyncio.create_task(gateway.subscribe("room:1", EVERYBODY))
        while not gateway.local_channels:
            await asyncio.sleep(0)
        assert await gateway.unsubscribe("room:1", [first, last]) == 1
        assert await subscribing == 19
        assert {first, last}.isdisjoint(gateway.local_channels["room:1"])
        assert len(gateway.local_channels["room:1"]) == 18
