"""Answers to queries of a Centrifuge client that reads slowly."""

import asyncio
import json
from typing import Any

from wsgateway import Gateway
from wsgateway.testing import Client, serve

CHANNELS: Any = {"room:*": {"public": True, "history": 1000}}
COUNT = 150


async def test_no_more_answers_are_made_than_the_outbox_has_space_for() -> None:
    gateway = Gateway(protocols=["plain", "centrifuge"], channels=CHANNELS, outbox_bytes=300_000, send_timeout=30)
    async with serve(gateway) as url, Client(url, protocol="centrifuge", max_queue=1, compression=None) as client:
        for number in range(1000):
            await gateway.publish(f"{number:0100}", channel="room:1")
        query = {"channel": "room:1", "limit": -1}
        await client.send("\n".join(json.dumps({"id": 1000 + each, "history": query}) for each in range(COUNT)))
        (conn,) = gateway.connections
        while not conn.queued_messages:
            await asyncio.sleep(0.01)  # nothing reports it
        await asyncio.sleep(0.2)  # so that more would have been made
        assert conn.queued_messages == 1
        for each in range(COUNT):
            reply = await client.receive_json()
            assert reply["id"] == 1000 + each
            assert len(reply["history"]["publications"]) == 1000
