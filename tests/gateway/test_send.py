"""What `/send` accepts, whatever port it arrives on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from wsgateway import Event, Gateway, MessageEvent, Refused, Settings
from wsgateway.auth.rules import Rules
from wsgateway.exceptions import HistoryError
from wsgateway.gateway.http.send import (
    SendGuard,
    SendRequest,
    read_request,
    refusal_of_send,
    send_request,
    take_id,
)
from wsgateway.gateway.shapes import SendAnswer
from wsgateway.limits import RateLimits


def scope(key: str = "key") -> dict[str, Any]:
    return {"type": "http", "headers": [(b"authorization", b"Bearer " + key.encode())]}


def guard(**options: Any) -> SendGuard:
    settings = Settings(api_key=("key", "other"), **options)
    rates = RateLimits(settings.send_rate, settings.send_burst)
    return SendGuard(Gateway(), Rules(settings), rates, settings.max_send_size)


def test_fields_that_the_gateway_does_not_know_are_data_of_the_listener() -> None:
    fields = {"message": "hi", "connections": ["a"], "conn": 1, "action": "x", "room": 5}
    assert read_request(fields) == SendRequest("hi", {"connections": ["a"]}, {"room": 5})


def test_channel_user_and_name_stay_data_and_what_describes_a_publication_does_not() -> None:
    fields = {"message": "hi", "channel": "a", "name": "n", "key": "k", "tags": {"t": "1"}, "ttl": 5, "other": None}
    request = read_request({**fields, "idempotency_key": "i"})
    target = {name: fields[name] for name in ("channel", "name", "key", "tags", "ttl")}
    assert request.target == {**target, "idempotency_key": "i"}
    assert request.data == {"channel": "a", "name": "n", "other": None}
    assert read_request({"message": 1, "user": "ann"}) == SendRequest(1, {"user": "ann"}, {"user": "ann"})


def test_what_describes_a_publication_is_data_without_a_channel() -> None:
    data = {"key": 1, "tags": [], "ttl": "soon", "idempotency_key": None}
    assert read_request({"message": 1, **data}) == SendRequest(1, {}, data)
    assert read_request({"message": 1, "user": "ann", **data}).target == {"user": "ann"}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"channel": "a", "user": "b"}, "channel and user are given, choose one of them"),
        ({"channel": "a", "connections": []}, "channel and connections are given"),
        ({"user": "a", "connections": ["b"]}, "user and connections are given"),
        *[({key: None}, f"{key} is None") for key in ("channel", "user")],
        *[({key: ""}, f"{key} is ''") for key in ("channel", "user")],
        *[({key: 5}, f"{key} is 5, use a str") for key in ("channel", "name")],
        ({"user": 5}, "user is 5, use text"),
        ({"name": "two words"}, "name is 'two words'"),
        ({"channel": "a", "key": 5}, "key is 5"),
        ({"channel": "a", "key": None}, "key is None"),
        ({"channel": "a", "idempotency_key": ["x"]}, "idempotency_key is"),
        ({"channel": "a", "tags": ["x"]}, "tags is"),
        ({"channel": "a", "tags": {"x": 1}}, "tags is"),
        ({"channel": "a", "ttl": True}, "ttl is True"),
        ({"channel": "a", "ttl": "5"}, "ttl is '5'"),
        *[({"channel": "a", "ttl": ttl}, "use a number of seconds above 0") for ttl in (0, -1, -0.5, 10**4000)],
    ],
)
def test_a_target_that_names_nobody_or_cannot_be_is_422(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(Refused) as caught:
        read_request({"message": "hi", **fields})
    assert caught.value.status == 422
    assert text in caught.value.reason


@pytest.mark.parametrize("connections", ["a", 1, {"a": 1}, [1], ["a", None]])
def test_connections_are_a_list_of_ids(connections: object) -> None:
    with pytest.raises(Refused, match="connections: use a list of connection ids"):
        read_request({"message": "hi", "connections": connections})


def test_the_addressed_gateway_is_taken_out_of_the_fields() -> None:
    fields = {"id": "chat", "message": 1}
    assert (take_id(fields), fields, take_id(fields)) == ("chat", {"message": 1}, None)
    with pytest.raises(Refused, match="id: use a string, not 7"):
        take_id({"id": 7})


@pytest.mark.parametrize(("key", "status"), [("wrong", 401), ("", 401)])
def test_a_caller_without_a_key_is_refused(key: str, status: int) -> None:
    guard().check_caller(scope())
    with pytest.raises(Refused) as caught:
        guard().check_caller(scope(key))
    assert caught.value.status == status


def test_each_key_has_a_rate_of_its_own() -> None:
    limited = guard(send_rate=0.001, send_burst=1)
    limited.check_rate(scope())
    limited.check_rate(scope("other"))
    with pytest.raises(Refused, match="429"):
        limited.check_rate(scope())


def test_a_body_may_have_the_maximum_size() -> None:
    guard(max_send_size=10).check_size(10)
    with pytest.raises(Refused, match="413 the body is larger than max_send_size, 10 bytes"):
        guard(max_send_size=10).check_size(11)


class Picky:
    async def on_message(self, event: Event) -> None:
        if event.message == "bad":
            raise ZeroDivisionError


@pytest.mark.parametrize(("message", "status"), [("bad", 500), (None, 422), (object(), 422)])
async def test_a_push_that_fails_is_refused(message: object, status: int) -> None:
    gateway = Gateway(Picky)
    async with gateway.lifespan():
        with pytest.raises(Refused) as caught:
            await send_request(gateway, SendRequest(message))
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"chanel": "room:1", "message": "secret"}, "there is no field 'chanel', did you mean channel?"),
        ({"msg": 1}, "there is no field 'msg', did you mean message?"),
        ({"message": 1, "q" * 10**6: 1}, "there is no field 'qqq"),
        ({"message": 1, "ttl": 5}, "ttl describes a message to a channel, so name its channel, too"),
        ({"channel": "news"}, "message is missing or null, send a JSON value"),
    ],
)
async def test_a_field_that_nobody_reads_is_refused(fields: dict[str, Any], text: str) -> None:
    gateway = Gateway(channels={"news": {}})
    async with gateway.lifespan():
        with pytest.raises(Refused) as caught:
            await send_request(gateway, read_request(fields))
    assert caught.value.status == 422
    assert caught.value.reason.startswith(text)  # and no hook is blamed, as for a refusal of on_message


async def test_a_field_that_a_hook_may_read_is_logged_if_it_looks_misspelled(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "wsgateway")
    gateway = Gateway(Picky)
    async with gateway.lifespan():
        await send_request(gateway, read_request({"message": 1, "chanel": "room:1", "room": 1, "key": "k"}))
    lines = [record.getMessage() for record in caplog.records if "did you mean" in record.getMessage()]
    assert lines == [
        "[default] a request to send has the field 'chanel', did you mean channel? on_message finds it in event.data"
    ]


async def test_a_push_answers_with_counts_and_a_gateway_that_is_stopped_refuses_it() -> None:
    gateway = Gateway(Picky)
    async with gateway.lifespan():
        answer = await send_request(gateway, SendRequest("good"))
    assert (answer.id, answer.recipients, answer.queued, answer.dropped) == ("default", 0, 0, 0)
    with pytest.raises(Refused, match="409"):
        await send_request(gateway, SendRequest("good"))


class Moderated:
    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    async def on_message(self, event: MessageEvent) -> None:
        target = {name: getattr(event, name) for name in ("channel", "to_user", "name", "key", "tags", "ttl")}
        self.seen.append({**target, "idempotency_key": event.idempotency_key, "data": event.data})
        if event.message == "spam":
            raise Refused(451, "no spam")
        if event.message == "odd":
            raise Refused(499)
        if event.message == "broken":
            raise ValueError("a secret")


@asynccontextmanager
async def moderated() -> AsyncIterator[tuple[Gateway, Moderated]]:
    listener = Moderated()
    gateway = Gateway(listener, channels={"room:*": {"history": 5}, "news": {}})
    async with gateway.lifespan():
        yield gateway, listener


async def send(gateway: Gateway, **fields: Any) -> SendAnswer:
    return await send_request(gateway, read_request({"message": "hi", **fields}))


async def test_a_push_to_a_channel_reaches_the_hook_with_its_attributes_and_answers_with_a_position() -> None:
    async with moderated() as (gateway, listener):
        answer = await send(gateway, channel="room:1", name="n", key="k", tags={"a": "b"}, ttl=60, x=1)
        assert answer.at is not None
        assert answer.at.endswith(":1")
        assert listener.seen == [
            {
                "channel": "room:1",
                "to_user": "",
                "name": "n",
                "key": "k",
                "tags": {"a": "b"},
                "ttl": 60,
                "idempotency_key": "",
                "data": {"channel": "room:1", "name": "n", "x": 1},
            }
        ]
        assert (await send(gateway, channel="news")).at is None
        assert (await send(gateway, user="ann")).at is None
        assert listener.seen[-1]["to_user"] == "ann"


async def test_the_same_idempotency_key_publishes_once_even_if_it_is_huge() -> None:
    async with moderated() as (gateway, _):
        for key in ("a", "x" * 2**20):
            first = await send(gateway, channel="room:1", idempotency_key=key)
            again = await send(gateway, channel="room:1", idempotency_key=key)
            assert (first.is_new, again.is_new, again.at) == (True, False, first.at)
        assert len((await gateway.history("room:1")).publications) == 2


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"channel": "rom:1"}, 404, 'did you mean "room:*"?'),
        ({"channel": "room:*"}, 404, "reserved"),
        ({"channel": "news", "idempotency_key": "a"}, 422, "idempotency_key needs a history"),
        ({"channel": "room:1", "message": "spam"}, 451, "on_message refused the message: no spam"),
        ({"message": "odd"}, 499, "on_message refused the message"),
        ({"message": "broken"}, 500, "the listener failed in on_message"),
    ],
)
async def test_a_push_to_a_channel_is_refused(fields: dict[str, Any], status: int, text: str) -> None:
    async with moderated() as (gateway, _):
        with pytest.raises(Refused) as caught:
            await send(gateway, **fields)
        assert (await gateway.history("room:1")).publications == []
    assert caught.value.status == status
    assert text in caught.value.reason


def test_a_history_that_is_unavailable_is_503() -> None:
    refusal = refusal_of_send(HistoryError("the store is gone", is_late=True))
    assert refusal is not None
    assert (refusal.status, refusal.detail, dict(refusal.headers)) == (503, "the store is gone", {"retry-after": "5"})
