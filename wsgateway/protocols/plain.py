"""The plain protocol: each text or binary message of a client is one message, as is each that is sent to it.

There is no envelope, so `Session.received` takes what arrives as it is. Knows neither sockets nor ASGI.
"""

from wsgateway.protocols.session import Session
from wsgateway.transports.peer import ClientTransport


async def connect(session: Session, transport: ClientTransport) -> None:
    """Take a client through its handshake: `on_handshake`, the accept, then `on_client_open`. Raise `Refused`.

    It may return before the connection has ended.
    """
    subprotocol = await session.handshake()
    if await transport.accept(subprotocol):
        session.open()
        await transport.run()
