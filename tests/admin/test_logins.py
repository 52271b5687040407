"""Logins: the cookies of the panel, the tokens of its forms, and the tries of passwords."""

import anyio
import pytest

from wsgateway.admin.logins import (
    TRIES,
    TRIES_AT_ONCE,
    TRIES_PER_SECOND,
    Logins,
    TooManyTries,
    Tries,
    counted_address,
)
from wsgateway.admin.passwords import MAX_ENDED
from wsgateway.auth.admin import Access
from wsgateway.config.addresses import MAX_ADDRESS, REMOTE_END, RemoteEnd
from wsgateway.limits import RateLimits


def test_a_session_that_was_ended_or_forged_is_none() -> None:
    logins = Logins(lambda: "secret")
    session = logins.begin(Access.FULL)
    cookie = logins.cookie_of(session)
    assert Logins(lambda: "another").read(cookie) is None
    assert logins.read(cookie[:-1]) is None
    logins.end(session)
    assert logins.read(cookie) is None


def test_only_ended_sessions_with_access_are_remembered_and_not_forever() -> None:
    logins = Logins(lambda: "secret")
    for _ in range(1000):
        logins.end(logins.begin())
    assert not logins._ended
    for _ in range(MAX_ENDED + 10):
        logins.end(logins.begin(Access.READ))
    assert len(logins._ended) == MAX_ENDED


def test_a_form_belongs_to_one_session() -> None:
    logins = Logins(lambda: "secret")
    one, other = logins.begin(), logins.begin()
    assert logins.is_own_form(one, logins.csrf_of(one))
    assert not logins.is_own_form(other, logins.csrf_of(one))
    assert not logins.is_own_form(one, "")
    assert not logins.is_own_form(one, "é")


def test_tries_are_limited_for_each_address_and_allowed_again_later() -> None:
    tries = RateLimits(TRIES_PER_SECOND, TRIES)
    assert [tries.allows("a", 0.0) for _ in range(TRIES + 1)] == [True] * TRIES + [False]
    assert tries.allows("b", 0.0)
    assert tries.allows("a", 6.0)


def test_time_in_which_a_password_is_tried_allows_no_more_tries() -> None:
    tries = RateLimits(TRIES_PER_SECOND, TRIES)
    for second in range(0, 10 * TRIES, 10):
        assert tries.allows("a", second)
        tries.skip("a", second + 10)  # a slow machine
    assert not tries.allows("a", 10 * TRIES)


async def test_one_address_tries_few_passwords_at_the_same_time() -> None:
    tries, free = Tries(), anyio.Event()
    tried = []

    async def wait(sender: str) -> None:
        async with tries.slot(sender):
            tried.append(sender)
            await free.wait()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(TRIES_AT_ONCE):
                tasks.start_soon(wait, "attacker")
            await anyio.wait_all_tasks_blocked()
            for _ in range(100):
                with pytest.raises(TooManyTries):
                    async with tries.slot("attacker"):
                        pass
            tasks.start_soon(wait, "owner")  # it waits for a slot
            await anyio.wait_all_tasks_blocked()
            free.set()
        async with tries.slot("attacker"):  # what was refused did not count
            pass
    assert tried == ["attacker"] * TRIES_AT_ONCE + ["owner"]
    assert not tries._waiting


@pytest.mark.parametrize(
    ("peer", "client", "sender"),
    [
        ("127.0.0.1", "203.0.113.9", "127.0.0.1"),
        ("127.0.0.2", "203.0.113.9", "127.0.0.2"),
        ("::1", "x" * 30_000, "::1"),
        ("", "203.0.113.9", ""),
        ("10.0.0.2", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.2", "::ffff:203.0.113.9", "203.0.113.9"),
        ("10.0.0.2", "x" * 30_000, "x" * MAX_ADDRESS),
    ],
)
def test_a_forwarded_address_counts_only_if_another_host_forwards_it(peer: str, client: str, sender: str) -> None:
    assert counted_address({"client": (client, 0), "extensions": {REMOTE_END: RemoteEnd(peer)}}) == sender
