"""The SDK for Python, in JSON and Protobuf. Every user is `42` and has a token, as every subscription has."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import centrifuge
import httpx
import pytest

from tests.sdk.servers import mounted, served, token

LIMIT = 15


@pytest.fixture(scope="module", params=["alone", "mounted", "ipc", "redis"])
async def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with AsyncExitStack() as stack:
        if request.param == "mounted":
            _, found = await stack.enter_async_context(mounted("python"))
        else:
            found = stack.enter_context(served("python", request.param, tmp_path_factory.mktemp(request.param)))
        yield found.replace("http", "ws", 1) + "/connection/websocket"


class Events:
    """Queues what the SDK reports, by the name of the handler."""

    def __init__(self) -> None:
        self._queues: dict[str, asyncio.Queue[Any]] = {}

    def __getattr__(self, name: str) -> Callable[[Any], Awaitable[None]]:
        if not name.startswith("on_"):
            raise AttributeError(name)
        queue = self._queues.setdefault(name, asyncio.Queue())
        return queue.put

    async def next(self, name: str, matches: Callable[[Any], bool] = lambda context: True) -> Any:
        queue = self._queues.setdefault(name, asyncio.Queue())
        with anyio.fail_after(LIMIT):
            while not matches(context := await queue.get()):
                pass
        return context

    def is_empty(self, name: str) -> bool:
        return name not in self._queues or self._queues[name].empty()


class Sdk:
    """Clients of the SDK in one of its two encodings. All of them are disconnected at the end."""

    def __init__(self, url: str, use_protobuf: bool) -> None:
        self.url = url
        self.use_protobuf = use_protobuf
        self.clients: list[Any] = []

    def payload(self, value: Any) -> Any:
        return json.dumps(value).encode() if self.use_protobuf else value

    def client(self, **options: Any) -> tuple[Any, Events]:
        async def get_token() -> str:
            return token(sub="42")

        events = Events()
        handler: Any = events  # it has the methods of a ClientEventHandler, made when they are asked for
        given = {"get_token": get_token, "timeout": LIMIT, "min_reconnect_delay": 0.05, "proxy": None, **options}
        client = centrifuge.Client(self.url, events=handler, use_protobuf=self.use_protobuf, **given)
        self.clients.append(client)
        return client, events

    def subscription(self, client: Any, channel: str, **options: Any) -> tuple[Any, Events]:
        async def get_token(channel: str) -> str:
            return token(sub="42", channel=channel)

        events = Events()
        return client.new_subscription(channel, events=events, **{"get_token": get_token, **options}), events

    async def subscribed(self, channel: str, **options: Any) -> tuple[Any, Any, Events]:
        """A client and its subscription, whose first event has been taken."""
        client, _ = self.client()
        subscription, events = self.subscription(client, channel, **options)
        await client.connect()
        await subscription.subscribe()
        await subscription.ready(LIMIT)
        await events.next("on_subscribed")
        return client, subscription, events

    async def api(self, method: str, fields: dict[str, Any]) -> Any:
        """Call a method of the server API. Return its result."""
        url = self.url.replace("ws", "http", 1).removesuffix("/connection/websocket")
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.post(f"{url}/api/{method}", json=fields)
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]

    async def aclose(self) -> None:
        for client in self.clients:
            await client.disconnect()


@pytest.fixture(params=[False, True], ids=["json", "protobuf"])
async def sdk(url: str, request: pytest.FixtureRequest) -> AsyncIterator[Sdk]:
    sdk = Sdk(url, request.param)
    with anyio.fail_after(60):  # the SDK reconnects for ever
        yield sdk
        await sdk.aclose()


@pytest.fixture
def channel() -> str:
    return f"channel_{uuid.uuid4().hex}"


async def test_it_connects_and_subscribes_again_and_again(sdk: Sdk, channel: str) -> None:
    client, events = sdk.client()
    subscription, subscription_events = sdk.subscription(client, channel)
    for _ in range(3):
        await client.connect()
        await client.ready(LIMIT)
        assert client.state is centrifuge.ClientState.CONNECTED
        connecting, connected = await events.next("on_connecting"), await events.next("on_connected")
        assert isinstance(connecting.code, int)
        assert connecting.reason
        assert connected.client
        assert connected.version
        for _ in range(3):
            await subscription.subscribe()
            await subscription.ready(LIMIT)
            assert subscription.state.name == "SUBSCRIBED"
            assert (await subscription_events.next("on_subscribed")).channel == channel
            await subscription.unsubscribe()
            assert subscription.state.name == "UNSUBSCRIBED"
        await client.disconnect()
        disconnected = await events.next("on_disconnected")
        assert isinstance(disconnected.code, int)
        assert disconnected.reason


async def test_it_has_five_subscriptions(sdk: Sdk, channel: str) -> None:
    client, _ = sdk.client()
    subscriptions = [sdk.subscription(client, f"{channel}_{number}")[0] for number in range(5)]
    await client.connect()
    for subscription in subscriptions:
        await subscription.subscribe()
    for subscription in subscriptions:
        await subscription.ready(LIMIT)
    assert len(client.subscriptions()) == 5
    for subscription in subscriptions:
        await subscription.unsubscribe()


@pytest.mark.parametrize("delta", [None, centrifuge.DeltaType.FOSSIL])
async def test_what_is_published_comes_back_unchanged(
    sdk: Sdk, channel: str, delta: centrifuge.DeltaType | None
) -> None:
    _, subscription, events = await sdk.subscribed(channel, delta=delta)
    long = {"input": "a text that is long enough, so that a server that knows how sends a difference", "é": [1, None]}
    for value in (long, long, {"input": "short"}):
        await subscription.publish(data=sdk.payload(value))
        assert (await events.next("on_publication")).pub.data == sdk.payload(value)


async def test_a_payload_comes_back_byte_for_byte(sdk: Sdk, channel: str) -> None:
    if not sdk.use_protobuf:
        pytest.skip("the SDK decodes JSON")
    client, subscription, events = await sdk.subscribed(channel)
    payloads = [b'{ "a" :  1.0, "b":1e2,"a":2 }', b'"\\u00e9"', b"\x00\xff\xfe is not JSON"]
    for payload in payloads:
        await client.publish(channel, payload)
        assert (await events.next("on_publication")).pub.data == payload
    history = await subscription.history(limit=-1)
    assert [publication.data for publication in history.publications] == payloads


async def test_by_subscription_and_by_client(sdk: Sdk, channel: str) -> None:
    client, subscription, _ = await sdk.subscribed(channel)
    await client.publish(channel, sdk.payload({"number": 1}))
    await subscription.publish(data=sdk.payload({"number": 2}))
    for history in (await client.history(channel, limit=-1), await subscription.history(limit=-1)):
        assert [each.data for each in history.publications] == [sdk.payload({"number": number}) for number in (1, 2)]
        assert history.offset == 2
        assert history.epoch
    for presence in (await client.presence(channel), await subscription.presence()):
        ((ident, info),) = presence.clients.items()
        assert (info.client, info.user) == (ident, "42")
    for stats in (await client.presence_stats(channel), await subscription.presence_stats()):
        assert (stats.num_clients, stats.num_users) == (1, 1)


async def test_the_history_in_pages(sdk: Sdk, channel: str) -> None:
    _, subscription, _ = await sdk.subscribed(channel)
    for number in range(5):
        await subscription.publish(data=sdk.payload({"number": number}))
    assert len((await subscription.history(limit=-1)).publications) == 5
    first = await subscription.history(limit=2)
    since = centrifuge.StreamPosition(offset=first.publications[-1].offset, epoch=first.epoch)
    second = await subscription.history(limit=2, since=since)
    assert [each.offset for each in first.publications + second.publications] == [1, 2, 3, 4]
    reverse = await subscription.history(limit=-1, reverse=True)
    assert [each.offset for each in reverse.publications] == [5, 4, 3, 2, 1]
    with pytest.raises(centrifuge.ReplyError) as refused:
        await subscription.history(limit=1, since=centrifuge.StreamPosition(offset=1, epoch="other"))
    assert refused.value.code == 112


async def test_two_clients_of_one_user_see_each_other(sdk: Sdk, channel: str) -> None:
    _, first, events = await sdk.subscribed(channel)
    own = (await events.next("on_join")).info.client
    _, second, _ = await sdk.subscribed(channel)
    other = (await events.next("on_join")).info
    assert other.client != own
    assert other.user == "42"
    assert set((await first.presence()).clients) == {own, other.client}
    stats = await first.presence_stats()
    assert (stats.num_clients, stats.num_users) == (2, 1)
    await second.unsubscribe()
    assert (await events.next("on_leave")).info.client == other.client


async def recovers(sdk: Sdk, channel: str, away: Callable[[Any, Any], Any], back: Callable[[Any, Any], Any]) -> None:
    client, subscription, events = await sdk.subscribed(channel)
    _, other, _ = await sdk.subscribed(channel)
    await away(client, subscription)
    payloads = [sdk.payload({"number": number}) for number in range(1, 11)]
    for payload in payloads:
        await other.publish(data=payload)
    await back(client, subscription)
    context = await events.next("on_subscribed")
    assert (context.was_recovering, context.recovered) == (True, True)
    received = [(await events.next("on_publication")).pub for _ in range(10)]
    assert [(each.offset, each.data) for each in received] == list(enumerate(payloads, start=1))
    await other.publish(data=sdk.payload("live"))
    assert (await events.next("on_publication")).pub.data == sdk.payload("live")


async def test_it_recovers_after_it_was_disconnected(sdk: Sdk, channel: str) -> None:
    await recovers(sdk, channel, lambda client, _: client.disconnect(), lambda client, _: client.connect())


async def test_it_recovers_after_it_has_unsubscribed(sdk: Sdk, channel: str) -> None:
    await recovers(sdk, channel, lambda _, each: each.unsubscribe(), lambda _, each: each.subscribe())


async def test_the_first_subscription_does_not_recover(sdk: Sdk, channel: str) -> None:
    client, _ = sdk.client()
    subscription, events = sdk.subscription(client, channel)
    await client.connect()
    await subscription.subscribe()
    context = await events.next("on_subscribed")
    assert (context.was_recovering, context.recovered) == (False, False)
    assert (context.recoverable, context.positioned) == (True, True)


async def test_a_state_without_an_epoch(sdk: Sdk, channel: str) -> None:
    _, publisher, _ = await sdk.subscribed(channel)
    payloads = [sdk.payload({"number": number}) for number in range(3)]
    for payload in payloads:
        await publisher.publish(data=payload)
    asked = 0

    async def get_state(_: str) -> centrifuge.StreamPosition:
        nonlocal asked
        asked += 1
        return centrifuge.StreamPosition(offset=0, epoch="")

    client, _, events = await sdk.subscribed(channel, get_state=get_state)
    assert [(await events.next("on_publication")).pub.data for _ in range(3)] == payloads
    await client.disconnect()
    await publisher.publish(data=sdk.payload("missed"))
    await client.connect()
    assert (await events.next("on_subscribed")).recovered
    assert (await events.next("on_publication")).pub.data == sdk.payload("missed")
    assert asked == 1


async def test_a_state_is_asked_for_again_when_its_position_is_lost(sdk: Sdk) -> None:
    channel = f"smallhistory:{uuid.uuid4().hex}"
    _, publisher, _ = await sdk.subscribed(channel)
    asked = 0

    async def get_state(_: str) -> centrifuge.StreamPosition:
        nonlocal asked
        asked += 1
        here = await publisher.history(limit=0)
        return centrifuge.StreamPosition(offset=here.offset, epoch=here.epoch)

    delays = {"min_resubscribe_delay": 0.05, "max_resubscribe_delay": 0.05}
    client, _, events = await sdk.subscribed(channel, get_state=get_state, **delays)
    await client.disconnect()
    for number in range(5):
        await publisher.publish(data=sdk.payload(number))
    await client.connect()
    await events.next("on_subscribed")
    assert asked == 2
    await publisher.publish(data=sdk.payload("live"))
    assert (await events.next("on_publication")).pub.data == sdk.payload("live")


async def test_an_invalid_token_disconnects(sdk: Sdk) -> None:
    async def get_token() -> str:
        return "invalid_token"

    client, events = sdk.client(get_token=get_token)
    await client.connect()
    assert (await events.next("on_disconnected")).code == 3500
    assert client.state is centrifuge.ClientState.DISCONNECTED


async def test_an_invalid_token_of_a_subscription_unsubscribes(sdk: Sdk, channel: str) -> None:
    async def get_token(_: str) -> str:
        return "invalid_token"

    client, _ = sdk.client()
    subscription, events = sdk.subscription(client, channel, get_token=get_token)
    await client.connect()
    await subscription.subscribe()
    assert (await events.next("on_unsubscribed")).code == 103
    assert client.state is centrifuge.ClientState.CONNECTED


async def test_without_a_token_it_is_not_admitted_and_not_subscribed(sdk: Sdk, channel: str) -> None:
    client, events = sdk.client(get_token=None)
    await client.connect()
    assert (await events.next("on_disconnected")).code == 101
    client, _ = sdk.client()
    subscription, subscription_events = sdk.subscription(client, channel, get_token=None)
    await client.connect()
    await subscription.subscribe()
    assert (await subscription_events.next("on_unsubscribed")).code == 103


async def test_its_own_channel(sdk: Sdk) -> None:
    client, events = sdk.client()
    await client.connect()
    own = (await events.next("on_connected")).client
    assert (await events.next("on_subscribed")).channel == "#42"
    join = await events.next("on_join")
    assert (join.channel, join.info.client) == ("#42", own)
    await client.publish("#42", sdk.payload({"input": "test"}))
    publication = await events.next("on_publication")
    assert (publication.channel, publication.pub.data) == ("#42", sdk.payload({"input": "test"}))
    assert events.is_empty("on_subscribed")


@pytest.mark.parametrize("url", ["alone"], indirect=True)
async def test_a_token_is_renewed_before_it_expires(sdk: Sdk, channel: str) -> None:
    renewed = asyncio.Event()
    asked: list[str] = []

    def short(**claims: Any) -> str:
        asked.append(claims.get("channel", ""))
        if min(asked.count(""), asked.count(channel)) == 2:
            renewed.set()
        return token(exp=int(time.time()) + 2, **claims)

    async def get_token() -> str:
        return short(sub="42")

    async def get_subscription_token(channel: str) -> str:
        return short(sub="42", channel=channel)

    client, events = sdk.client(get_token=get_token)
    subscription, subscription_events = sdk.subscription(client, channel, get_token=get_subscription_token)
    await client.connect()
    await subscription.subscribe()
    with anyio.fail_after(LIMIT):
        await renewed.wait()
    await subscription.publish(data=sdk.payload("still here"))
    await events.next("on_connecting")
    await subscription_events.next("on_subscribing")
    assert events.is_empty("on_connecting")
    assert subscription_events.is_empty("on_subscribing")


RECONNECTS = (3001, 3004, 3005, 3006, 3008, 3009, 3010, 3011, 3012, 3013, 3014, 4000, 4499)
IS_FINAL = (3500, 3501, 3502, 3503, 3504, 3505, 3507, 3508, 3509, 4500, 4999)


@pytest.mark.parametrize("url", ["alone", "redis"], indirect=True)
async def test_a_code_decides_whether_to_reconnect(sdk: Sdk) -> None:
    async def check(code: int, expected: str) -> None:
        client, events = sdk.client()
        await client.connect()
        ident = (await events.next("on_connected")).client
        await events.next("on_connecting")
        fields = {"user": "42", "client": ident, "disconnect": {"code": code, "reason": ""}}
        assert await sdk.api("disconnect", fields) == {}
        context = await events.next(expected)
        assert context.code == code
        assert context.reason

    async with asyncio.TaskGroup() as tasks:
        for code in RECONNECTS:
            tasks.create_task(check(code, "on_connecting"))
        for code in IS_FINAL:
            tasks.create_task(check(code, "on_disconnected"))


async def test_a_subscription_ends_or_starts_again_as_the_code_says(sdk: Sdk, channel: str) -> None:
    client, subscription, events = await sdk.subscribed(channel)
    ident = next(iter((await subscription.presence()).clients))
    await sdk.api("unsubscribe", {"user": "42", "channel": channel, "client": ident})
    assert (await events.next("on_unsubscribed")).code == 2000
    assert client.state is centrifuge.ClientState.CONNECTED
