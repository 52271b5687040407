"""Django Channels with channels_redis, its layer for several processes, on uvicorn. `BROKER` is Redis' URL."""

import os

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter
from django.conf import settings

LAYER = {
    "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",  # the faster of its two
    "CONFIG": {"hosts": [os.environ["BROKER"]]},
}
settings.configure(SECRET_KEY="benchmark", CHANNEL_LAYERS={"default": LAYER})
django.setup()


class Consumer(AsyncWebsocketConsumer):
    groups = ["all"]  # noqa: RUF012

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send("all", {"type": "pushed", "text": text_data})

    async def pushed(self, event: dict[str, str]) -> None:
        await self.send(text_data=event["text"])


app = ProtocolTypeRouter({"websocket": Consumer.as_asgi()})
