"""Paths and senders of requests, wherever the gateway is mounted and whatever prefix a proxy has removed. Knows no
routes."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from starlette.types import Scope

from wsgateway.config.addresses import plain_address


def sender_of(scope: Mapping[str, Any]) -> str:
    """Return the address of the client for a log line, from forwarded headers if those are trusted."""
    client = scope.get("client")
    return plain_address(client[0]) if client and client[0] else "a Unix socket"


def relative_path(scope: Scope) -> str:
    """Return the path of a request relative to the mount point, without a slash at its end.

    Starlette leaves the prefix in `path` and names it in `root_path`; Litestar removes it and adds a slash.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return path.rstrip("/") or "/"


def relative_scope(scope: Scope) -> Scope:
    """Return `scope` with its path relative to the mount point; `raw_path` stays as the client sent it."""
    return {**scope, "path": relative_path(scope), "root_path": ""}


def escaped_path(scope: Scope) -> str:
    """Return the path of a request, in which a slash that the client encoded as `%2F` is not one of the path's own.

    In each of its segments, `%` is `%25` and `/` is `%2F`, which `unescaped` reverses; nothing else is encoded. So a
    router finds one segment where the client wrote one.
    """
    path: str = scope["path"]
    raw = scope["raw_path"].decode("latin-1") if scope.get("raw_path") else quote(path)
    segments: list[str] = []
    length = 0
    for segment in reversed(raw.split("/")):
        if length >= len(path):
            break
        segments.append(unquote(segment))
        length += 1 + len(segments[-1])
    segments.reverse()
    joined = "/" + "/".join(segments)
    if joined == path + "/":  # `relative_path` has removed the slash
        segments.pop()
    elif joined != path:  # a server that names a path of its own
        segments = path.split("/")[1:]
    return "".join(["/" + segment.replace("%", "%25").replace("/", "%2F") for segment in segments])


def unescaped(segment: str) -> str:
    """Return a segment of `escaped_path` as the client meant it."""
    return segment.replace("%2F", "/").replace("%25", "%")


def way_up(scope: Scope) -> str:
    """Return where the application is mounted, relative to the page that a browser asked for, without a final slash.

    `.` for `/live/` and `/live/log`, `..` for `/live/gateways/chat`, `./live` for `/live`. An absolute path would be
    wrong below a prefix that a proxy removes, because the server never sees it. The path is compared as the client
    encoded it, because `root_path` is decoded.
    """
    path = relative_path(scope).rstrip("/")
    raw = scope["raw_path"].decode("latin-1") if scope.get("raw_path") else quote(scope["path"])
    starts = [place for place, character in enumerate(raw) if character == "/"]
    below = next((raw[start:] for start in starts if unquote(raw[start:]).rstrip("/") == path), None)
    if below is None and path:  # a server that names a path of its own
        below = path
    if not below:
        return f"./{raw.rpartition('/')[2]}"
    return "/".join([".."] * (below.count("/") - 1)) or "."
