"""The calls that wait for the hooks of one connection: their order, their bound, and what a discard leaves."""

import asyncio

import pytest

from wsgateway import Event, Gateway
from wsgateway.listeners.inbox import INBOX_BYTES, INBOX_MESSAGES, AwaitedCall, Call, CloseCall, Inbox

EVENT = Event(Gateway())


def message(size: int = 1) -> Call:
    return Call("on_message", None, EVENT, size)


def full_inbox() -> Inbox:
    inbox = Inbox()
    for _ in range(INBOX_MESSAGES):
        inbox.backlog.add(1)
    return inbox


def test_calls_wait_in_order_and_one_that_follows_another_comes_first() -> None:
    inbox, first, second, next_call = Inbox(), message(), message(), Call("on_error", None, EVENT)
    inbox.put(first)
    inbox.put(second)
    inbox.put_first(next_call)
    assert inbox.calls is not None
    assert list(inbox.calls) == [next_call, first, second]


@pytest.mark.parametrize(("count", "size"), [(INBOX_MESSAGES, 1), (1, INBOX_BYTES)])
def test_an_inbox_is_full_at_its_number_of_messages_and_at_its_bytes(count: int, size: int) -> None:
    inbox = Inbox()
    for _ in range(count):
        assert not inbox.is_full
        inbox.backlog.add(size)
    assert inbox.is_full


async def test_space_is_reported_once_in_the_next_iteration() -> None:
    inbox, reports = full_inbox(), list[str]()
    inbox.when_space(lambda: reports.append("space"))
    inbox.release(1)
    inbox.release(1)
    assert reports == []
    await asyncio.sleep(0)  # one iteration of the event loop
    assert reports == ["space"]


async def test_space_is_not_reported_while_the_inbox_is_still_full() -> None:
    inbox, reports = full_inbox(), list[str]()
    inbox.backlog.add(INBOX_BYTES)
    inbox.when_space(lambda: reports.append("space"))
    inbox.release(1)
    await asyncio.sleep(0)  # one iteration of the event loop
    assert reports == []


def test_a_discard_leaves_every_call_without_a_message() -> None:
    inbox, opened, closed = Inbox(), Call("on_client_open", None, EVENT), CloseCall("on_client_close", None, EVENT)
    for call in (opened, message(), message(), closed):
        inbox.put(call)
    inbox.discard_messages()
    assert inbox.calls is not None
    assert list(inbox.calls) == [opened, closed]


async def test_only_a_message_that_no_hook_has_changed_is_not_encoded_again() -> None:
    call = AwaitedCall("on_message", None, Event(Gateway(), message="x"), encoded=("x", None))
    assert call.encode_message() is None
    call.event.message = "y"
    encoded = call.encode_message()
    assert encoded is not None
    assert encoded.payload == b"y"
