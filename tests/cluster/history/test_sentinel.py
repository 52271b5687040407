"""A history and a broker link behind Sentinel, with a real failover."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from tests.cluster.history.stores import GATEWAY, KEPT, backend_at, entry, pages, topic_of
from tests.services import Process, needed, redis
from wsgateway import ConfigError, Gateway
from wsgateway.cluster.brokers import Link, opener
from wsgateway.cluster.brokers.sentinel import Sentinels
from wsgateway.cluster.history.scripts import keys_of
from wsgateway.cluster.history.store import Request
from wsgateway.exceptions import BrokerError, HistoryError
from wsgateway.text import mask_url

CONFIGURATION = """
port {{port}}
bind 127.0.0.1
protected-mode no
requirepass sesame
sentinel monitor my-master 127.0.0.1 {port} 1
sentinel auth-pass my-master secret
sentinel down-after-milliseconds my-master 300
sentinel failover-timeout my-master 1000
"""


class Group:
    """A master, its replica, and one Sentinel."""

    def __init__(self, master: Process, replica: Process, sentinel: Process) -> None:
        self.servers = [master, replica]
        self.sentinel = sentinel
        hosts = f"127.0.0.1:1,127.0.0.1:{sentinel.port}"  # the first one is down
        self.url = f"redis-sentinel://:secret@{hosts}/my-master?sentinel_password=sesame"

    def master_port(self) -> int:
        """The port that the Sentinel names."""
        answer = ask(self.sentinel, "sesame", "SENTINEL GET-MASTER-ADDR-BY-NAME my-master")
        return int(answer.split(b"\r\n")[-2])


def ask(server: Process, password: str, words: str) -> bytes:
    """What a server answers to one command, after the password."""
    return server.command("AUTH", password, f"\r\n{words}").partition(b"+OK\r\n")[2]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    folder = ("--dir", str(tmp_path))  # into which a replica writes what it copies
    with _server(*folder) as master, _server(*folder, "--replicaof", f"127.0.0.1 {master.port}") as replica:
        file = tmp_path / "sentinel.conf"
        sentinel = Process("redis", needed("redis-server"), str(file), "--sentinel")
        file.write_text(CONFIGURATION.format(port=master.port).format(port=sentinel.port))
        sentinel.start()
        try:
            yield Group(master, replica, sentinel)
        finally:
            sentinel.kill()


@contextmanager
def _server(*arguments: str) -> Iterator[Process]:
    password = ("--requirepass", "secret", "--masterauth", "secret", "--repl-diskless-sync-delay", "0")
    with redis(*password, *arguments) as service:
        yield service


async def until_it_is_replicated(group: Group) -> None:
    """Wait until the Sentinel has found the replica, which has everything."""
    with anyio.fail_after(20):
        while b"slave0" not in ask(
            group.servers[0], "secret", "INFO replication"
        ) or b"num-slaves\r\n$1\r\n1" not in ask(group.sentinel, "sesame", "SENTINEL MASTER my-master"):
            await asyncio.sleep(0.05)  # both work without us
        while ask(group.servers[1], "secret", "INFO replication").count(b"master_link_status:up") != 1:
            await asyncio.sleep(0.05)  # a replica reports nothing


async def until_the_replica_has_it(group: Group) -> None:
    """Wait until the first publication of the channel `c` is replicated, because a failover loses it otherwise."""
    meta = keys_of(GATEWAY, "c")[1].decode()
    with anyio.fail_after(10):
        while b"\r\n1\r\n" not in ask(group.servers[1], "secret", f"HGET {meta} o"):
            await asyncio.sleep(0.05)  # the servers do it by themselves


async def data_of(link: Link) -> bytes:
    with anyio.fail_after(10):
        while True:
            for _, data in await link.receive():
                return data


async def test_a_history_goes_on_with_the_new_master(group: Group) -> None:
    await until_it_is_replicated(group)
    async with backend_at(group.url) as backend:
        store = await backend.open()
        at, _ = await store.append(entry("c", b"1"))
        link = await opener(group.url)([topic_of("c")])
        await until_the_replica_has_it(group)
        group.servers[0].kill()
        with pytest.raises(BrokerError):
            await data_of(link)
        await link.aclose()
        errors = 0
        with anyio.fail_after(20):
            while True:
                try:
                    after, _ = await store.append(entry("c", b"2"))
                except HistoryError:
                    errors += 1
                    continue
                break
        assert group.master_port() == group.servers[1].port
        assert errors < 200  # an attempt takes 0.1 s, not less
        assert after == (at.epoch, 2)
        link = await opener(group.url)([topic_of("c")])
        await store.append(entry("c", b"3"))
        assert (await data_of(link)).endswith(b"\n3")
        await link.aclose()
        (page,) = await pages(store, [Request("c", KEPT, 0, 10)])
        assert [record for _, _, record in page.records] == [b"1", b"2", b"3"]


async def test_a_demoted_master_is_left_for_the_new_one(group: Group) -> None:
    await until_it_is_replicated(group)
    async with backend_at(group.url) as backend:
        store = await backend.open()
        at, _ = await store.append(entry("c", b"1"))
        await until_the_replica_has_it(group)
        with anyio.fail_after(10):
            while not ask(group.sentinel, "sesame", "SENTINEL FAILOVER my-master").startswith(b"+OK"):
                await asyncio.sleep(0.05)  # it does not find the replica good enough yet
        offsets: list[int] = []
        with anyio.fail_after(30):
            while group.master_port() != group.servers[1].port or not offsets or offsets[-1] < 3:
                try:
                    after, _ = await store.append(entry("c", b"x"))
                except HistoryError:
                    continue
                assert after.epoch == at.epoch
                offsets.append(after.offset)
        (page,) = await pages(store, [Request("c", KEPT, 0, 1)])
        assert page.top >= offsets[-1]


async def test_a_service_that_sentinel_does_not_know_is_an_error(group: Group) -> None:
    url = group.url.replace("/my-master", "/other")
    async with backend_at(url) as backend:
        store = await backend.open()
        with pytest.raises(HistoryError, match=r"no Sentinel knows the master of 'other' .*has no service") as error:
            await store.append(entry("c", b"1"))
        assert "secret" not in str(error.value)
        assert "sesame" not in str(error.value)
    with pytest.raises(BrokerError, match="no Sentinel knows the master of 'other'"):
        await opener(url)(["x"])


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis-sentinel://host:26379", "does not name a service"),
        ("redis-sentinel://host:26379/", "does not name a service"),
        ("redis-sentinel://host/a/b", "does not name a service"),
        ("redis-sentinel:///mymaster", "does not name a host"),
        ("redis-sentinel://a:1,/mymaster", "does not name a host"),
        ("redis-sentinel://a:1,b:x/mymaster", "host or port cannot be read"),
        ("redis-sentinel://:SECRET/x@a:1,b/mymaster", "host or port cannot be read"),
        ("redis-sentinel://a/mymaster?sentinel_SECRET=1", "may have sentinel_username"),
        ("redis-sentinel://a/mymaster?foo=SECRET", "does not know a parameter"),
    ],
)
def test_a_url_that_cannot_be_used_is_a_mistake(url: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as error:
        Gateway(broker=url)
    assert "SECRET" not in str(error.value)


def test_the_master_has_the_user_and_the_options_of_the_url() -> None:
    sentinels = Sentinels("redis-sentinel://me:a%2Fb@one,[::1]:7/my%20master?db=2&sentinel_password=x")
    assert sentinels.service == "my master"
    assert sentinels.url_of("::2", 6379) == "redis://me:a%2Fb@[::2]:6379/?db=2"


def test_passwords_are_masked() -> None:
    assert mask_url("redis-sentinel://me:SECRET@a:1,b:2/m?x=SECRET") == "redis-sentinel://a:1,b:2/m?…"
