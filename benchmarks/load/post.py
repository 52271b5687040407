"""`POST /send` as fast as eight connections can, one request after the other on each; prints requests per second."""

import asyncio
import sys
import time

BODY = b'{"message":"hello"}'


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


async def main(port: int) -> None:
    await post(port, 200)
    began = time.perf_counter()
    await asyncio.gather(*(post(port, 1000) for _ in range(8)))
    print(8000 / (time.perf_counter() - began))


asyncio.run(main(int(sys.argv[1])))
