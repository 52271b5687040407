"""The open requests of one connection, in both directions: their ids, deadlines, and number. No I/O, reads no clock."""

from collections import deque
from collections.abc import Callable

from wsgateway.exceptions import ConnectionClosed, RequestRefused
from wsgateway.transports.takeover import Timed, Timers

MAX_REQUESTS = 100
"""Requests of one connection and direction that may be open at the same time."""

Settle = Callable[[object, Exception | None], None]
"""Called once, with the answer of the client, or with the error that replaces it."""


class Question:
    """A request of the server that its client has not answered yet. Implements `transports.takeover.Timed`."""

    __slots__ = ("_expired", "ident", "settle", "slot")

    def __init__(self, ident: int, settle: Settle, expired: "Callable[[Question], None]") -> None:
        self.slot: set[Timed] | None = None
        self.ident = ident
        self.settle = settle
        self._expired = expired

    def due(self) -> None:
        self._expired(self)


class Requests:
    """The requests that the server has sent to one client, by id, and the number of those that the client waits for.

    The ids of the server begin with 1. They are independent of those that the client chooses for its own requests.
    """

    __slots__ = ("_count", "_open", "_timers", "_unanswered", "asked")

    def __init__(self, timers: Timers) -> None:
        self.asked = 0
        """Requests of the client that are not answered yet."""

        self._timers = timers
        self._count = 0
        self._open: dict[int, Question] = {}
        self._unanswered: deque[int] | None = None  # ids that nobody waits for any more

    # Requests of the server

    @property
    def is_waiting(self) -> bool:
        """Whether the server waits for an answer."""
        return bool(self._open)

    def ask(self, settle: Settle, due: float) -> int:
        """Return the id of a new request, and call `settle` with its answer, or with `TimeoutError` at `due`.

        Raise `RequestRefused` if too many requests are open.
        """
        if len(self._open) >= MAX_REQUESTS:
            raise RequestRefused(429, f"{MAX_REQUESTS} requests to this client are open, which is the maximum")
        self._count += 1
        question = self._open[self._count] = Question(self._count, settle, self._expire)
        self._timers.add(question, due)
        return self._count

    def answer(self, ident: int, message: object) -> bool:
        """Settle a request with the answer of the client. Return False if no such request is open."""
        question = self._take(ident)
        if question is not None:
            question.settle(message, None)
        return question is not None

    def refuse(self, ident: int, code: int, reason: str) -> bool:
        """Settle a request with the refusal of the client. Return False if no such request is open."""
        question = self._take(ident)
        if question is not None:
            question.settle(None, RequestRefused(code, reason))
        return question is not None

    def forget(self, ident: int) -> None:
        """Wait for the answer no longer. Do nothing if the request is not open."""
        if self._take(ident) is not None:
            self._note_unanswered(ident)

    def owes(self, ident: int) -> bool:
        """Return whether the client has not answered a request, even if nobody waits for it any more."""
        return ident in self._open or (self._unanswered is not None and ident in self._unanswered)

    @property
    def owes_any(self) -> bool:
        """Whether `owes` returns True for any id."""
        return bool(self._open or self._unanswered)

    def dismiss(self, ident: int) -> None:
        """Note that an answer has arrived that nobody waits for any more."""
        if self._unanswered is not None and ident in self._unanswered:
            self._unanswered.remove(ident)

    def close(self, conn_id: str) -> None:
        """Fail every open request, because the connection closes."""
        questions, self._open = self._open, {}
        for question in questions.values():
            self._timers.discard(question)
            question.settle(None, ConnectionClosed(conn_id))

    def _take(self, ident: int) -> Question | None:
        question = self._open.pop(ident, None)
        if question is not None:
            self._timers.discard(question)
        return question

    def _expire(self, question: Question) -> None:
        del self._open[question.ident]
        self._note_unanswered(question.ident)
        question.settle(None, TimeoutError("the client has not answered in time"))

    def _note_unanswered(self, ident: int) -> None:
        if self._unanswered is None:
            self._unanswered = deque(maxlen=MAX_REQUESTS)
        self._unanswered.append(ident)

    # Requests of the client

    def begin(self) -> bool:
        """Count a request of the client, until `end`. Return False if too many are open."""
        if self.asked >= MAX_REQUESTS:
            return False
        self.asked += 1
        return True

    def end(self) -> None:
        """Note that a request of the client is answered."""
        self.asked -= 1
