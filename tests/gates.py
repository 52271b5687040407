"""What lets a `tests.gated` listener go on. A module of its own: the listener's is loaded anew."""

import asyncio

GATES: dict[str, asyncio.Event] = {}
