"""What a request carried, as a connection gives it back."""

import pytest

from tests.connections import unconnected
from wsgateway import Connection, Gateway
from wsgateway.hub.request import Headers, compact, cookies_of, headers_of, subprotocols_of

HEAD = [(b"Host", b"localhost"), (b"X-A", b"1"), (b"x-a", b"2"), (b"Cookie", b'n="a\\054b"'), (b"cookie", b"m=2")]


async def connection(query: bytes = b"") -> Connection:
    return unconnected(Gateway(), headers=HEAD, query_string=query)[0]


def test_headers_have_names_in_any_case_and_repeated_ones_are_joined() -> None:
    headers = headers_of(compact(HEAD))
    assert headers["HOST"] == "localhost"
    assert headers["x-A"] == "1, 2"
    assert headers["cookie"] == 'n="a\\054b"; m=2'
    assert list(headers) == ["host", "x-a", "cookie"]
    assert "missing" not in headers


def test_the_repr_of_headers_shows_no_value() -> None:
    assert repr(Headers([(b"authorization", b"SECRET")])) == "Headers(['authorization'])"


def test_a_value_may_hold_colons_and_be_empty() -> None:
    assert dict(headers_of(compact([(b"a", b"b:c"), (b"d", b"")]))) == {"a": "b:c", "d": ""}


def test_quoted_cookies_are_decoded() -> None:
    assert cookies_of(compact(HEAD)) == {"n": "a,b", "m": "2"}


@pytest.mark.parametrize(("offered", "expected"), [(b"v1, v2 ,v3", ("v1", "v2", "v3")), (None, ())])
def test_subprotocols_in_their_order(offered: bytes | None, expected: tuple[str, ...]) -> None:
    head = [] if offered is None else [(b"Sec-WebSocket-Protocol", offered)]
    assert subprotocols_of(compact(head)) == expected


async def test_of_a_repeated_parameter_the_last_counts() -> None:
    conn = await connection(b"a=1&a=2&b=&c=x%20y")
    assert (conn.query["a"], conn.query["b"], conn.query.get("c"), conn.query.get("d")) == ("2", "", "x y", None)
    assert conn.query.getlist("a") == ["1", "2"]


async def test_state_has_items_and_attributes() -> None:
    conn = await connection()
    conn.state["room"] = 1
    conn.state.user = "Ann"
    assert (conn.state.room, conn.state["user"], len(conn.state)) == (1, "Ann", 2)
    conn.state = {"room": 2}
    assert (conn.state["room"], "user" in conn.state) == (2, False)
    with pytest.raises(AttributeError, match="missing"):
        _ = conn.state.missing
