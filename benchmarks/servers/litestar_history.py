"""Litestar's channels plugin on uvicorn, whose memory backend keeps the newest 100 messages of the channel."""

from litestar import Litestar, WebSocket, websocket
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend


@websocket("/")
async def handler(socket: WebSocket, channels: ChannelsPlugin) -> None:
    await socket.accept()
    async with channels.start_subscription(["x"]) as subscriber:
        async with subscriber.run_in_background(socket.send_text):
            while True:
                channels.publish(await socket.receive_text(), ["x"])


app = Litestar([handler], plugins=[ChannelsPlugin(backend=MemoryChannelsBackend(history=100), channels=["x"])])
