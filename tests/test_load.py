"""A thousand clients on the plain ASGI path, with the `websockets` client, which nobody here wrote."""

import subprocess
import sys
from pathlib import Path

import anyio
import httpx

from tests.ports import free_port
from tests.processes import environment
from tests.test_app import command
from wsgateway.testing import Client


async def test_a_thousand_clients_receive_a_hundred_broadcasts_each_in_order(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = command(port, "--log-level", "warning")
    async with await anyio.open_process(
        argv, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=sys.stderr
    ) as process:
        received: dict[int, list[str | bytes]] = {}
        connected = anyio.Event()

        async def client(number: int) -> None:
            async with Client(url, compression=None) as one:
                received[number] = []
                if len(received) == 1000:
                    connected.set()
                while len(received[number]) < 100:
                    with anyio.fail_after(60):
                        received[number].append(await one.socket.recv())

        async with httpx.AsyncClient(timeout=60) as http:
            with anyio.fail_after(20):
                while True:
                    try:
                        await http.get(url + "/ready")
                        break
                    except httpx.ConnectError:
                        await anyio.sleep(0.05)  # between two tries of what another process opens
            with anyio.fail_after(150):
                async with anyio.create_task_group() as tasks:
                    for number in range(1000):
                        tasks.start_soon(client, number)
                        if number % 50 == 49:
                            with anyio.fail_after(30):
                                while len(received) <= number - 49:
                                    await anyio.sleep(0.01)  # the list reports nothing
                    await connected.wait()
                    for number in range(100):
                        answer = await http.post(url + "/send", json={"message": str(number)})
                        assert answer.json() == {
                            "id": "default",
                            "recipients": 1000,
                            "queued": 1000,
                            "dropped": 0,
                            "at": None,
                            "is_new": True,
                        }
        expected = [str(number) for number in range(100)]
        assert len(received) == 1000
        assert all(messages == expected for messages in received.values())
        process.terminate()
        with anyio.fail_after(30):
            await process.wait()
