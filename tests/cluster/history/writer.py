"""One process that appends to a history: python writer.py URL GATEWAY CHANNEL NUMBER RECORDS."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.cluster.history.stores import backend_at, entry  # the path is set before
from wsgateway.cluster.history.store import HistoryStore

KEYS = 10


async def main(url: str, gateway: str, channel: str, number: str, records: int) -> None:
    async with backend_at(url, gateway) as backend:
        await asyncio.gather(*[write(await backend.open(), channel, f"{number}.{each}", records) for each in range(2)])


async def write(store: HistoryStore, channel: str, name: str, records: int) -> None:
    futures = [
        store.append(entry(channel, f"key {index}".encode(), idempotency_key=str(index))) for index in range(KEYS)
    ]
    for index in range(records):
        futures.append(store.append(entry(channel, f"{name} {index}".encode())))
        await asyncio.sleep(0)  # so that the writers take turns
    await asyncio.gather(*futures)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])))
