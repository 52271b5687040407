"""What the clients of all protocols have in common in the suite of guarantees: one interface, and one vocabulary of
events. Each client follows one channel, and remembers the position of the last event that its test has read."""

from collections import deque
from typing import ClassVar, NamedTuple, Self

import anyio

TIMEOUT = 30.0
"""Seconds after which a wait is a failure."""

BROKEN = 1006
"""The code of a connection that ended without a close (RFC 6455 7.1.5)."""


class Published(NamedTuple):
    """A message of the channel. `at` is its position, `EPOCH:OFFSET`, empty without a history."""

    message: str
    at: str = ""


class Subscribed(NamedTuple):
    """`at` is the position that the client continues from."""

    recovered: bool
    at: str = ""


class Unsubscribed(NamedTuple):
    code: int


class Refused(NamedTuple):
    """A subscription or a message was refused, with a status, or with the code of an error."""

    code: int


class Closed(NamedTuple):
    """The connection has ended. `reconnects` is what the client's library makes of the code and the reason."""

    code: int
    reason: str
    reconnects: bool
    retry_ms: int | None = None


Event = Published | Subscribed | Unsubscribed | Refused | Closed


def may_reconnect(code: int) -> bool:
    """Return whether a client that was closed with `code` connects again, as every library decides it."""
    return code != 1009 and not 3500 <= code <= 3999 and not 4500 <= code <= 4999


class Client:
    """A client of the gateway at `url` that follows `channel`, from the position `at` on if that is not empty."""

    name: ClassVar[str]
    has_positions: ClassVar[bool] = True
    bad_request: ClassVar[tuple[int, ...]] = (400,)
    """The codes that answer a position which is not one."""

    drained: ClassVar[tuple[int, str, bool]] = (1012, "shutdown", True)
    is_told_when: ClassVar[bool] = True
    """Whether the drain says when to reconnect. Else the client's library spreads its clients."""

    recovers_when_lost: ClassVar[bool] = False
    """Whether its library asks for what it has missed after `unsubscribed` with 2500, too."""

    too_many: ClassVar[int] = 3013
    commands: ClassVar[int] = 0
    """How many messages of the client its subscription has taken, for `message_rate`."""

    @classmethod
    def sent(cls, code: int) -> int:
        """Return the code that such a client is sent for the close code `code`."""
        return cls.drained[0] if code == 1012 else code

    def __init__(self, url: str, channel: str = "room", *, at: str = "", receive_buffer: int = 0) -> None:
        """With a `receive_buffer`, in bytes, a client that its test does not read soon takes nothing more."""
        self.at = at
        self._url = url
        self._channel = channel
        self._receive_buffer = receive_buffer
        self._events: deque[Event] = deque()

    async def __aenter__(self) -> Self:
        with anyio.fail_after(TIMEOUT):
            await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True), anyio.fail_after(TIMEOUT):
            await self.close()

    async def connect(self) -> None:
        """Connect, again or for the first time, and ask for the channel."""
        self._events.clear()
        await self._open()

    async def publish(self, message: str) -> None:
        """Publish `message` in the channel. A refusal is an event."""
        raise NotImplementedError

    async def start_over(self) -> None:
        """Do what follows `unsubscribed` with a code from 2500 on."""
        raise NotImplementedError

    async def cut(self) -> None:
        """End the connection without a close. What was not read is lost."""
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    async def _open(self) -> None:
        raise NotImplementedError

    async def _receive(self) -> None:
        """Wait until something has arrived, and append what it means to the events."""
        raise NotImplementedError

    async def next(self) -> Event:
        """Return the next event."""
        if not self._events:
            with anyio.fail_after(TIMEOUT):
                while not self._events:
                    await self._receive()
        event = self._events.popleft()
        match event:
            case Published(_, at) | Subscribed(_, at):
                self.at = at or self.at
            case Unsubscribed(code) if code >= 2500 and not self.recovers_when_lost:
                self.at = ""
            case _:
                pass
        return event

    async def message(self) -> str:
        """Return the next event, which has to be a message of the channel."""
        event = await self.next()
        assert isinstance(event, Published), event
        return event.message

    async def subscribed(self) -> bool:
        """Wait until the client is subscribed, and return whether it has recovered."""
        event = await self.next()
        assert isinstance(event, Subscribed), event
        return event.recovered

    async def closed(self) -> Closed:
        """Read to the end."""
        while not isinstance(event := await self.next(), Closed):
            pass
        return event
