"""The undocumented attributes of uvicorn's protocols that this room requires."""

import functools

import uvicorn

from wsgateway.logs import logger

NEEDED_HTTP = (
    "app_state",
    "config",
    "connections",
    "cycle",
    "data_received",
    "_unset_keepalive_if_required",
    "client",
    "eof_received",
    "flow",
    "handle_websocket_upgrade",
    "headers",
    "loop",
    "on_body",
    "on_header",
    "on_headers_complete",
    "on_message_begin",
    "on_message_complete",
    "on_response_complete",
    "on_url",
    "parser",
    "pause_writing",
    "pipeline",
    "resume_writing",
    "scope",
    "send_400_response",
    "server",
    "server_state",
    "shutdown",
    "timeout_keep_alive",
    "timeout_keep_alive_handler",
    "timeout_keep_alive_task",
    "transport",
    "ws_protocol_class",
)
"""Attributes of uvicorn's HTTP protocol that `HttpProtocol` uses or overrides."""

NEEDED_WEBSOCKET = ("close_timer", "conn", "connections", "loop", "request", "response", "stop_keepalive", "transport")
"""Attributes of uvicorn's WebSocket protocol that taking over its socket requires."""

NEEDED_STREAM = (
    "chunked_encoding",
    "disconnected",
    "message_event",
    "more_body",
    "on_response",
    "response_complete",
    "response_started",
    "scope",
    "transport",
)
"""Attributes of the cycle of uvicorn's HTTP protocol that taking over the socket of a stream requires."""

NEEDED_DIRECT_HTTP = ("app", "asgi_version", "root_path", "scheme", "tasks")
"""Attributes of uvicorn's HTTP protocol that a direct handshake requires, besides `NEEDED_HTTP`."""

NEEDED_DIRECT_WEBSOCKET = (*NEEDED_WEBSOCKET, "app", "queue", "scope")
"""Attributes of uvicorn's WebSocket protocol that a direct handshake requires, because it may need that protocol."""


def missing_of(protocol: object, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of `names` that are not attributes of uvicorn's `protocol`."""
    return tuple(name for name in names if not hasattr(protocol, name))


@functools.cache
def warn_once(missing: str, protocol: str, consequence: str) -> None:
    """Warn once that uvicorn's `protocol` has no attribute `missing`, with the consequence."""
    logger.warning(
        "uvicorn %s has no %s in its %s protocol: %s; install a version of uvicorn that wsgateway knows, or a newer "
        "wsgateway",
        uvicorn.__version__,
        missing,
        protocol,
        consequence,
    )
