"""Requests as the gateway sees them, wherever it is mounted: their paths, and who sent them."""

from starlette.types import Scope

from wsgateway.addresses import plain_address


def sender_of(scope: Scope) -> str:
    """Return the address of the client for a log line, as forwarded headers give it where they are believed."""
    client = scope.get("client")
    return plain_address(client[0]) if client and client[0] else "a Unix socket"


def relative_path(scope: Scope) -> str:
    """The path of a request below where the application is mounted, without a slash at its end.

    Starlette leaves the prefix in `path` and names it in `root_path`; Litestar takes it away and adds a slash.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return path.rstrip("/") or "/"


def relative_scope(scope: Scope) -> Scope:
    """`scope` with its path below where the application is mounted; `raw_path` is the whole one."""
    root: str = scope.get("root_path", "").rstrip("/")
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    if not raw.startswith(root.encode()):
        raw = root.encode() + raw
    return {**scope, "path": relative_path(scope), "root_path": "", "raw_path": raw}
