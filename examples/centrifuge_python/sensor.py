"""A sensor: reports a temperature as often as the server asks for one."""

import argparse
import asyncio
import json
import random
import sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from centrifuge import (
    CentrifugeError,
    Client,
    ClientEventHandler,
    DisconnectedContext,
    ErrorContext,
    UnauthorizedError,
)


class Events(ClientEventHandler):
    async def on_error(self, ctx: ErrorContext) -> None:
        print(f"not connected: {ctx.error}", file=sys.stderr)  # the SDK tries again

    async def on_disconnected(self, ctx: DisconnectedContext) -> None:
        if ctx.code:  # 0: this program has disconnected
            print(f"disconnected: {ctx.reason}", file=sys.stderr)


def fetch_token(url: str, name: str, password: str) -> str:
    body = json.dumps({"name": name, "password": password}).encode()
    request = Request(f"{url}/token", body, {"content-type": "application/json"})
    try:
        with urlopen(request, timeout=5) as answer:
            return str(json.load(answer))
    except HTTPError as exc:
        with exc:
            if exc.code == 401:
                print("wrong name or password", file=sys.stderr)
                raise UnauthorizedError from None  # the SDK does not try again
        raise


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="kitchen")
    parser.add_argument("password", nargs="?", default="kettle")
    parser.add_argument("--url", default="http://127.0.0.1:10131")
    parser.add_argument("--count", type=int, default=0, help="how often to report; 0, the default, means until Ctrl-C")
    options = parser.parse_args()
    url: str = options.url.rstrip("/")

    async def get_token() -> str:
        """Return a token. The SDK calls this before it connects, and before the token expires."""
        return await asyncio.to_thread(fetch_token, url, options.name, options.password)

    address = f"{url.replace('http', 'ws', 1)}/live/connection/websocket"
    client = Client(address, Events(), get_token=get_token, name="sensor")
    await client.connect()
    celsius, reported = 20.0, 0
    while not options.count or reported < options.count:
        celsius = round(celsius + random.uniform(-0.5, 0.5), 1)
        try:
            answer = await client.rpc("report", celsius)
        except CentrifugeError as exc:  # as while the connection is lost
            if client.state.value == "disconnected":
                sys.exit(f"{url}: {exc or type(exc).__name__}")
            print(f"not reported: {exc or type(exc).__name__}", file=sys.stderr)
            await asyncio.sleep(1)
            continue
        reported += 1
        print(f"reported {celsius}", flush=True)
        await asyncio.sleep(answer.data["seconds"])
    await client.disconnect()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
