"""The plain protocol: each WebSocket message is one message of the application, in both directions.

It has no envelope and no commands, so `Session.received` handles what arrives without a function of this module. Knows
neither sockets nor ASGI.
"""

from wsgateway.protocols.session import Session
from wsgateway.transports.peer import ClientTransport


async def connect(session: Session, transport: ClientTransport) -> None:
    """Call `on_handshake`, accept the client, make it a recipient, and call `on_client_open`. Raise `Refused`.

    May return while the connection is still open.
    """
    subprotocol = await session.handshake()
    if await transport.accept(subprotocol):
        session.open()
        await transport.run()
