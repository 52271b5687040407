"""The admin interface as one ASGI application: REST below `/api`, and the panel."""

from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from wsgateway.admin.panel import Panel
from wsgateway.admin.passwords import Passwords
from wsgateway.admin.rest import Api
from wsgateway.supervisor.supervisor import Supervisor


class AdminApp:
    """What the admin port serves: REST under `/api`, else the panel."""

    def __init__(self, supervisor: Supervisor, *, bound_host: str | None = None, folder: Path | None = None) -> None:
        """`folder` is where the file with passwords is looked for."""
        self._supervisor = supervisor
        self._folder = folder or Path()
        self._admin = supervisor.admin
        self._passwords = Passwords()
        self._passwords.use(self._admin, self._folder)
        self.panel = Panel(supervisor, passwords=self._passwords, bound_host=bound_host)
        self.api = Api(supervisor, bound_host=bound_host, has_password=self._passwords.is_set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._admin is not self._supervisor.admin:  # a reload has taken over other settings
            self._admin = self._supervisor.admin
            self._passwords.use(self._admin, self._folder)
        path: str = scope.get("path", "")
        app: ASGIApp = self.api if path == "/api" or path.startswith("/api/") else self.panel
        await app(scope, receive, send)
