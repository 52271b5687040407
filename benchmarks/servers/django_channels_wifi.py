"""Django Channels with channels_redis, on uvicorn: clients enter the group of their URL, and publish to groups.

`BROKER` is Redis' URL.
"""

import json
import os

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

LAYER = {
    "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",  # the faster of its two
    "CONFIG": {"hosts": [os.environ["BROKER"]]},
}
settings.configure(SECRET_KEY="benchmark", CHANNEL_LAYERS={"default": LAYER})
django.setup()


class Consumer(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        self.group = self.scope["url_route"]["kwargs"]["group"]
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        await self.send(text_data="ready")

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        group, number = json.loads(text_data or "")
        await self.channel_layer.group_send(group, {"type": "pushed", "number": number})
        await self.send(text_data="done")

    async def pushed(self, event: dict[str, int]) -> None:
        await self.send(text_data=str(event["number"]))


app = ProtocolTypeRouter({"websocket": URLRouter([path("ws/<str:group>/", Consumer.as_asgi())])})
