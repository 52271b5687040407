"""What `/send` accepts, whatever port it arrives on."""

from typing import Any

import pytest

from wsgateway import Event, Gateway, Refused, Settings
from wsgateway.auth.rules import Rules
from wsgateway.gateway.http.send import SendGuard, SendRequest, read_request, send_request, take_id
from wsgateway.limits import RateLimits


def scope(key: str = "key") -> dict[str, Any]:
    return {"type": "http", "headers": [(b"authorization", b"Bearer " + key.encode())]}


def guard(**options: Any) -> SendGuard:
    settings = Settings(api_key=("key", "other"), **options)
    rates = RateLimits(settings.send_rate, settings.send_burst)
    return SendGuard(Gateway(), Rules(settings), rates, settings.max_send_size)


def test_fields_that_the_gateway_does_not_know_are_data_of_the_listener() -> None:
    fields = {"message": "hi", "connections": ["a"], "conn": 1, "action": "x", "room": 5}
    assert read_request(fields) == SendRequest("hi", ["a"], {"room": 5})


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


async def test_a_push_answers_with_counts_and_a_gateway_that_is_stopped_refuses_it() -> None:
    gateway = Gateway(Picky)
    async with gateway.lifespan():
        answer = await send_request(gateway, SendRequest("good"))
    assert (answer.id, answer.recipients, answer.queued, answer.dropped) == ("default", 0, 0, 0)
    with pytest.raises(Refused, match="409"):
        await send_request(gateway, SendRequest("good"))
