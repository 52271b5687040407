"""A client that sends without end, and may read nothing."""

import anyio

from tests.raw import Raw, masked

SENT = {
    "pings": masked(0x89, b"x" * 125),
    "pongs": masked(0x8A, b"x" * 125),
    "messages": masked(0x81, b"x" * 125),
    "fragments": masked(0x01, b"x" * 60) + masked(0x80, b"x" * 60),
}
MUCH = 30_000_000


async def send_until_cut_off(raw: Raw, data: bytes, *, most: int = MUCH) -> None:
    """Send `data` again and again, reading nothing. Ends when the server ends the connection, or with `most` bytes."""
    block = data * (64_000 // len(data))
    with anyio.fail_after(30):
        try:
            for _ in range(most // len(block)):
                await raw.stream.send(block)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return


async def read_to_the_end(raw: Raw) -> bytes:
    found = b""
    with anyio.fail_after(30):
        try:
            while True:
                found += await raw.receive_some()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return found
