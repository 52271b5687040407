"""The members that one channel has in the other nodes, kept up to date by what arrives from each. No I/O.

A node numbers its changes of members over all channels. Each change names the one before it in its channel, and a list
of all members names the last one that it contains. So a change that the list contains already has no effect, and one
that is missing shows.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from wsgateway.cluster.envelopes import NODE_ID, MemberRow
from wsgateway.cluster.records import member_of
from wsgateway.encoding import ENCODER
from wsgateway.frames import Member

MAX_HELD = 1_000
"""Changes of one node that are set aside while it is asked. More are dropped, and it is asked again."""


class Change(NamedTuple):
    """Members of the node `origin` that have joined, by id as a JSON object, and the ids of those that have left.

    `number` is its number. `prev` is the number of the change before it, 0 if the node had no members.
    """

    origin: str
    prev: int
    number: int
    joined: dict[str, bytes]
    left: Sequence[str]


class Event(NamedTuple):
    """A member that has joined or left, as a JSON object."""

    row: bytes
    has_left: bool

    @property
    def member(self) -> Member:
        return member_in(self.row)


def member_in(row: bytes) -> Member:
    """Return the member that `encode_member` has written."""
    return Member(**json.loads(row))


def encode_member(member: Member) -> bytes:
    """Return a member as a JSON object."""
    return ENCODER.encode(member.fields()).encode()


def rows_of(origin: str, rows: Iterable[MemberRow]) -> dict[str, bytes]:
    """Return members that `origin` has reported as JSON objects, by id. Leave out those that are malformed."""
    objects = {}
    for row in rows:
        conn_id = row[0]
        if conn_id[:NODE_ID] != origin or conn_id[NODE_ID : NODE_ID + 1] != ".":
            continue
        try:
            objects[conn_id] = encode_member(member_of(row))
        except ValueError:
            pass
    return objects


class _Node:
    """The members in one node. `held` contains changes that wait for its list, None if it is not asked."""

    __slots__ = ("held", "is_behind", "number", "rows")

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}
        self.number = 0
        self.held: list[Change] | None = None
        self.is_behind = False


class Roster:
    """The members of one channel in the other nodes, as JSON objects."""

    __slots__ = ("_nodes",)

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}

    def rows(self) -> Iterator[bytes]:
        """Yield each member."""
        for node in self._nodes.values():
            yield from node.rows.values()

    def hold(self, node_id: str) -> None:
        """Set aside the changes of a node, until `fill` is called with its list."""
        node = self._nodes.setdefault(node_id, _Node())
        if node.held is None:
            node.held = []

    def apply(self, change: Change) -> tuple[list[Event], bool]:
        """Apply a change. Return its events, and whether the node has to be asked, because one before it is missing."""
        node = self._nodes.setdefault(change.origin, _Node())
        if node.held is None:
            return _apply(node, change)
        if len(node.held) < MAX_HELD:
            node.held.append(change)
        else:
            node.is_behind = True
        return [], False

    def fill(self, node_id: str, rows: dict[str, bytes]) -> Iterator[Event]:
        """Replace the members in a node that is held by those of its list. Yield each event as it happens."""
        former = self._nodes[node_id].rows
        for conn_id in [conn_id for conn_id in former if conn_id not in rows]:
            yield Event(former.pop(conn_id), True)
        for conn_id, row in rows.items():
            yield from _put(former, conn_id, row)

    def release(self, node_id: str, number: int) -> tuple[list[Event], bool]:
        """Apply what was set aside since the list with the number `number`. Return the same as `apply`."""
        node = self._nodes[node_id]
        node.number = number
        held, node.held = node.held or [], None
        is_behind, node.is_behind = node.is_behind, False
        events: list[Event] = []
        for change in held:
            more, is_missing = _apply(node, change)
            events += more
            is_behind = is_behind or is_missing
        return events, is_behind

    def drop(self, node_id: str) -> Iterator[Event]:
        """Remove the members in a node. Yield each event as it happens."""
        node = self._nodes.get(node_id)
        if node is not None:
            node.number = 0
            while node.rows:
                yield Event(node.rows.popitem()[1], True)

    def forget(self, node_id: str) -> None:
        """Forget a node without members."""
        self._nodes.pop(node_id, None)


def _put(rows: dict[str, bytes], conn_id: str, row: bytes) -> Iterator[Event]:
    """Add a member, which has left and joined again if it is another one with the same id."""
    former = rows.get(conn_id)
    if former == row:
        return
    if former is not None:
        del rows[conn_id]
        yield Event(former, True)
    rows[conn_id] = row
    yield Event(row, False)


def _apply(node: _Node, change: Change) -> tuple[list[Event], bool]:
    if change.number <= node.number:
        return [], False
    if change.prev not in (0, node.number):
        return [], True
    events: list[Event] = []
    left = change.left if change.prev else [conn_id for conn_id in node.rows if conn_id not in change.joined]
    for conn_id in left:
        row = node.rows.pop(conn_id, None)
        if row is not None:
            events.append(Event(row, True))
    for conn_id, row in change.joined.items():
        events += _put(node.rows, conn_id, row)
    node.number = change.number
    return events, False
