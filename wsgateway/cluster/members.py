"""The members of channels in another node, asked for in pages that fit into one message of every broker."""

from collections.abc import Iterable, Iterator, Sequence

from wsgateway.cluster.cluster import Cluster
from wsgateway.cluster.envelopes import MemberRow
from wsgateway.cluster.questions import CountMembers, MemberRows, Members
from wsgateway.exceptions import NodeError
from wsgateway.limits import Backlog

PAGE_ROWS = 4_000
PAGE_BYTES = 512 * 1024
"""Limits of one page of members. NATS carries 1 MiB. A larger member is not shown in other nodes."""

ROW_BYTES = 10
"""Bytes that each member takes besides its texts."""

HASH = 8
"""Bytes of the hash of a user."""

PAGE_HASHES = 50_000
"""Users in one page of hashes."""


def new_page() -> Backlog:
    """Return the free space of a page of members."""
    return Backlog(PAGE_ROWS, PAGE_BYTES)


def size_of(row: MemberRow) -> int:
    """Return about how many bytes a member takes."""
    return sum(len(text) if text.isascii() else len(text.encode()) for text in row) + ROW_BYTES


def pages_of(rows: Iterable[MemberRow]) -> Iterator[list[MemberRow]]:
    """Yield `rows` in pages, at least one, which may be empty."""
    page, listed = new_page(), list[MemberRow]()
    for row in rows:
        size = size_of(row)
        if size > PAGE_BYTES:
            continue
        if not page.fits(size):
            yield listed
            page, listed = new_page(), []
        page.add(size)
        listed.append(row)
    yield listed


async def ask_members(cluster: Cluster, node_id: str, channels: Sequence[str]) -> list[MemberRows]:
    """Return the members of each of `channels` in another node. Raise `NodeError`."""
    lists: list[MemberRows] = []
    after = ""
    while after or len(lists) < len(channels):
        first = lists.pop() if after else None
        answer = await cluster.ask(node_id, Members(list(channels[len(lists) :]), after))
        page = answer.lists[: len(channels) - len(lists)]
        if not page:
            raise NodeError(f"node {node_id!r} gave a page without members")
        if first is not None:
            first.rows.extend(page[0].rows)
            page[0] = first
        lists += page
        before, after = after, "" if answer.is_last or not lists[-1].rows else lists[-1].rows[-1][0]
        if first is not None and len(page) == 1 and after and after <= before:
            raise NodeError(f"node {node_id!r} gave the same page of members again")
    return lists


async def ask_users(cluster: Cluster, node_id: str, channel: str) -> tuple[int, set[bytes]]:
    """Return the number of members of a channel in another node, and the hashes of their users. Raise `NodeError`."""
    users: set[bytes] = set()
    after = b""
    while True:
        page = await cluster.ask(node_id, CountMembers(channel, after))
        if not page.is_last and page.hashes[-HASH:] <= after:
            raise NodeError(f"node {node_id!r} gave the same page of users again")
        users.update(page.hashes[at : at + HASH] for at in range(0, len(page.hashes), HASH))
        if page.is_last:
            return page.connections, users
        after = page.hashes[-HASH:]
