"""The operations of the REST interface. This one table is the router, the rights, and the OpenAPI description."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import KW_ONLY, dataclass

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from wsgateway.admin.handlers import Handlers
from wsgateway.cluster.questions import ConnectionInfo
from wsgateway.gateway.shapes import (
    ChannelInfo,
    ChannelList,
    Closed,
    ConnectionList,
    Drained,
    GatewayInfo,
    GatewayList,
    HistoryAnswer,
    LogLines,
    NodeList,
    PresenceAnswer,
    SendAnswer,
    Unsubscribed,
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the interface: its route, the access that it requires, and its description."""

    method: str
    path: str
    handler: Callable[[Handlers, Request], Awaitable[Response]]
    summary: str
    answers: Mapping[int, type[Struct] | str | None]
    """The content of the response for each status: a shape as JSON, a media type, or None for an empty body."""
    errors: tuple[int, ...] = ()
    body: str = ""
    """The schema of the request's body, of `openapi.request_schemas`; empty without a body."""
    query: tuple[str, ...] = ()
    """The parameters of the query, of `openapi.PARAMETERS`."""
    _: KW_ONLY
    writes: bool = False
    """Whether it requires full access. Every operation requires access to read."""

    @property
    def name(self) -> str:
        return self.handler.__name__


ONE = "/api/gateways/{gateway_id}"
CLIENTS = ONE + "/connections"
CHANNEL = ONE + "/channels/{channel}"
CHANGED = {200: GatewayInfo, 202: GatewayInfo}

OPERATIONS = (
    Operation("GET", "/api/gateways", Handlers.list_gateways, "All gateways", {200: GatewayList}),
    Operation("POST", "/api/gateways", Handlers.create_gateway, "Create a gateway",
              {201: GatewayInfo, 202: GatewayInfo}, (400, 403, 408, 409, 413, 415, 422), "NewGateway", ("wait",),
              writes=True),
    Operation("GET", ONE, Handlers.show_gateway, "One gateway with its settings", {200: GatewayInfo}, (404,)),
    Operation("PATCH", ONE, Handlers.edit_gateway, "Change settings; null resets one to its default", CHANGED,
              (400, 403, 404, 408, 409, 413, 415, 422), "Changes", ("wait",), writes=True),
    Operation("DELETE", ONE, Handlers.delete_gateway, "Stop a gateway and delete it", {202: GatewayInfo, 204: None},
              (404, 409, 422), query=("wait",), writes=True),
    Operation("POST", ONE + "/start", Handlers.start_gateway, "Start", CHANGED,
              (404, 409, 422), query=("wait",), writes=True),
    Operation("POST", ONE + "/stop", Handlers.stop_gateway, "Stop", CHANGED,
              (404, 409, 422), query=("wait",), writes=True),
    Operation("POST", ONE + "/restart", Handlers.restart_gateway, "Restart", CHANGED,
              (404, 409, 422), query=("wait",), writes=True),
    Operation("POST", ONE + "/roll", Handlers.roll_gateway, "Replace the workers one after the other", CHANGED,
              (404, 409, 422), query=("wait",), writes=True),
    Operation("POST", "/api/reload", Handlers.reload, "Read the settings file again",
              {200: GatewayList, 202: GatewayList}, (409, 422), query=("wait",), writes=True),
    Operation("GET", ONE + "/nodes", Handlers.list_nodes, "The nodes of a gateway; none without a broker",
              {200: NodeList}, (404,)),
    Operation("POST", "/api/drain", Handlers.drain, "Refuse new clients, and close all connections over time",
              {200: Drained, 202: Drained}, (422,), query=("wait",), writes=True),
    Operation("GET", CLIENTS, Handlers.list_connections, "A page of the connections", {200: ConnectionList},
              (404, 422), query=("offset", "limit", "search")),
    Operation("GET", CLIENTS + "/{connection_id}", Handlers.show_connection, "One connection", {200: ConnectionInfo},
              (404, 503)),
    Operation("POST", CLIENTS + "/close", Handlers.close_connections, "Close connections, or all", {200: Closed},
              (400, 404, 408, 413, 415, 422, 503), "Close", writes=True),
    Operation("DELETE", CLIENTS + "/{connection_id}", Handlers.close_connection, "Close one connection", {204: None},
              (404, 503), writes=True),
    Operation("POST", ONE + "/send", Handlers.send, "Push a message", {200: SendAnswer},
              (400, 404, 408, 409, 413, 415, 422, 500, 503), "Message", writes=True),
    Operation("GET", ONE + "/channels", Handlers.list_channels, "A page of the channels", {200: ChannelList},
              (404, 422), query=("offset", "limit", "prefix")),
    Operation("GET", CHANNEL, Handlers.show_channel, "One channel with its settings", {200: ChannelInfo}, (404,)),
    Operation("GET", CHANNEL + "/history", Handlers.show_history, "Publications in the history of a channel",
              {200: HistoryAnswer}, (404, 422), query=("publications", "since", "reverse")),
    Operation("DELETE", CHANNEL + "/history", Handlers.forget_history, "Drop the history of a channel", {204: None},
              (404,), writes=True),
    Operation("GET", CHANNEL + "/presence", Handlers.show_presence, "A page of the members of a channel",
              {200: PresenceAnswer}, (404, 422), query=("offset", "limit")),
    Operation("POST", CHANNEL + "/unsubscribe", Handlers.unsubscribe, "End subscriptions to a channel",
              {200: Unsubscribed}, (400, 404, 408, 413, 415, 422), "Unsubscribe", writes=True),
    Operation("GET", "/api/log", Handlers.show_log, "The end of the log", {200: LogLines}, (422,),
              query=("lines", "gateway", "level")),
    Operation("GET", "/api/events", Handlers.events, "States and rates, as server-sent events",
              {200: "text/event-stream"}),
    Operation("GET", "/api/openapi.json", Handlers.description, "This description", {200: "application/json"}),
)  # fmt: skip
