"""Litestar's channels plugin with its memory backend, on uvicorn."""

from litestar import Litestar, WebSocket, websocket
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend


@websocket("/")
async def handler(socket: WebSocket, channels: ChannelsPlugin) -> None:
    await socket.accept()
    async with channels.start_subscription(["all"]) as subscriber:
        async with subscriber.run_in_background(socket.send_text):
            while True:
                channels.publish(await socket.receive_text(), ["all"])


app = Litestar([handler], plugins=[ChannelsPlugin(backend=MemoryChannelsBackend(), channels=["all"])])
