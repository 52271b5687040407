"""Public functions raise what their docstrings promise, whatever they are given. Those of the client: `test_client`."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from websockets.exceptions import ConnectionClosed

from tests.test_client import NO_JSON
from wsgateway import (
    ConfigError,
    Gateway,
    GatewayNotFound,
    GatewayNotRunning,
    HookError,
    MessageError,
    Refused,
    Settings,
    StartError,
    send_gateway_message,
    testing,
)
from wsgateway.exceptions import BrokerError
from wsgateway.publisher import Publisher
from wsgateway.testing import Client, RecordingListener

IN_JSON_ONLY = (
    "NaN",
    "infinity",
    "set",
    "object",
    "lone surrogate",
    "lone surrogate as a key",
    "cycle",
    "deep",
    "complex",
)
"""What no gateway can encode. Dates, decimals and the like may become text one day, and bytes are binary messages."""

WRONG_CLOSES: list[tuple[Any, Any]] = [
    (1006, ""),
    (999, ""),
    (5000, ""),
    (0, ""),
    (-1, ""),
    (10**30, ""),
    ("1000", ""),
    (None, ""),
    (3000.5, ""),
    (float("nan"), ""),
    (1000, "x" * 124),
    (1000, "ü" * 62),
    (1000, "\ud800"),
    (1000, None),
    (1000, b"x"),
    (1000, 5),
]


@pytest.mark.parametrize("name", IN_JSON_ONLY)
async def test_a_message_that_cannot_be_encoded_is_a_message_error(name: str) -> None:
    gateway = Gateway(local_access=True)
    async with testing.serve(gateway) as url, Client(url) as ann:
        conn = next(iter(gateway.connections))
        for message in (NO_JSON[name], [NO_JSON[name]]):
            for send in (gateway.send, conn.send):
                with pytest.raises(MessageError):
                    await send(message)
            with pytest.raises(MessageError):
                await send_gateway_message(gateway.id, {"message": message})
            for send_from_thread in (gateway.send_from_thread, conn.send_from_thread):
                with pytest.raises(MessageError):
                    await anyio.to_thread.run_sync(send_from_thread, message)
        await gateway.send("after")
        assert await ann.receive() == "after"


@pytest.mark.parametrize(("code", "reason"), WRONG_CLOSES)
async def test_a_close_that_no_server_may_send_is_a_value_error(code: Any, reason: Any) -> None:
    if code is not None:  # which is a refusal before the handshake
        with pytest.raises(ValueError):
            Refused(401, reason, close=code)
    gateway = Gateway()
    async with testing.serve(gateway) as url, Client(url) as ann:
        with pytest.raises(ValueError):
            await next(iter(gateway.connections)).close(code, reason)
        await gateway.send("still open")
        assert await ann.receive() == "still open"


@pytest.mark.parametrize("status", [399, 600, 0, "401", None, 401.5, True])
def test_a_refusal_with_a_status_that_is_none_is_a_value_error(status: Any) -> None:
    with pytest.raises(ValueError):
        Refused(status)


SETTINGS: dict[str, dict[str, Any]] = {
    "every mistake": {"port": -1, "drain": "x", "slow_policy": "never", "id": ""},
    "not a number": {"ping_interval": float("nan")},
    "a number in quotes": {"port": "80"},
    "a list of numbers": {"allowed_origins": [5]},
    "no list": {"api_key": 5},
    "no origin": {"allowed_origins": "http://["},
    "a key with a line break": {"api_key": "a\nb"},
    "TLS by half": {"ssl_keyfile": "key.pem"},
    "no text": {"log_file": b"x"},
    "no broker": {"broker": "amqp://u:SECRET@host"},
    "no folder": {"log_file": "/nowhere/at/all/WebSocket.log"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_cannot_be_used_are_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError) as error:
        Gateway(**SETTINGS[name])
    assert len(error.value.mistakes) == (4 if name == "every mistake" else 1)
    assert "SECRET" not in str(error.value)
    if name not in ("no broker", "no folder"):
        with pytest.raises(ConfigError):
            Settings(**SETTINGS[name])


async def test_a_gateway_that_does_not_run_says_so() -> None:
    gateway = Gateway(id="stopped")
    async with gateway.lifespan():
        pass
    for send in (gateway.send, lambda message: send_gateway_message("nobody", {"message": message})):
        with pytest.raises((GatewayNotRunning, GatewayNotFound)):
            await send("x")
    with pytest.raises(GatewayNotRunning):
        await anyio.to_thread.run_sync(gateway.send_from_thread, "x")
    with pytest.raises(GatewayNotFound):
        gateway.find("nobody")
    await gateway.stop()  # again


class Failing:
    def on_start(self, event: object) -> None:
        raise RuntimeError("not today")


class FailingHook:
    def on_message(self, event: object) -> None:
        raise RuntimeError("not today")


async def test_a_listener_that_fails_is_a_start_error_or_a_hook_error() -> None:
    with pytest.raises(StartError, match="not today"):
        await Gateway(Failing).start()
    with pytest.raises(StartError):
        await Gateway("nowhere:Chat").restart()
    gateway = Gateway(FailingHook)
    async with gateway.lifespan():
        with pytest.raises(HookError):
            await gateway.send("x")


WRONG_BROKERS: list[Any] = [
    "",
    "x",
    "redis",
    None,
    5,
    "amqp://h",
    "redis://[",
    "redis://h:99999",
    "redis://h:x",
    "nats://",
]
WRONG_BROKERS += ["nats://h:x", "nats://a,:2", "unix://", "redis://h?foo=SECRET", "redis://h?socket_timeout=SECRET"]
WRONG_BROKERS += ["rediss://h?ssl_cert_reqs=SECRET", "ipc://relative", "redis://u:SECRET"]


@pytest.mark.parametrize("url", WRONG_BROKERS)
def test_a_broker_that_cannot_be_used_is_a_config_error(url: Any) -> None:
    with pytest.raises(ConfigError) as error:
        Publisher(url)
    assert "SECRET" not in str(error.value)


async def test_a_publisher_raises_what_it_promises() -> None:
    publisher = Publisher("redis://:SECRET@127.0.0.1:1")
    with pytest.raises(RuntimeError):
        await publisher.asend("x")
    with pytest.raises(RuntimeError):
        publisher.send("x")
    async with publisher:
        with pytest.raises(BrokerError) as error:
            await publisher.asend("x")
        assert "SECRET" not in str(error.value)
        for name in IN_JSON_ONLY:
            with pytest.raises(MessageError):
                await publisher.asend(NO_JSON[name])
        with pytest.raises(MessageError):
            await publisher.asend(None)
        with pytest.raises(ValueError, match="key: only a message to a channel"):
            await publisher.asend("x", key="a")
        with pytest.raises(TypeError, match="no argument 'chanel', did you mean channel"):
            await publisher.asend("x", chanel=None)  # type: ignore[call-arg]  # a typing error of the caller


async def test_what_tests_wait_for_in_vain_is_a_timeout_or_a_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "TIMEOUT", 0.1)  # a constant, so that the test is quick
    listener = RecordingListener()
    gateway = Gateway(listener)
    waits: list[Callable[[Client], Any]] = [Client.receive, Client.receive_json, Client.closed]
    async with testing.serve(gateway) as url, Client(url) as ann:
        for wait in waits:
            with pytest.raises(TimeoutError):
                await wait(ann)
        with pytest.raises(TimeoutError):
            await listener.wait_for("on_client_close")
    monkeypatch.undo()
    async with testing.serve(gateway) as url, Client(url) as ann:
        await next(iter(gateway.connections)).close(4000, "bye")
        with pytest.raises(ConnectionClosed):
            await ann.receive()
        assert await ann.closed() == (4000, "bye")
