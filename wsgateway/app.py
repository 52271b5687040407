"""The application for `uvicorn wsgateway.app:app`: a gateway made from `WSGATEWAY_…` variables and the settings file.

The settings are read when the server starts, not when this module is imported.
"""

import os
import sys

from starlette.types import ASGIApp, Receive, Scope, Send

from wsgateway.config.exposure import outside_of_command
from wsgateway.config.sources import load
from wsgateway.exceptions import ConfigError
from wsgateway.gateway.gateway import Gateway
from wsgateway.logs import limit_repeats, log_to_terminal, logger, mask_queries
from wsgateway.server.takeover import offer_plain


class Application:
    """An ASGI application that makes its gateway at the first event."""

    def __init__(self) -> None:
        self.gateway: Gateway | None = None

    def load(self) -> Gateway:
        """Make the gateway. Raise `ConfigError`."""
        is_inside = outside_of_command(sys.argv, os.environ) is None  # the settings do not know where the server binds
        loaded = load(defaults={"local_access": is_inside}, environ=os.environ, flags={})
        if not logger.hasHandlers():
            log_to_terminal()
        for warning in loaded.warnings:
            logger.warning("%s", warning)
        mask_queries()
        limit_repeats()
        self.gateway = Gateway(settings=loaded.settings)
        return self.gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway: ASGIApp
        try:
            gateway = self.gateway or self.load()
        except ConfigError as exc:
            if scope["type"] != "lifespan":
                raise
            await receive()
            await send({"type": "lifespan.startup.failed", "message": f"the settings cannot be used:\n{exc}"})
            return
        if scope["type"] == "websocket":
            offer_plain(scope, send)
        await gateway(scope, receive, send)


app = Application()
