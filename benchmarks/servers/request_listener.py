"""wsgateway: the listener answers each request with its content, and each message of a plain client with the message."""

from wsgateway import MessageEvent, RequestEvent


class Listener:
    async def on_message(self, event: MessageEvent) -> None:
        if event.conn is not None and not event.channel:
            event.connections = [event.conn]

    async def on_request(self, event: RequestEvent) -> None:
        event.reply = event.message
