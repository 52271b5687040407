"""Paths of requests below a mount point, a prefix that a proxy removes, or both."""

from typing import Any

import pytest

from wsgateway.gateway.http.paths import relative_path, relative_scope, sender_of, way_up


def scope(path: str, root: str = "", raw: str | None = None) -> dict[str, Any]:
    return {"path": path, "root_path": root, "raw_path": None if raw is None else raw.encode()}


@pytest.mark.parametrize(
    ("path", "root", "relative"),
    [
        ("/ws", "", "/ws"),
        ("/", "", "/"),
        ("/live/ws/", "/live", "/ws"),
        ("/live", "/live/", "/"),
        ("/liver/ws", "/live", "/liver/ws"),
        ("/ws/", "/live", "/ws"),
    ],
)
def test_a_path_is_relative_to_the_mount_point(path: str, root: str, relative: str) -> None:
    assert relative_path(scope(path, root)) == relative


def test_a_relative_scope_has_no_mount_point_and_leaves_the_original_unchanged() -> None:
    original = scope("/live/ws", "/live", "/live/ws")
    assert relative_scope(original) == scope("/ws", "", "/live/ws")
    assert original["root_path"] == "/live"


@pytest.mark.parametrize(
    ("path", "root", "raw", "way"),
    [
        ("/live/", "/live", "/live/", "."),
        ("/live/log", "/live", "/live/log", "."),
        ("/live/gateways/chat", "/live", "/live/gateways/chat", ".."),
        ("/live", "/live", "/live", "./live"),
        ("/a b/log", "/a b", "/a%20b/log", "."),
        ("/live/a b/c", "/live", "/live/a%20b/c", ".."),
        ("/log", "", None, "."),
    ],
)
def test_a_page_finds_the_mount_point_by_relative_links(path: str, root: str, raw: str | None, way: str) -> None:
    assert way_up(scope(path, root, raw)) == way


@pytest.mark.parametrize(
    ("client", "sender"),
    [(("::ffff:192.0.2.1", 5), "192.0.2.1"), (("", 0), "a Unix socket"), (None, "a Unix socket")],
)
def test_a_log_line_names_the_sender(client: tuple[str, int] | None, sender: str) -> None:
    assert sender_of({"client": client}) == sender
