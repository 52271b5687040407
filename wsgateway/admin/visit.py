"""One request to a page of the panel: its login, access, and form, and the ways to answer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from wsgateway.admin.logins import Login
from wsgateway.auth.admin import Access


@dataclass(frozen=True, slots=True)
class Visit:
    """One request. The panel adds `access`, then `form`, as soon as it has checked them."""

    request: Request
    login: Login
    has_new_login: bool
    """Whether the request came without a valid login. A login that ends during the request is not renewed."""
    asks_for_password: bool
    render: Callable[["Visit", str, int, dict[str, Any]], Response]
    access: Access = Access.NONE
    form: dict[str, list[str]] = field(default_factory=dict, repr=False)  # a password may be in it

    @property
    def base(self) -> str:
        """The path of the panel relative to this page, without a slash at its end."""
        base: str = self.request.scope["wsgateway.base"]
        return base

    @property
    def cookie(self) -> str:
        """The name of the session's cookie."""
        name: str = self.request.scope["wsgateway.cookie"]
        return name

    @property
    def here(self) -> str:
        """This page, relative to `base`."""
        query = self.request.url.query
        return "." + quote(self.request.scope["path"]) + (f"?{query}" if query else "")

    def page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        return self.render(self, template, status, values)

    def redirect(self, path: str) -> Response:
        """Return the answer to a form, which leads to the page `path`."""
        return RedirectResponse(f"{self.base}{path}", 303)

    def field(self, name: str) -> str:
        """Return the last value of `name` in the form; empty without one."""
        return self.form.get(name, [""])[-1]

    def fields(self) -> dict[str, str]:
        """Return the last value of each name in the form."""
        return {name: values[-1] for name, values in self.form.items()}
