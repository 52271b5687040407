"""Channels over several processes: gateways that share a broker, each on a server of its own."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import httpx
import pytest
from websockets.typing import Subprotocol

from tests.services import BROKERS, Service, broker
from tests.streams import streaming
from wsgateway import Gateway, MessageEvent, Refused, SubscribeEvent, testing
from wsgateway.gateway.registry import registry
from wsgateway.testing import Client, RecordingListener

CHANNELS: Any = {
    "live:*": {"clients": ["subscribe", "publish"]},
    "room:*": {"history": 5, "clients": ["subscribe", "publish"]},
    "price:*": {"public": True, "history": 10, "keep": "last"},
}

WITHOUT_KEYS = {name: options for name, options in CHANNELS.items() if "keep" not in options}  # NATS has none


@pytest.fixture(scope="module", params=BROKERS)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with TemporaryDirectory() as folder, broker(request.param, Path(folder) / "ipc") as found:
        yield found


class Rooms(RecordingListener):
    async def on_subscribe(self, event: SubscribeEvent) -> None:
        self.record("on_subscribe", event.channel)


class V1(Client):
    """A client of `wsgateway.v1`."""

    def __init__(self, url: str, query: str = "", **options: Any) -> None:
        super().__init__(url, f"/ws?{query}", subprotocols=[Subprotocol("wsgateway.v1")], **options)

    async def tell(self, **command: Any) -> None:
        await self.send(json.dumps(command))

    async def ask(self, **command: Any) -> Any:
        await self.tell(**command)
        return await self.receive_json()


@asynccontextmanager
async def nodes(
    url: str, count: int, channels: Any = None, listener: Any = Rooms, **options: Any
) -> AsyncIterator[list[tuple[Gateway, str]]]:
    """So many nodes of one gateway, each with the URL of its server."""
    if channels is None:
        channels = WITHOUT_KEYS if url.startswith("nats") else CHANNELS
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            gateway = Gateway(listener=listener, channels=channels, broker=url, id=f"g{id(stack)}", **options)
            found.append((gateway, await stack.enter_async_context(testing.serve(gateway))))
            registry.remove(gateway)  # which refuses a second gateway with one id, because a process is one node
        yield found


def messages(rows: list[Any]) -> list[Any]:
    return [row["message"] for row in rows]


async def test_a_publication_reaches_the_subscribers_of_each_process_once_and_in_order(service: Service) -> None:
    async with nodes(service.url, 2) as [(one, url1), (two, url2)], V1(url1) as ann, V1(url2) as bob:
        for client in (ann, bob):
            assert (await client.ask(subscribe="live:1"))["subscribed"] == "live:1"
        for number in range(50):
            await one.publish(number, channel="live:1")
        assert messages([await bob.receive_json() for _ in range(50)]) == [*range(50)]
        assert messages([await ann.receive_json() for _ in range(50)]) == [*range(50)]
        await two.publish({"text": "ü"}, channel="live:1", name="said", tags={"a": "b"})
        for client in (ann, bob):
            row = await client.receive_json()
            assert row == {"channel": "live:1", "message": {"text": "ü"}, "name": "said", "tags": {"a": "b"}}


async def test_a_process_receives_nothing_of_channels_that_nobody_follows_there(service: Service) -> None:
    async with nodes(service.url, 2) as [(one, url1), (two, url2)], V1(url1) as ann, V1(url2) as bob:
        await ann.ask(subscribe="live:1")
        await bob.ask(subscribe="live:2")
        before = two._parts.metrics.broker_received
        for number in range(100):
            await one.publish(number, channel="live:1")
        await one.publish("last", channel="live:2")
        assert (await bob.receive_json())["message"] == "last"
        probes = 20  # and heartbeats
        for _ in range(100):
            await ann.receive_json()
        assert two._parts.metrics.broker_received - before < probes


async def test_a_client_publishes_and_is_left_out_if_it_does_not_want_its_echo(service: Service) -> None:
    async with nodes(service.url, 2, echo_sender=False, listener=Echo) as [(_, url1), (_, url2)]:
        async with V1(url1) as ann, V1(url2) as bob:
            for client in (ann, bob):
                await client.ask(subscribe="live:1")
            assert await ann.ask(channel="live:1", message="hi", id=7) == {"id": 7}
            assert (await bob.receive_json())["message"] == "hi"
            await bob.tell(channel="live:1", message="there")
            assert (await ann.receive_json())["message"] == "there"


class Echo(Rooms):
    async def on_message(self, event: MessageEvent) -> None:
        pass


@pytest.fixture(scope="module", params=BROKERS)
def history(request: pytest.FixtureRequest) -> Iterator[Service]:
    """A broker that keeps histories."""
    with TemporaryDirectory() as folder, broker(request.param, Path(folder) / "ipc") as found:
        yield found


async def test_positions_and_recovery_are_the_same_in_every_process(history: Service) -> None:
    async with nodes(history.url, 2) as [(one, url1), (two, url2)]:
        async with V1(url1) as ann:
            answer = await ann.ask(subscribe="room:1")
            assert answer["at"].endswith(":0")
            first = await one.publish("a", channel="room:1")
            second = await two.publish("b", channel="room:1")
            rows = [await ann.receive_json() for _ in range(2)]
            assert [(row["message"], row["at"]) for row in rows] == [("a", first.at), ("b", second.at)]
        async with V1(url2) as bob:
            answer = await bob.ask(subscribe="room:1", since=first.at)
            assert (answer["recovered"], answer["at"]) == (True, first.at)
            assert (await bob.receive_json())["at"] == second.at
        history_of_one = await one.history("room:1")
        assert [each.message for each in history_of_one.publications] == ["a", "b"]
        assert history_of_one.at == second.at == (await two.history("room:1")).at
        await two.forget("room:1")
        assert (await one.history("room:1")).publications == []
        async with V1(url1) as ann:
            with anyio.fail_after(5):
                # meanwhile it may be refused, because the subscribers of the channel are being notified of a loss
                while (await ann.ask(subscribe="room:1", since=first.at)).get("recovered", True):
                    pass


async def test_a_repeated_key_is_not_published_again_from_any_process(history: Service) -> None:
    async with nodes(history.url, 2) as [(one, url1), (two, _)], V1(url1) as ann:
        await ann.ask(subscribe="room:1")
        first = await one.publish("a", channel="room:1", idempotency_key="k")
        again = await two.publish("a", channel="room:1", idempotency_key="k")
        assert (again.at, again.is_new, first.is_new) == (first.at, False, True)
        await two.publish("b", channel="room:1")
        assert messages([await ann.receive_json() for _ in range(2)]) == ["a", "b"]


async def test_a_client_that_publishes_is_answered_when_the_history_has_the_message(history: Service) -> None:
    async with nodes(history.url, 2) as [(_, url1), (two, _)], V1(url1) as ann:
        await ann.ask(subscribe="room:1")
        await ann.tell(channel="room:1", message="hi", id=3)
        rows = [await ann.receive_json() for _ in range(2)]
        at = (await two.history("room:1")).at
        assert {json.dumps(row, sort_keys=True) for row in rows} == {
            json.dumps({"id": 3, "at": at}, sort_keys=True),
            json.dumps({"channel": "room:1", "message": "hi", "at": at}, sort_keys=True),
        }


async def test_a_channel_of_values_sends_each_of_them_to_a_new_client(history: Service) -> None:
    if history.url.startswith("nats"):
        pytest.skip("NATS does not keep the newest of each key")
    async with nodes(history.url, 2) as [(one, _), (two, url2)]:
        for key in "abab":
            await one.publish(key * 2, channel="price:1", key=key)
        async with V1(url2) as bob:
            answer = await bob.ask(subscribe="price:1")
            assert answer["recovered"] is False
            assert messages([await bob.receive_json() for _ in range(2)]) == ["aa", "bb"]
            await two.publish("c", channel="price:1", key="c")
            assert (await bob.receive_json())["message"] == "c"


async def test_a_client_is_subscribed_by_the_application_with_recovery(history: Service) -> None:
    async with nodes(history.url, 2) as [(one, url1), (two, _)], V1(url1) as ann:
        at = (await two.publish("a", channel="room:1")).at
        await two.publish("b", channel="room:1")
        await ann.ask(subscribe="live:1")
        [conn] = one.connections
        assert (await conn.subscribe("room:1", since=at)).recovered
        assert (await ann.receive_json())["recovered"] is True
        assert (await ann.receive_json())["message"] == "b"


async def test_channels_in_the_url_and_of_the_handshake_wait_for_their_topics(history: Service) -> None:
    async with nodes(history.url, 2) as [(one, _), (_, url2)]:
        at = (await one.publish("a", channel="room:1")).at
        await one.publish("b", channel="room:1")
        async with V1(url2, f"channel=room:1&since=room:1@{at}&channel=live:9") as bob:
            rows = [await bob.receive_json() for _ in range(3)]
            assert [row.get("subscribed") or row["message"] for row in rows] == ["room:1", "b", "live:9"]
            await one.publish("c", channel="live:9")
            assert (await bob.receive_json())["message"] == "c"


class Posted(Rooms):
    async def on_message(self, event: MessageEvent) -> None:
        if event.message == "no":
            raise Refused(403, "not here")
        self.record("on_message", (event.message, event.channel, event.name))
        if not event.channel:
            event.connections = [] if event.conn is None else [event.conn]


async def test_a_message_that_is_posted_in_another_process_reaches_the_session_of_its_stream(service: Service) -> None:
    channel = "live:1" if service.url.startswith("nats") else "room:1"
    async with nodes(service.url, 2, listener=Posted) as [(_, url1), (_, url2)], httpx.AsyncClient() as http:
        async with streaming(url2, f"/stream?channel={channel}") as stream:
            session = f"{url1}/session/{(await stream.object())['open']['session']}"
            assert (await stream.object())["subscribed"] == channel
            for content, kind, message in (
                ('{"a": 1}', "application/json", {"a": 1}),
                ("ü", "text/plain", "ü"),
                (b"\xff", "application/octet-stream", None),
            ):
                answer = await http.post(session, content=content, headers={"content-type": kind}, params={"name": "n"})
                assert (answer.status_code, answer.content) == (204, b"")
                assert (await stream.object()).get("message") == message
            answer = await http.post(session, json="hi", params={"channel": channel})
            row = await stream.object()
            assert row["message"] == "hi"
            assert answer.status_code == (200 if "at" in row else 204)
            if "at" in row:
                assert answer.json() == {"at": row["at"]}
            refused = await http.post(session, json="no")
            assert (refused.status_code, refused.json()["detail"]) == (403, "not here")
            assert (
                await http.post(session, content=b"{", headers={"content-type": "application/json"})
            ).status_code == 400
            guessed = await http.post(session[:-1] + ("0" if session[-1] != "0" else "1"), json="x")
            assert guessed.status_code == 404
            stranger = await http.post(f"{url1}/session/00000000.{'0' * 22}", json="x")
            assert stranger.status_code == 404
        with anyio.fail_after(5):
            while (await http.post(session, json="x")).status_code != 404:
                pass
