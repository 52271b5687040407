"""The members in other nodes against a model: changes arrive late, twice, or not at all, and lists are old."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.machines import run_machine
from wsgateway.cluster.envelopes import MemberRow
from wsgateway.cluster.records import row_of
from wsgateway.frames import Member
from wsgateway.hub.roster import Change, Event, Roster, rows_of

NODES = ("a" * 8, "b" * 8)


@dataclass
class Owner:
    """One node, as far as its members go, and what is on the way from it."""

    id: str
    members: dict[str, Member] = field(default_factory=dict)
    number: int = 0
    last: int = 0
    """Of its last change of the channel; 0 while it has no members."""

    changes: list[Change] = field(default_factory=list)
    """On the way, the oldest first."""

    answer: tuple[int, list[MemberRow]] | None = None
    is_asked: bool = False

    def announce(self, joined: list[Member], left: list[str]) -> None:
        self.number += 1
        rows = rows_of(self.id, map(row_of, joined))
        self.changes.append(Change(self.id, self.last, self.number, rows, left))
        self.last = self.number if self.members else 0


class RosterMachine(RuleBasedStateMachine):
    """A client has the list of the moment it came, and each event since. It always has the members of the roster."""

    def __init__(self) -> None:
        super().__init__()
        self.roster = Roster()
        self.owners = [Owner(node_id) for node_id in NODES]
        self.seen: dict[str, bytes] = {}
        self.count = 0
        for owner in self.owners:
            self._ask(owner)

    def _take(self, event: Event) -> None:
        conn_id = event.member.id
        if event.has_left:
            assert self.seen.pop(conn_id) == event.row
        else:
            assert conn_id not in self.seen
            self.seen[conn_id] = event.row

    def _ask(self, owner: Owner) -> None:
        self.roster.hold(owner.id)
        owner.is_asked, owner.answer = True, None

    owners_drawn = st.integers(0, len(NODES) - 1)

    @rule(at=owners_drawn, count=st.integers(1, 3))
    def join(self, at: int, count: int) -> None:
        owner = self.owners[at]
        members = []
        for _ in range(count):
            self.count += 1
            members.append(Member(f"{owner.id}.{self.count}", "ann", {"n": self.count} if count > 1 else None))
        owner.members.update((member.id, member) for member in members)
        owner.announce(members, [])

    @precondition(lambda self: any(owner.members for owner in self.owners))
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        owner = data.draw(st.sampled_from([owner for owner in self.owners if owner.members]))
        chosen = data.draw(st.lists(st.sampled_from(sorted(owner.members)), unique=True, min_size=1))
        for conn_id in chosen:
            del owner.members[conn_id]
        owner.announce([], chosen)

    @precondition(lambda self: any(owner.members for owner in self.owners))
    @rule(data=st.data(), info=st.integers(0, 3))
    def return_with_another_info(self, data: Any, info: int) -> None:
        owner = data.draw(st.sampled_from([owner for owner in self.owners if owner.members]))
        conn_id = data.draw(st.sampled_from(sorted(owner.members)))
        owner.members[conn_id] = Member(conn_id, "ann", info)
        owner.announce([owner.members[conn_id]], [])

    @rule(at=owners_drawn, is_double=st.booleans())
    def arrive(self, at: int, is_double: bool) -> None:
        owner = self.owners[at]
        if owner.changes:
            events, is_behind = self.roster.apply(owner.changes[0] if is_double else owner.changes.pop(0))
            for event in events:
                self._take(event)
            if is_behind:
                self._ask(owner)

    @rule(at=owners_drawn)
    def lose(self, at: int) -> None:
        """A change is lost. The link of that node was lost with it, so the node is asked."""
        owner = self.owners[at]
        if owner.changes:
            del owner.changes[0]
            self._ask(owner)

    @rule(at=owners_drawn)
    def list_members(self, at: int) -> None:
        owner = self.owners[at]
        if owner.is_asked and owner.answer is None:
            owner.answer = owner.last or owner.number, [row_of(member) for member in owner.members.values()]

    @rule(at=owners_drawn)
    def receive_list(self, at: int) -> None:
        owner = self.owners[at]
        if owner.answer is None:
            return
        number, rows = owner.answer
        owner.answer, owner.is_asked = None, False
        for event in self.roster.fill(owner.id, rows_of(owner.id, rows)):
            self._take(event)
            self._check_view()
        events, is_behind = self.roster.release(owner.id, number)
        for event in events:
            self._take(event)
        if is_behind:
            self._ask(owner)

    @rule(at=owners_drawn)
    def die_and_return(self, at: int) -> None:
        owner = self.owners[at]
        for event in self.roster.drop(owner.id):
            self._take(event)
            self._check_view()
        self.roster.forget(owner.id)
        assert not any(conn_id.startswith(owner.id) for conn_id in self.seen)
        self._ask(owner)

    def _check_view(self) -> None:
        assert sorted(self.seen.values()) == sorted(self.roster.rows())

    def teardown(self) -> None:
        self._check_view()
        for at, owner in enumerate(self.owners):
            while owner.changes or owner.is_asked:
                self.arrive(at, False)
                self.list_members(at)
                self.receive_list(at)
        self._check_view()
        truth = {conn_id: member for owner in self.owners for conn_id, member in owner.members.items()}
        assert {conn_id: Member(**json.loads(row)) for conn_id, row in self.seen.items()} == truth


def test_every_client_has_the_members_whatever_is_late_or_lost() -> None:
    run_machine(RosterMachine, variable="ROSTER_EXAMPLES", examples=60, steps=40)


@pytest.mark.parametrize(
    "row",
    [
        (f"{NODES[1]}.1", "ann", "null"),
        (NODES[0], "ann", "null"),
        (f"{NODES[0]}.1", "ann", ""),
        (f"{NODES[0]}.1", "ann", "nul"),
        (f"{NODES[0]}.1", "ann", '{"a":1}}'),
        (f"{NODES[0]}.1", "ann", "NaN"),
        (f"{NODES[0]}.1", "ann", r'"\ud800"'),
        (f"{NODES[0]}.1", "ann", "[" * 100_000),
        (f"{NODES[0]}.1", "ann", "1" * 10_000),
    ],
)
def test_a_member_that_is_malformed_is_left_out(row: MemberRow) -> None:
    good = (f"{NODES[0]}.2", "bob", '{ "a" :\n1}')
    assert rows_of(NODES[0], [row, good]) == {
        good[0]: b'{"id":"aaaaaaaa.2","user":"bob","info":{"a":1}}',
    }
