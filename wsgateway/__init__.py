"""A WebSocket gateway for Python web applications.

It holds the connections, your listener chooses the recipients, and any program can push with `POST /send`.
"""

from wsgateway.config.settings import Settings
from wsgateway.exceptions import (
    ConfigError,
    GatewayError,
    GatewayNotFound,
    GatewayNotRunning,
    GatewayStopping,
    HookError,
    ListenerError,
    MessageError,
    Refused,
    SendError,
    StartError,
)
from wsgateway.gateway.gateway import Gateway
from wsgateway.gateway.registry import send_gateway_message
from wsgateway.hub.connection import Connection
from wsgateway.listeners.event import Event
from wsgateway.messages import Sent

__all__ = [
    "ConfigError",
    "Connection",
    "Event",
    "Gateway",
    "GatewayError",
    "GatewayNotFound",
    "GatewayNotRunning",
    "GatewayStopping",
    "HookError",
    "ListenerError",
    "MessageError",
    "Refused",
    "SendError",
    "Sent",
    "Settings",
    "StartError",
    "send_gateway_message",
]
