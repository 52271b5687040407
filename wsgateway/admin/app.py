"""The admin interface as one ASGI application: REST below `/api`, and the panel."""

from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from wsgateway.admin.api import Api
from wsgateway.admin.credentials import Credentials
from wsgateway.admin.panel import Panel
from wsgateway.supervisor.supervisor import Supervisor


class AdminApp:
    """The application of the admin port: REST below `/api`, and the panel for every other path."""

    def __init__(self, supervisor: Supervisor, *, bound_host: str | None = None, folder: Path | None = None) -> None:
        """`folder` contains the file with passwords."""
        credentials = Credentials(supervisor, folder=folder, bound_host=bound_host)
        self._panel = Panel(supervisor, credentials=credentials)
        self._api = Api(supervisor, credentials)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        app: ASGIApp = self._api if path == "/api" or path.startswith("/api/") else self._panel
        await app(scope, receive, send)
