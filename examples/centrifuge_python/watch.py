"""A watcher: prints the newest temperature of each sensor, then each new one. It reconnects by itself."""

import argparse
import asyncio
import sys

from centrifuge import (
    Client,
    ClientEventHandler,
    ErrorContext,
    PublicationContext,
    SubscribedContext,
    SubscriptionEventHandler,
)


class Events(ClientEventHandler):
    async def on_error(self, ctx: ErrorContext) -> None:
        print(f"not connected: {ctx.error}", file=sys.stderr)  # the SDK tries again


class Temperatures(SubscriptionEventHandler):
    def __init__(self) -> None:
        self.readings: asyncio.Queue[str] = asyncio.Queue()

    async def on_subscribed(self, ctx: SubscribedContext) -> None:
        if ctx.was_recovering:
            print("connected again", flush=True)

    async def on_publication(self, ctx: PublicationContext) -> None:
        self.readings.put_nowait(f"{ctx.pub.data['sensor']}: {ctx.pub.data['celsius']} °C")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:10131")
    parser.add_argument("--count", type=int, default=0, help="how many to print; 0, the default, means until Ctrl-C")
    options = parser.parse_args()

    address = f"{options.url.rstrip('/').replace('http', 'ws', 1)}/live/connection/websocket"
    client, temperatures = Client(address, Events(), name="watcher"), Temperatures()
    await client.connect()
    await client.new_subscription("temperatures", temperatures).subscribe()
    printed = 0
    while not options.count or printed < options.count:
        print(await temperatures.readings.get(), flush=True)
        printed += 1
    await client.disconnect()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
