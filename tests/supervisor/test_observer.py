"""A gateway that workers serve, as their parent sees it."""

import anyio
import pytest

from wsgateway import Gateway, GatewayNotRunning, MessageError, Settings
from wsgateway.exceptions import NodeError
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
    with pytest.raises(NodeError, match="no worker of this gateway"):
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
