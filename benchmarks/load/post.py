"""`POST /send` as fast as eight connections can, one request after the other on each; prints requests per second.

`post.py PORT [REQUESTS]`
"""

import asyncio
import sys
import time

BODY = b'{"message":"hello"}'
CONNECTIONS = 8


async def post(port: int, count: int) -> None:
    head = f"POST /send HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(count):
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in answer:
            raise RuntimeError(answer.decode())
        await reader.readexactly(int(answer.lower().split(b"content-length: ")[1].split(b"\r")[0]))
    writer.close()


async def main(port: int, requests: int) -> None:
    await post(port, 200)
    each = requests // CONNECTIONS
    began = time.perf_counter()
    await asyncio.gather(*(post(port, each) for _ in range(CONNECTIONS)))
    print(each * CONNECTIONS / (time.perf_counter() - began))


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 8000))
