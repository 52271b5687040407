"""The listener of the servers that are attacked. Answers the sender only, does what a message that begins with `!`
says, and on demand writes what it has counted into `report.json`."""

import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from wsgateway import Event, Refused, SubscribeEvent


class Listener:
    def __init__(self) -> None:
        self.handshakes = 0
        self.opens = 0
        self.closes = 0
        self.unpaired = 0
        self.codes: Counter[str] = Counter()
        self._open: set[str] = set()

    async def on_handshake(self, event: Event) -> None:
        assert event.conn
        self.handshakes += 1
        if event.conn.path == "/ws/refused":
            raise Refused(401, "not you")
        if event.conn.path == "/ws/sleeps":
            await asyncio.sleep(60)  # outlasts every limit of a test
        if event.conn.path == "/ws/waits" or event.message == "waits":
            await asyncio.sleep(0.3)  # long enough for a client to vanish meanwhile

    async def on_subscribe(self, event: SubscribeEvent) -> None:
        event.info = event.message or None

    async def on_client_open(self, event: Event) -> None:
        assert event.conn
        self.opens += 1
        self._open.add(event.conn.id)

    async def on_client_close(self, event: Event) -> None:
        assert event.conn
        self.closes += 1
        self.unpaired += event.conn.id not in self._open
        self._open.discard(event.conn.id)
        self.codes[f"{event.conn.path} {event.code}"] += 1

    async def on_message(self, event: Event) -> Any:
        if "report" in event.data:
            event.connections = []
            await asyncio.sleep(0)  # what ended in this turn is counted
            self._report(event)
        elif event.conn is not None:
            event.connections = [event.conn]
            if isinstance(event.message, str) and event.message.startswith("!"):
                return await obey(event, *event.message[1:].split())
        return None

    def _report(self, event: Event) -> None:
        facts = {
            "tasks": len(asyncio.all_tasks()),
            "open": len(event.gateway.connections),
            "handshakes": self.handshakes,
            "opens": self.opens,
            "closes": self.closes,
            "unpaired": self.unpaired,
            "codes": self.codes,
        }
        Path("report.json").write_text(json.dumps(facts))


ERRORS = {
    "ValueError": ValueError("boom"),
    "SystemExit": SystemExit(3),
    "CancelledError": asyncio.CancelledError(),
    "ExceptionGroup": ExceptionGroup("several", [ValueError("boom"), OSError("bang")]),
}


async def obey(event: Event, command: str, argument: str = "") -> Any:
    """Do what a hook should not."""
    if command == "raise":
        raise ERRORS[argument]
    if command == "return":
        return object()
    if command == "forever":
        await asyncio.Event().wait()
    elif command == "later":
        await asyncio.sleep(float(argument))  # as long as the client has asked for
    elif command == "block":
        time.sleep(float(argument))  # the mistake that is tested
    elif command == "stop":
        await event.gateway.stop()
    elif command == "restart":
        await event.gateway.restart()
    return None
