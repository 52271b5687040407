"""A gateway that workers serve, as their parent sees it."""

import anyio
import pytest

from wsgateway import Gateway, GatewayNotRunning, MessageError, MessageEvent, Refused, Settings
from wsgateway.exceptions import NodeError
from wsgateway.gateway.http.send import SendRequest, send_request
from wsgateway.supervisor.observer import Observer


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"ipc://{tmp_path_factory.mktemp('o')}/ipc"


async def test_it_has_the_state_of_what_it_observes_until_it_is_stopped(broker: str) -> None:
    observer = Observer(Settings(workers=2))
    observer.prepare()
    assert str(observer.state) == "starting"
    await observer.start(broker)
    assert (observer.state, await observer.inspector.nodes()) == ("starting", [])
    observer.mark_running()
    assert str(observer.state) == "running"
    await observer.stop()
    assert str(observer.state) == "stopped"


async def test_one_that_fails_keeps_its_reason_until_it_is_stopped_again(
    broker: str, caplog: pytest.LogCaptureFixture
) -> None:
    observer = Observer(Settings(workers=2))
    await observer.start(broker)
    observer.mark_running()
    observer.fail("all workers died")
    assert caplog.messages[-1] == "[default] failed: all workers died"
    await observer.stop()
    assert (observer.state, observer.failure) == ("failed", "all workers died")
    await observer.stop()
    assert str(observer.state) == "stopped"


async def test_a_message_goes_to_a_node_that_serves(broker: str) -> None:
    observer = Observer(Settings(workers=2))
    with pytest.raises(GatewayNotRunning):
        await observer.send("x")
    await observer.start(broker)
    with pytest.raises(MessageError):
        await observer.send(None)
    with pytest.raises(NodeError, match="no process that serves gateway"):
        await observer.send("x")
    gateway = Gateway(broker=broker)
    async with gateway.lifespan():
        with anyio.fail_after(10):
            while not observer.inspector.has_running_peers:
                await anyio.sleep(0.01)  # nothing reports a new peer
        sent = await observer.send("x")
        assert sent.recipients == 0
        assert [node.state for node in await observer.inspector.nodes()] == ["running"]
    await observer.stop()


class Picky:
    def __init__(self) -> None:
        self.names: list[str] = []
        self.targets: list[tuple[str, str]] = []

    async def on_message(self, event: MessageEvent) -> None:
        self.names.append(event.name)
        self.targets.append((event.channel, event.to_user))
        raise Refused(451, "not today")


async def test_a_refusal_of_a_worker_keeps_its_status_and_no_other_worker_is_asked(broker: str) -> None:
    observer, picky = Observer(Settings(workers=2)), Picky()
    await observer.start(broker)
    async with Gateway(picky, broker=broker).lifespan():
        with anyio.fail_after(10):
            while not observer.inspector.has_running_peers:
                await anyio.sleep(0.01)  # nothing reports a new peer
        with pytest.raises(Refused) as caught:
            await send_request(observer, SendRequest("x", {"name": "greeting"}))
    assert (caught.value.status, caught.value.reason) == (451, "on_message refused the message: not today")
    assert picky.names == ["greeting"]
    await observer.stop()


async def test_a_message_to_a_channel_or_user_is_sent_by_a_worker(broker: str) -> None:
    observer, picky = Observer(Settings(workers=2)), Picky()
    await observer.start(broker)
    async with Gateway(picky, broker=broker).lifespan():
        with anyio.fail_after(10):
            while not observer.inspector.has_running_peers:
                await anyio.sleep(0.01)  # nothing reports a new peer
        for request in (SendRequest("x", {"channel": "a"}), SendRequest("x", {"user": "a"})):
            with pytest.raises(Refused, match="not today"):
                await send_request(observer, request)
    assert picky.targets == [("a", ""), ("", "a")]
    await observer.stop()
