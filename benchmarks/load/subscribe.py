"""Subscribes and unsubscribes over `wsgateway.v1`, and prints the server's CPU in µs for each such pair as JSON.

Each connection sends some pairs at a time, and awaits their answers. Only the server's CPU is measured, so the speed of
Python does not matter.
"""

import argparse
import asyncio
import json

from fan import cpu_of

CONNECTIONS = 8
PAIRS = 25
"""Pairs that a connection has on the way, of two commands each."""


def frame(text: str) -> bytes:
    payload = text.encode()
    assert len(payload) < 126
    return bytes([0x81, 0x80 | len(payload)]) + b"\0\0\0\0" + payload  # a mask of zeros leaves the payload as it is


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
        self.reader = reader
        self.writer = writer
        self.commands = (frame(f'{{"subscribe":"{name}"}}') + frame(f'{{"unsubscribe":"{name}"}}')) * PAIRS

    async def run(self, times: int) -> None:
        for _ in range(times):
            self.writer.write(self.commands)
            answers = left = b""
            count = 0
            while count < 2 * PAIRS:
                answers = left + await self.reader.read(65536)
                count += answers.count(b'subscribed":')  # unsubscribed, too
                left = answers[-11:]  # shorter than what is counted
                if b'"refused"' in answers or len(answers) == len(left):
                    raise RuntimeError(f"refused: {answers!r}")


async def connected(options: argparse.Namespace, number: int) -> Client:
    reader, writer = await asyncio.open_connection("127.0.0.1", options.port)
    writer.write(
        f"GET /ws HTTP/1.1\r\nHost: localhost:{options.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Protocol: wsgateway.v1\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 101 " not in head or b"wsgateway.v1" not in head:
        raise RuntimeError(head.decode("latin-1"))
    return Client(reader, writer, options.channel.format(number))


async def run(options: argparse.Namespace) -> dict[str, float]:
    clients = [await connected(options, number) for number in range(CONNECTIONS)]
    times = max(1, options.pairs // CONNECTIONS // PAIRS)
    await asyncio.gather(*(client.run(10) for client in clients))
    before = cpu_of(options.pid)
    await asyncio.gather(*(client.run(times) for client in clients))
    used = cpu_of(options.pid) - before
    for client in clients:
        client.writer.close()
    return {"server_cpu_us_per_pair": used * 1e6 / (times * CONNECTIONS * PAIRS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid", type=int, required=True, help="the server")
    parser.add_argument("--channel", default="room:{}", help="the channel, where {} is the number of the connection")
    parser.add_argument("--pairs", type=int, default=10000)
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
