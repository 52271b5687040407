"""wsgateway: the listener answers each request with its content, and each message of a plain client with itself."""

from wsgateway import MessageEvent, RequestEvent


class Listener:
    async def on_message(self, event: MessageEvent) -> None:
        if event.conn is not None and not event.channel:
            event.connections = [event.conn]

    async def on_request(self, event: RequestEvent) -> None:
        event.reply = event.message
