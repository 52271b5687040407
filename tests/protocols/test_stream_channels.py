"""Channels over streams: subscribing by the URL, recovery by the id of the last event, refusals."""

import json
from typing import Any

import pytest

from tests.servers import OwnServer, PlainUvicorn, Serve
from tests.streams import ServerEvent, Stream, streaming
from wsgateway import Gateway, Refused
from wsgateway.listeners.event import HandshakeEvent, SubscribeEvent
from wsgateway.testing import serve

HISTORY: dict[str, Any] = {"*": {"history": 10, "public": True}}

both_paths = pytest.mark.parametrize("server", [OwnServer(), PlainUvicorn()], ids=lambda server: server.name)


async def opened(stream: Stream) -> list[dict[str, Any]]:
    """The data of `open`, and of each `subscribed` that follows, as many as are in the first chunk or soon after."""
    first = await stream.next()
    assert first.type == "open"
    return [json.loads(first.data)]


async def subscribed(stream: Stream) -> tuple[dict[str, Any], str]:
    """The data of the next event, which has to be `subscribed`, and its id."""
    event = await stream.next()
    assert event.type == "subscribed", event
    return json.loads(event.data), event.id


async def test_an_event_source_recovers_by_the_id_of_its_last_event() -> None:
    gateway = Gateway(channels=HISTORY)
    async with serve(gateway) as url:
        async with streaming(url, "/sse?channel=room") as stream:
            await opened(stream)
            data, at = await subscribed(stream)
            assert (data["recovered"], data["at"]) == (False, at)
            await gateway.publish("one", channel="room", name="chat")
            assert await stream.next() == ("chat", "one", f"{at.partition(':')[0]}:1")
        for number in (2, 3):
            await gateway.publish(str(number), channel="room")
        headers = {"last-event-id": stream.parser.last_id}
        async with streaming(url, "/sse?channel=room", headers=headers) as stream:
            await opened(stream)
            data, _ = await subscribed(stream)
            assert data["recovered"] is True
            assert [(await stream.next()).data for _ in range(2)] == ["2", "3"]


async def test_a_stream_that_has_had_no_message_recovers_too() -> None:
    gateway = Gateway(channels=HISTORY)
    async with serve(gateway) as url:
        async with streaming(url, "/sse?channel=room") as stream:
            await opened(stream)
            await subscribed(stream)
        await gateway.publish("missed", channel="room")
        async with streaming(url, "/sse?channel=room", headers={"last-event-id": stream.parser.last_id}) as stream:
            await opened(stream)
            assert (await subscribed(stream))[0]["recovered"] is True
            assert (await stream.next()).data == "missed"


async def test_the_last_id_is_newer_than_the_since_of_the_url() -> None:
    gateway = Gateway(channels=HISTORY)
    async with serve(gateway) as url:
        ats = [(await gateway.publish(str(number), channel="room")).at for number in range(4)]
        path = f"/sse?channel=room&since=room@{ats[0]}"
        async with streaming(url, path) as stream:
            await opened(stream)
            assert (await subscribed(stream))[0]["recovered"] is True
            assert [(await stream.next()).data for _ in range(3)] == ["1", "2", "3"]
        async with streaming(url, path, headers={"last-event-id": str(ats[2])}) as stream:
            await opened(stream)
            assert (await subscribed(stream))[0]["at"] == ats[2]
            assert (await stream.next()).data == "3"


@pytest.mark.parametrize(
    "garbage", ["x", "-1", "x:-1", "x:18446744073709551616", "another:3", ",,,", "a:1,b:2", "%0a", "x" * 5000]
)
async def test_a_garbage_id_is_never_an_error(garbage: str) -> None:
    gateway = Gateway(channels=HISTORY)
    async with serve(gateway) as url:
        await gateway.publish("old", channel="room")
        async with streaming(url, "/sse?channel=room&last=5", headers={"last-event-id": garbage}) as stream:
            assert stream.response.status_code == 200
            await opened(stream)
            assert (await subscribed(stream))[0]["recovered"] is False
            assert (await stream.next()).data == "old"


@both_paths
async def test_several_channels_recover_by_one_id(server: Serve) -> None:
    gateway = Gateway(channels={**HISTORY, "live": {"public": True}})
    path = "/sse?channel=a&channel=live&channel=b"
    async with server(gateway) as url:
        async with streaming(url, path) as stream:
            await opened(stream)
            for _ in range(3):
                await subscribed(stream)
            await gateway.publish("a1", channel="a")
            await gateway.publish("x", channel="live")
            await gateway.publish("b1", channel="b")
            assert [(await stream.next()).data for _ in range(3)] == ["a1", "x", "b1"]
            assert stream.parser.last_id.count(",") == 1
        await gateway.publish("a2", channel="a")
        await gateway.publish("b2", channel="b")
        async with streaming(url, path, headers={"last-event-id": stream.parser.last_id}) as stream:
            await opened(stream)
            events = [await stream.next() for _ in range(5)]
            assert [event.data for event in events if event.type == "message"] == ["a2", "b2"]
            states = {d["channel"]: d["recovered"] for d in map(_data, events) if isinstance(d, dict)}
            assert states == {"a": True, "live": False, "b": True}


def _data(event: ServerEvent) -> Any:
    return json.loads(event.data) if event.type == "subscribed" else None


@both_paths
async def test_a_connection_cut_at_every_event_of_a_recovery_loses_nothing(server: Serve) -> None:
    gateway = Gateway(channels=HISTORY)
    path = "/sse?channel=a&channel=b"
    async with server(gateway) as url:
        async with streaming(url, path) as stream:
            for _ in range(3):
                await stream.next()
            last_id = stream.parser.last_id
        for number in range(3):
            for channel in ("a", "b"):
                await gateway.publish(f"{channel}{number}", channel=channel)
        for cut in range(1, 10):
            cut_after = cut
            received: list[str] = []
            ids = last_id
            while len(received) < 6:
                async with streaming(url, path, headers={"last-event-id": ids}) as stream:
                    for _ in range(cut_after):
                        event = await stream.next()
                        if event.type == "message":
                            received.append(event.data)
                        assert event.type != "subscribed" or _data(event)["recovered"]
                        if len(received) == 6:
                            break
                    ids = event.id or ids  # not those that the parser has read already
                    cut_after = 100
            assert sorted(received) == ["a0", "a1", "a2", "b0", "b1", "b2"]
            assert [item for item in received if item[0] == "a"] == ["a0", "a1", "a2"]


class Private:
    """Subscribes each client to a channel of its own."""

    async def on_handshake(self, event: HandshakeEvent) -> None:
        event.channels = ["user:1"]

    async def on_subscribe(self, event: SubscribeEvent) -> None:
        if event.channel.startswith("secret"):
            raise Refused(403, "not your room")
        event.reply = {"data": event.message}


async def test_channels_of_the_listener_recover_too() -> None:
    gateway = Gateway(listener=Private, channels={"*": {"history": 10}})
    async with serve(gateway) as url:
        async with streaming(url, "/sse?channel=room") as stream:
            for _ in range(3):
                await stream.next()
        for channel in ("room", "user:1"):
            await gateway.publish(f"to {channel}", channel=channel)
        async with streaming(url, "/sse?channel=room", headers={"last-event-id": stream.parser.last_id}) as stream:
            await opened(stream)
            events = [await stream.next() for _ in range(4)]
            assert {event.data for event in events if event.type == "message"} == {"to room", "to user:1"}
            assert all(_data(event)["recovered"] for event in events if event.type == "subscribed")


async def test_a_refused_channel_refuses_an_event_stream() -> None:
    gateway = Gateway(listener=Private, channels={"*": {}})
    async with serve(gateway) as url, streaming(url, "/sse?channel=room&channel=secret") as stream:
        assert stream.response.status_code == 403
        assert json.loads(await stream.response.aread())["detail"] == "not your room"
        assert len(gateway.connections) == 0


async def test_a_refused_channel_is_an_object_of_a_stream_of_lines() -> None:
    gateway = Gateway(listener=Private, channels={"*": {"history": 1}})
    async with serve(gateway) as url, streaming(url, '/stream?channel=room&channel=secret&data="hi"') as stream:
        assert "open" in await stream.object()
        objects = {next(iter(item.values())): item for item in [await stream.object() for _ in range(3)]}
        assert objects["secret"] == {"refused": "secret", "status": 403, "reason": "not your room"}
        assert objects["room"]["reply"] == {"data": "hi"}
        assert objects["user:1"]["recovered"] is False


async def test_lines_have_twenty_channels_with_positions() -> None:
    gateway = Gateway(channels=HISTORY)
    names = [f"room:{number}" for number in range(20)]
    async with serve(gateway) as url:
        path = "/stream?" + "&".join(f"channel={name}" for name in names)
        async with streaming(url, path) as stream:
            await stream.object()
            since = {item["subscribed"]: item["at"] for item in [await stream.object() for _ in names]}
        for name in names:
            await gateway.publish(f"to {name}", channel=name)
        path += "".join(f"&since={name}@{at}" for name, at in since.items())
        async with streaming(url, path) as stream:
            await stream.object()
            objects = [await stream.object() for _ in range(40)]
            assert all(item["recovered"] for item in objects if "subscribed" in item)
            assert {item["message"] for item in objects if "message" in item} == {f"to {name}" for name in names}


@pytest.mark.parametrize(("count", "status"), [(8, 200), (9, 400)])
async def test_an_event_stream_has_at_most_eight_channels_with_positions(count: int, status: int) -> None:
    gateway = Gateway(channels=HISTORY)
    path = "/sse?" + "&".join(f"channel=room:{number}" for number in range(count))
    async with serve(gateway) as url, streaming(url, path) as stream:
        assert stream.response.status_code == status


@pytest.mark.parametrize("query", ["last=1", "channel=a&last=x", "channel=a&data=%7B", "channel=a&since=a", "channel="])
@pytest.mark.parametrize("path", ["/sse", "/stream"])
async def test_a_query_that_is_wrong_is_no_error_of_the_server(path: str, query: str) -> None:
    async with serve(Gateway(channels=HISTORY)) as url, streaming(url, f"{path}?{query}") as stream:
        assert stream.response.status_code in (200, 400, 404)
