"""The commands about channels. Those that end by themselves run in this process, which is much faster."""

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from tests import processes
from tests.servers import free_socket
from wsgateway.cli.listen import headers_of, positions_of
from wsgateway.testing import Client

FILE = """\
listener = "rooms.py:Rooms"

[gateways.chat]
port = 0

[gateways.chat.channels."room:*"]
history = 10
presence = true
clients = ["subscribe", "publish"]

[gateways.chat.channels."news"]
public = true

[admin]
port = {port}
"""

LISTENER = """
from wsgateway import Refused

class Rooms:
    async def on_handshake(self, event):
        event.conn.user = event.conn.query.get("user")

    async def on_subscribe(self, event):
        if event.channel == "room:secret":
            raise Refused(403, "not your room")
        event.info = {"of": event.conn.user}
"""


class Running:
    """A server with channels, and the commands against it."""

    def __init__(self, folder: Path, served: processes.Served) -> None:
        self.folder = folder
        self.served = served
        self.url = json.loads(self("show", "chat", "--json"))["url"]

    def __call__(self, *arguments: str, code: int = 0) -> str:
        stdout, stderr = self.outputs(*arguments, code=code)
        return stdout if code == 0 else stderr

    def outputs(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        done = processes.run_here(*arguments, cwd=self.folder)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout, done.stderr

    def send(self, *arguments: str, code: int = 0) -> str:
        return self("send", "--url", self.url + "/send", *arguments, code=code)

    async def command(self, *arguments: str) -> str:
        return await anyio.to_thread.run_sync(self, *arguments)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("channels")
    with free_socket() as probe:
        port = probe.getsockname()[1]
    (folder / "wsgateway.toml").write_text(FILE.format(port=port))
    (folder / "rooms.py").write_text(LISTENER)
    with processes.serving(cwd=folder, command=[*processes.COMMAND, "serve"]) as served:
        yield Running(folder, served)


def test_send_has_an_option_for_each_keyword_and_prints_the_position(running: Running) -> None:
    options = ("--name", "n", "--key", "k", "--tag", "a=b", "--tag", "c=", "--ttl", "60", "--idempotency-key", "once")
    sent = running.send("--channel", "room:keys", *options, "hi")
    assert sent.startswith("recipients 0, queued 0, dropped 0, at ")
    again, told = running.outputs("send", "--url", running.url + "/send", "--channel", "room:keys", *options, "hi")
    assert again == sent
    assert "not sent again" in told
    shown = json.loads(running("history", "chat", "room:keys", "--json"))
    (one,) = shown["publications"]
    assert (one["name"], one["key"], one["tags"], one["message"]) == ("n", "k", {"a": "b", "c": ""}, "hi")
    assert sent == f"recipients 0, queued 0, dropped 0, at {one['at']}\n"
    assert running.send("--user", "nobody", "hi") == "recipients 0, queued 0, dropped 0\n"


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--channel", ""), 2, "channel is ''"),
        (("--user", ""), 2, "user is ''"),
        (("--channel", "room:1", "--user", "ann"), 2, "channel and user are given"),
        (("--channel", "room:1", "--to", "x"), 2, "channel and connections are given"),
        (("--key", "k"), 2, "key: only a message to a channel"),
        (("--channel", "room:1", "--tag", "red"), 2, "write it like --tag color=red"),
        (("--channel", "room:1", "--ttl", "soon"), 2, "--ttl"),
        (("--channel", "room:1", "--ttl", "0"), 1, "above 0"),
        (("--channel", "room:1", "--idempotency-key", ""), 2, "--idempotency-key"),
        (("--channel", "rom:1"), 1, 'did you mean "room:*"?'),
        (("--channel", "news", "--idempotency-key", "a"), 1, "needs a history"),
    ],
)
def test_a_mistake_reaches_nobody_and_is_a_sentence(
    options: tuple[str, ...], code: int, text: str, running: Running
) -> None:
    assert text in running.send("hi", *options, code=code)


async def test_channels_members_and_history_are_printed(running: Running) -> None:
    async with Client(running.url, "/ws?user=ann", channels=["room:a/b"]) as ann:
        await ann.subscribed("room:a/b")
        await running.command("send", "--url", running.url + "/send", "--channel", "room:a/b", "--json", '{"n": 1}')
        listed = (await running.command("channels", "chat", "--prefix", "room:a")).split("\n")
        assert listed[0].split() == ["NAME", "NAMESPACE", "SUBSCRIBERS", "AT", "SILENT", "FOR"]
        assert listed[1].split()[:3] == ["room:a/b", "room:*", "1"]
        members = await running.command("presence", "chat", "room:a/b")
        assert "ann" in members
        assert '{"of": "ann"}' in members
        assert await running.command("close", "chat", "--user", "ann", "--code", "3503") == "1 closed\n"
        assert (await ann.closed())[0] == 3503
    history = running("history", "chat", "room:a/b")
    assert history.split()[:3] == ["AT", "TIME", "MESSAGE"]
    assert '{"n": 1}' in history
    assert running("history", "chat", "room:a/b", "--limit", "0").split("\n")[-2].startswith("position: ")
    assert "keeps no history" in running("history", "chat", "news")
    for wrong, text in ((("--since", "x"), "use a position"), (("--since", ""), "--since is empty")):
        assert text in running("history", "chat", "room:1", *wrong, code=1 if wrong[1] else 2)
    assert 'did you mean "room:*"?' in running("presence", "chat", "rom:1", code=1)
    assert "there is no gateway" in running("channels", "nobody", code=1)
    assert "no open connection has that user" in running("close", "chat", "--user", "nobody", code=1)
    assert "or --user USER" in running("close", "chat", "--user", "", code=2)


@asynccontextmanager
async def listening(running: Running, *options: str) -> AsyncIterator[anyio.abc.Process]:
    argv = [*processes.COMMAND, "listen", "ws" + running.url[4:] + "/ws?user=cli", *options]
    async with await anyio.open_process(argv, env=processes.environment(), stdout=subprocess.PIPE) as process:
        try:
            with anyio.fail_after(30):
                yield process
        finally:
            if process.returncode is None:
                process.kill()


async def lines_of(stream: anyio.abc.ByteReceiveStream | None, count: int) -> list[str]:
    assert stream is not None
    buffered = BufferedByteReceiveStream(stream)
    return [(await buffered.receive_until(b"\n", 10_000)).decode() for _ in range(count)]


async def test_subscriptions_end_and_a_history_is_dropped(running: Running) -> None:
    async with Client(running.url, "/ws?user=ann", channels=["room:end"]) as ann:
        at = (await ann.subscribed("room:end"))["at"]
        await running.command("send", "--url", running.url + "/send", "--channel", "room:end", "hi")
        assert await message_of(ann) == "hi"
        ended = await running.command("unsubscribe", "chat", "room:end", "--user", "ann", "--reason", "over")
        assert ended == "1 unsubscribed\n"
        assert await ann.receive_json() == {"unsubscribed": "room:end", "code": 2000, "reason": "over"}
    assert running("unsubscribe", "chat", "room:end", "--all") == "0 unsubscribed\n"
    assert running("forget", "chat", "room:end") == "the history of room:end was dropped\n"
    shown = json.loads(running("history", "chat", "room:end", "--json"))
    assert (shown["publications"], shown["at"]) == ([], at.replace(":0", ":1"))
    for arguments in ((), ("--user", ""), ("x", "--all")):
        assert "name the connections" in running("unsubscribe", "chat", "room:end", *arguments, code=2)
    assert "2000 to 2999" in running("unsubscribe", "chat", "room:end", "--all", "--code", "1000", code=1)
    assert 'did you mean "room:*"?' in running("forget", "chat", "rom:1", code=1)


async def test_every_command_reaches_the_channels_of_all_workers(tmp_path: Path) -> None:
    with free_socket() as probe:
        port = probe.getsockname()[1]
    text = FILE.format(port=port).replace("[gateways.chat]\n", "[gateways.chat]\nworkers = 2\nbroker_timeout = 5\n")
    (tmp_path / "wsgateway.toml").write_text(text)
    (tmp_path / "rooms.py").write_text(LISTENER)
    with processes.serving(cwd=tmp_path, command=[*processes.COMMAND, "serve"]) as served:
        running = Running(tmp_path, served)
        async with AsyncExitStack() as stack:
            clients: list[Client] = []
            while len(await owners(running)) < 2 or len(clients) < 6:
                client = await stack.enter_async_context(Client(running.url, "/ws?user=ann", channels=["room:1"]))
                await client.subscribed("room:1")
                clients.append(client)
            count = len(clients)
            url = running.url + "/send"
            sent = await running.command("send", "--url", url, "--channel", "room:1", "--key", "k", "one")
            assert sent.startswith(f"recipients {count}, queued {count}, dropped 0, at ")
            assert (await running.command("send", "--url", url, "--user", "ann", "two")).startswith(
                f"recipients {count},"
            )
            for client in clients:
                assert [await message_of(client) for _ in range(2)] == ["one", "two"]
            listed = json.loads(await running.command("channels", "chat", "--json"))
            assert [(row["name"], row["subscribers"]) for row in listed["channels"]] == [("room:1", count)]
            assert listed["channels"][0]["at"] == sent.split()[-1]
            history = json.loads(await running.command("history", "chat", "room:1", "--json"))
            assert [(row["message"], row["key"]) for row in history["publications"]] == [("one", "k")]
            assert history["at"] == sent.split()[-1]
            assert "dropped" in await running.command("forget", "chat", "room:1")
            forgotten = json.loads(await running.command("history", "chat", "room:1", "--json"))
            assert (forgotten["publications"], forgotten["at"]) == ([], history["at"])
            ended = await running.command("unsubscribe", "chat", "room:1", "--user", "ann")
            assert ended == f"{count} unsubscribed\n"
            assert await running.command("close", "chat", "--user", "ann", "--code", "3503") == f"{count} closed\n"
            for client in clients:
                assert (await client.closed())[0] == 3503


async def message_of(client: Client) -> str:
    """The next message of a client, which receives `joined` and `left`, too."""
    while "message" not in (row := await client.receive_json()):
        assert row.keys() & {"joined", "left"}
    message: str = row["message"]
    return message


async def owners(running: Running) -> set[str]:
    """The workers that have clients."""
    nodes = json.loads(await running.command("nodes", "chat", "--json"))["nodes"]
    return {node["id"] for node in nodes if node["connections"]}


async def test_listen_prints_publications_with_positions_and_recovers(running: Running) -> None:
    async with listening(running, "--channel", "room:l") as process:
        assert process.stdin
        connected, subscribed, joined = await lines_of(process.stderr, 3)
        assert connected.startswith("connected to ")
        assert subscribed.startswith("subscribed to room:l at ")
        assert joined == "cli joined room:l"
        at = subscribed.rpartition(" ")[2]
        epoch = at.partition(":")[0]
        await process.stdin.send(b"typed\n")
        assert await lines_of(process.stdout, 1) == [f"[room:l {epoch}:1] typed"]
    await running.command("send", "--url", running.url + "/send", "--channel", "room:l", "--json", '{"n": 2}')
    async with listening(running, "--channel", "room:l", "--channel", "news", "--since", f"room:l@{at}") as process:
        assert await lines_of(process.stdout, 2) == [f"[room:l {epoch}:1] typed", f'[room:l {epoch}:2] {{"n": 2}}']
        await running.command("send", "--url", running.url + "/send", "--channel", "news", "x")
        assert await lines_of(process.stdout, 1) == ["[news] x"]
    async with listening(running, "--channel", "room:l", "--since", "other:1") as process:
        told = await lines_of(process.stderr, 3)
        assert told[2] == "the publications to room:l since other:1 cannot be recovered; some messages are missing"


async def test_listen_ends_if_every_channel_is_refused(running: Running) -> None:
    async with listening(running, "--channel", "room:secret", "--channel", "rom:1") as process:
        assert await process.wait() == 1
        told = await lines_of(process.stderr, 3)
        assert told[1] == "wsgateway: refused room:secret: 403 not your room"
        assert told[2].startswith('wsgateway: refused rom:1: 404 there is no channel "rom:1"')
    assert "is not a position" in running("listen", "--channel", "a", "--since", "x", code=2)


@pytest.mark.parametrize(
    ("channels", "since", "text"),
    [
        (["a"], ["x"], "is not a position"),
        (["a"], ["a@"], "is not a position"),
        (["a"], ["e:9223372036854775808"], "is not a position"),
        (["a", "b"], ["e:1"], "names no --channel"),
        (["a"], ["b@e:1"], "names no --channel"),
        ([], ["e:1"], "names no --channel"),
        ([""], [], "--channel is empty"),
    ],
)
def test_positions_that_belong_to_no_channel_are_mistakes(channels: list[str], since: list[str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        positions_of(channels, since)


def test_a_position_may_name_its_channel() -> None:
    assert positions_of(["a"], ["e:1"]) == {"a": "e:1"}
    assert positions_of(["a", "b@c"], ["b@c@e:1"]) == {"a": None, "b@c": "e:1"}
    assert positions_of(["a"], [":7"]) == {"a": ":7"}


@pytest.mark.parametrize(
    "word", ["cookie", "cookie:", "a b: secret", ": secret", "cookie: secret\r\nhost: x", "x: sécret"]
)
def test_a_header_of_listen_that_cannot_be_sent_is_a_mistake_that_hides_its_value(word: str) -> None:
    with pytest.raises(ValueError, match="write it like --header") as error:
        headers_of([word])
    assert "cret" not in str(error.value)
