"""The plain protocol: each WebSocket message is one message of the application, in both directions.

It has no envelope and no commands, so `Session.received` handles what arrives without a function of this module. A
client names its channels in the URL. Knows neither sockets nor ASGI.
"""

from collections.abc import Mapping
from typing import Any

from wsgateway.listeners.handshake import bearer_of
from wsgateway.protocols.query import read_query
from wsgateway.protocols.session import Session
from wsgateway.transports.peer import ClientTransport


async def connect(session: Session, transport: ClientTransport, scope: Mapping[str, Any]) -> None:
    """Call `on_handshake`, accept the client, make it a recipient, and call `on_client_open`. Raise `Refused`.

    May return while the connection is still open.
    """
    conn = session.conn
    if conn.query_string:
        asked = read_query(conn.query.multi_items(), has_positions=False)
        session.name_target(asked)
        chosen = await session.handshake(scope, asked=asked)
    else:
        chosen = await session.handshake(scope)
    if await transport.accept(chosen.subprotocol or bearer_of(scope)):
        session.open()
        await transport.run()
