import pickle
import re
from collections.abc import Iterator

import pytest

from wsgateway import exceptions
from wsgateway.exceptions import GatewayError, HistoryError, Refusal, Refused

RULES = Refusal(401, "key", "the call needs a key", "wrong-key", (("www-authenticate", "Bearer"),))


def below(error: type[GatewayError], depth: int = 0) -> Iterator[tuple[int, str]]:
    """Yield depth and name of `error` and of what derives from it, in the order of their definition."""
    yield depth, error.__name__
    for derived in error.__subclasses__():
        if derived.__module__ == exceptions.__name__:
            yield from below(derived, depth + 1)


def test_the_tree_at_the_top_is_complete() -> None:
    lines = re.findall(r"^([│├└─ ]*)([A-Z]\w+)(?: |$)", exceptions.__doc__ or "", re.MULTILINE)
    tree = [(len(branch) // 4, name) for branch, name in lines if name.endswith("Error") or branch]
    assert tree == list(below(GatewayError))


def test_an_exception_carries_its_refusal() -> None:
    assert Refused(401, "log in first").refusal == Refusal(401, "handshake", "log in first")
    error = Refused.of(RULES)
    assert error.refusal is RULES
    assert (error.status, error.close) == (401, None)
    assert error.reason == "the call needs a key (docs/troubleshooting.md#wrong-key)"


@pytest.mark.parametrize("reason", ["", "log in first"])
def test_an_exception_shows_status_and_reason(reason: str) -> None:
    assert str(Refused(401, reason)) == f"401 {reason}".strip()


def test_a_late_history_may_still_be_written() -> None:
    assert not HistoryError("the history store is full").is_late
    late = pickle.loads(pickle.dumps(HistoryError("the history store did not answer", is_late=True)))
    assert (str(late), late.is_late) == ("the history store did not answer", True)
