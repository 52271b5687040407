"""The library `cent` of Centrifugo's backends, unchanged, against a gateway: each of its methods, sync and async."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio.to_thread
import cent
import pytest

from wsgateway import Gateway
from wsgateway.testing import serve

Send = Callable[[str, Any], Awaitable[Any]]
"""Sends a request to a method, and returns its result."""


@pytest.fixture(params=["sync", "async"])
async def send(request: pytest.FixtureRequest) -> AsyncIterator[Send]:
    gateway = Gateway(api_key="api_key", channels={"personal_*": {"history": 100}})
    async with serve(gateway) as url:
        if request.param == "async":
            async with cent.AsyncClient(f"{url}/api", "api_key") as client:

                async def send_async(method: str, command: Any) -> Any:
                    return await getattr(client, method)(command)

                yield send_async
            return
        sync_client = cent.Client(f"{url}/api", "api_key")

        async def send_sync(method: str, command: Any) -> Any:
            return await anyio.to_thread.run_sync(getattr(sync_client, method), command)

        yield send_sync
        sync_client.close()


POSITION = cent.StreamPosition(offset=1, epoch="1")
NARROWED: dict[str, Any] = {"user": "user", "client": "client", "session": "session"}

REQUESTS = {
    "broadcast": cent.BroadcastRequest(channels=["personal_1", "personal_2"], data={"a": 1}, tags={"tag": "tag"}),
    "subscribe": cent.SubscribeRequest(channel="personal_1", data={"a": 1}, recover_since=POSITION, **NARROWED),
    "unsubscribe": cent.UnsubscribeRequest(channel="personal_1", **NARROWED),
    "disconnect": cent.DisconnectRequest(
        whitelist=["personal_1"], disconnect=cent.Disconnect(code=4000, reason="reason"), **NARROWED
    ),
    "refresh": cent.RefreshRequest(expire_at=1, expired=True, **NARROWED),
    "presence": cent.PresenceRequest(channel="personal_1"),
    "presence_stats": cent.PresenceStatsRequest(channel="personal_1"),
    "history": cent.HistoryRequest(channel="personal_1"),
    "history_remove": cent.HistoryRemoveRequest(channel="personal_1"),
    "channels": cent.ChannelsRequest(pattern="*"),
    "info": cent.InfoRequest(),
}
"""A request to each method that needs no test of its own, about a user that does not exist."""


async def test_each_method_is_answered(send: Send) -> None:
    results = {method: await send(method, command) for method, command in REQUESTS.items()}
    assert [response.result.offset for response in results["broadcast"].responses] == [1, 1]
    assert results["presence"].presence == {}
    assert (results["presence_stats"].num_clients, results["presence_stats"].num_users) == (0, 0)
    assert (results["history"].offset, results["history"].publications) == (1, [])
    assert results["channels"].channels == {}
    assert [node.version for node in results["info"].nodes]


async def test_one_idempotency_key_twice_is_one_publication(send: Send) -> None:
    command = cent.PublishRequest(
        channel="personal_1", data={"a": 1}, skip_history=False, tags={"tag": "tag"}, idempotency_key="key"
    )
    assert (await send("publish", command)).offset == (await send("publish", command)).offset == 1


async def test_ten_messages_are_read_from_the_history(send: Send) -> None:
    for number in range(10):
        await send("publish", cent.PublishRequest(channel="personal_1", data={"number": number}))
    history = await send("history", cent.HistoryRequest(channel="personal_1", limit=10))
    assert [publication.data["number"] for publication in history.publications] == [*range(10)]
    assert history.offset == 10
    since = cent.StreamPosition(offset=8, epoch=history.epoch)
    newest = await send("history", cent.HistoryRequest(channel="personal_1", limit=10, since=since))
    assert [publication.offset for publication in newest.publications] == [9, 10]


@pytest.mark.parametrize("parallel", [None, True])
async def test_a_batch_has_the_result_of_each_command(send: Send, parallel: bool | None) -> None:
    requests = [
        cent.PublishRequest(channel="personal_1", data={"a": 1}),
        cent.PublishRequest(channel="personal_2", data={"a": 2}),
        cent.BroadcastRequest(channels=["personal_1", "personal_2"], data={"a": 3}),
        cent.PresenceRequest(channel="personal_1"),
    ]
    first, second, broadcast, presence = (
        await send("batch", cent.BatchRequest(requests=requests, parallel=parallel))
    ).replies
    assert (first.offset, second.offset) == (1, 1)
    assert [response.result.offset for response in broadcast.responses] == [2, 2]
    assert presence.presence == {}


async def test_an_unknown_channel_is_an_error_with_its_code(send: Send) -> None:
    with pytest.raises(cent.CentApiResponseError, match="unknown channel") as caught:
        await send("publish", cent.PublishRequest(channel="undefined:channel", data={"a": 1}))
    assert caught.value.code == 102


async def test_a_wrong_key_is_unauthorized() -> None:
    async with serve(Gateway(api_key="api_key")) as url, cent.AsyncClient(f"{url}/api", "other") as client:
        with pytest.raises(cent.CentUnauthorizedError):
            await client.info(cent.InfoRequest())
