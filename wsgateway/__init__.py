"""A WebSocket gateway for Python web applications.

It holds the connections, your listener chooses the recipients, and any program can push with `POST /send`.
"""

from wsgateway.config.channels import ChannelOptions
from wsgateway.config.settings import Settings
from wsgateway.exceptions import (
    ChannelError,
    ConfigError,
    ConnectionClosed,
    GatewayError,
    GatewayNotFound,
    GatewayNotRunning,
    GatewayStopping,
    HistoryError,
    HookError,
    ListenerError,
    MessageError,
    Refused,
    RequestRefused,
    SendError,
    StartError,
)
from wsgateway.frames import Counts, History, Member, Presence, Publication
from wsgateway.gateway.gateway import Gateway
from wsgateway.gateway.registry import send_gateway_message
from wsgateway.hub.connection import Connection
from wsgateway.hub.target import EVERYBODY
from wsgateway.listeners.event import (
    ChannelEvent,
    CloseEvent,
    Event,
    ExpireEvent,
    HandshakeEvent,
    MessageEvent,
    OpenEvent,
    RequestEvent,
    SubscribeEvent,
    UnsubscribeEvent,
)
from wsgateway.messages import Sent, Subscribed

__all__ = [
    "EVERYBODY",
    "ChannelError",
    "ChannelEvent",
    "ChannelOptions",
    "CloseEvent",
    "ConfigError",
    "Connection",
    "ConnectionClosed",
    "Counts",
    "Event",
    "ExpireEvent",
    "Gateway",
    "GatewayError",
    "GatewayNotFound",
    "GatewayNotRunning",
    "GatewayStopping",
    "HandshakeEvent",
    "History",
    "HistoryError",
    "HookError",
    "ListenerError",
    "Member",
    "MessageError",
    "MessageEvent",
    "OpenEvent",
    "Presence",
    "Publication",
    "Refused",
    "RequestEvent",
    "RequestRefused",
    "SendError",
    "Sent",
    "Settings",
    "StartError",
    "SubscribeEvent",
    "Subscribed",
    "UnsubscribeEvent",
    "send_gateway_message",
]
