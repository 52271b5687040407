"""The admin panel on a real server, and a browser's way through its forms without a browser."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from wsgateway import Settings
from wsgateway.admin import AdminApp
from wsgateway.server.serving import serving
from wsgateway.supervisor.store import Store
from wsgateway.supervisor.supervisor import Supervisor

TOKEN = re.compile(r'name="csrf" value="([^"]+)"')


@asynccontextmanager
async def admin(folder: Path, text: str) -> AsyncIterator[tuple[Supervisor, str]]:
    """A supervisor of the settings `text`, and the URL of its admin port."""
    file = folder / "wsgateway.toml"
    file.write_text(text)
    async with Supervisor(Store(str(file))) as supervisor:
        app = AdminApp(supervisor, bound_host="127.0.0.1", folder=folder)
        async with serving(app, Settings(port=0)) as url:
            yield supervisor, url
            supervisor.end_streams()


class Visitor:
    """Asks for pages, and sends their forms back as a browser does."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, address: str = "127.0.0.1") -> None:
        way = httpx.AsyncHTTPTransport(local_address=address)
        self.http = httpx.AsyncClient(base_url=url, headers=headers, follow_redirects=True, transport=way, timeout=60)

    async def get(self, path: str) -> httpx.Response:
        return await self.http.get(path)

    async def submit(
        self, page: str, fields: Mapping[str, str | Sequence[str]], *, action: str | None = None
    ) -> httpx.Response:
        """Open `page`, then send `fields` with its token to `action`, by default the same path."""
        found = TOKEN.search((await self.get(page)).text)
        assert found, f"{page} has no form"
        return await self.http.post(action or page, data={"csrf": found[1], **fields})


@asynccontextmanager
async def visitor(
    url: str, headers: Mapping[str, str] | None = None, address: str = "127.0.0.1"
) -> AsyncIterator[Visitor]:
    """A browser on that address of this machine."""
    found = Visitor(url, headers, address)
    try:
        yield found
    finally:
        await found.http.aclose()
