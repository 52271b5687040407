"""The gateway's own server, and the only room that knows uvicorn.

Without `wsgateway serve` it is used with
`uvicorn --ws wsgateway.server:WebSocketProtocol --http wsgateway.server:HttpProtocol`.
"""

from wsgateway.server.http import HttpProtocol
from wsgateway.server.websocket import WebSocketProtocol

__all__ = ["HttpProtocol", "WebSocketProtocol"]
