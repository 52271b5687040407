"""Paths of requests below a mount point, a prefix that a proxy removes, or both."""

from typing import Any

import pytest

from wsgateway.gateway.http.paths import escaped_path, relative_path, relative_scope, sender_of, unescaped, way_up


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
    ("raw", "root", "path", "up"),
    [
        ("/", "", "/", "."),
        ("/log", "", "/log", "."),
        ("/gateways/chat/settings", "", "/gateways/chat/edit", "../.."),
        ("/live/", "/live", "/live/", "."),
        ("/live/log", "/live", "/live/log", "."),
        ("/live/gateways/chat", "/live", "/live/gateways/chat", ".."),
        ("/live", "/live", "/live", "./live"),
        ("/live//", "/live", "/live//", ".."),
        ("//", "", "//", ".."),
        ("/a/b", "/a/b", "/a/b", "./b"),
        ("/a:b", "/a:b", "/a:b", "./a:b"),
        ("/caf%C3%A9", "/café", "/café", "./caf%C3%A9"),
        ("/caf%C3%A9/log", "/café", "/café/log", "."),
        ("/caf%25C3%25A9/log", "/caf%C3%A9", "/caf%C3%A9/log", "."),
        ("/a%20b/gateways/a%2Fb", "/a b", "/a b/gateways/a/b", ".."),
        ("/live/log/log", "/live/log", "/live/log/log", "."),
        ("/live/", "", "/", "."),  # Litestar
        ("/live", "", "/", "./live"),
        ("/live/log", "", "/log/", "."),
        ("/a%20b/log", "/a b", "/a b/log", "."),
        ("/live/a%20b/c", "/live", "/live/a b/c", ".."),
        (None, "", "/log", "."),
    ],
)
def test_the_way_up_leads_from_the_page_to_the_mount(raw: str | None, root: str, path: str, up: str) -> None:
    original = scope(path, root, raw)
    assert way_up(original) == up
    assert way_up({**original, "path": relative_path(original), "root_path": ""}) == up


@pytest.mark.parametrize(
    ("client", "sender"),
    [(("::ffff:192.0.2.1", 5), "192.0.2.1"), (("", 0), "a Unix socket"), (None, "a Unix socket")],
)
def test_a_log_line_names_the_sender(client: tuple[str, int] | None, sender: str) -> None:
    assert sender_of({"client": client}) == sender


@pytest.mark.parametrize(
    ("raw", "path", "escaped"),
    [
        ("/channels/a/history", "/channels/a/history", "/channels/a/history"),
        ("/channels/a%2Fb/history", "/channels/a/b/history", "/channels/a%2Fb/history"),
        ("/channels/a%2fb%2F/history", "/channels/a/b//history", "/channels/a%2Fb%2F/history"),
        ("/live/channels/a%2Fb/history/", "/channels/a/b/history", "/channels/a%2Fb/history"),
        ("/channels/a%252Fb", "/channels/a%2Fb", "/channels/a%252Fb"),
        ("/channels/..", "/channels/..", "/channels/.."),
        ("/%D0%BA/%FF", "/к/\ufffd", "/к/\ufffd"),
        ("/elsewhere", "/channels/a/b", "/channels/a/b"),
        (None, "/channels/ü%/b", "/channels/ü%25/b"),
        ("/", "/", "/"),
    ],
)
def test_a_slash_that_the_client_encoded_is_not_one_of_the_path(raw: str | None, path: str, escaped: str) -> None:
    assert escaped_path(scope(path, "", raw)) == escaped
    assert unescaped(escaped.rpartition("/")[2]) in path


def test_a_path_of_many_slashes_takes_no_time_of_its_own() -> None:
    path = "/" * 200_000
    assert escaped_path(scope(path, "", path)) == path
