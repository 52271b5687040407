"""Tokens of clients, on both transports: how they arrive, how a client without a valid one is refused, and renewal."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import httpx
import jwt
import pytest
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin, Subprotocol

from tests.keys import SECRET, Issuer
from tests.leftovers import assert_nothing_is_left
from tests.servers import OwnServer, PlainUvicorn, Serve
from tests.test_channels import V1
from wsgateway import Event, Gateway, HandshakeEvent, MessageEvent, Refused, SubscribeEvent
from wsgateway.closing import EXPIRED, UNAUTHORIZED
from wsgateway.protocols import expiry
from wsgateway.testing import Client, RecordingListener

pytestmark = pytest.mark.parametrize("server", [OwnServer(), PlainUvicorn()], ids=lambda server: server.name)

CHANNELS: Any = {"room:*": {"history": 10, "clients": ["subscribe", "publish"], "presence": True}, "user:*": {}}


class Listener(RecordingListener):
    """Records the token and the claims of each client."""

    async def on_handshake(self, event: HandshakeEvent) -> None:
        self.record("on_handshake", (event.token, dict(event.claims), event.conn.user, event.conn.user_id))

    async def on_client_open(self, event: Event) -> None:
        assert event.conn is not None
        self.record("on_client_open", (event.conn.user, event.conn.user_id, event.conn.expires_at, event.conn.channels))

    async def on_message(self, event: MessageEvent) -> None:
        self.record("on_message", event.message)
        event.message = None


@asynccontextmanager
async def served(server: Serve, listener: object = None, **options: Any) -> AsyncIterator[tuple[Gateway, str]]:
    options = {"token_secret": SECRET, "channels": CHANNELS, **options}
    gateway = Gateway(listener=listener, **options)
    async with server(gateway) as url:
        yield gateway, url
    assert_nothing_is_left(gateway)


def signed(secret: str, **claims: Any) -> str:
    return jwt.encode(claims, secret)


def valid(**claims: Any) -> str:
    return signed(SECRET, **{"sub": "42", **claims})


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


async def refusal(url: str, **options: Any) -> tuple[int, str]:
    """Return the status and the challenge of a refused handshake."""
    with pytest.raises(InvalidStatus) as error:
        async with Client(url, **options):
            pass
    return error.value.response.status_code, error.value.response.headers.get("www-authenticate", "")


BAD = {
    "garbage": "garbage",
    "signature": signed("another secret of more than 32 bytes", sub="42"),
    "user": signed(SECRET, sub=42),
    "not yet": signed(SECRET, sub="42", nbf=time.time() + 1000),
    "text": signed(SECRET, sub="42", exp="2000000000"),
    "channel": signed(SECRET, sub="42", channel="room:1"),
}
LONG = signed(SECRET, sub="42", x="x" * 9000)
"""Other servers refuse a header of this length."""

OLD = {"exp": signed(SECRET, sub="42", exp=1), "expire_at": signed(SECRET, sub="42", expire_at=1)}


# How a token arrives


async def test_in_the_header_of_a_program(server: Serve) -> None:
    listener, text = Listener(), valid(exp=2e9, role="admin")
    async with served(server, listener) as (_, url):
        async with Client(url, additional_headers=bearer(text)) as client:
            await listener.wait_for("on_client_open")
            await client.send("hi")
            await listener.wait_for("on_message")
    claims = {"sub": "42", "exp": 2e9, "role": "admin"}
    assert listener.events[:2] == [
        ("on_handshake", (text, claims, "42", "42")),
        ("on_client_open", ("42", "42", 2e9, ())),
    ]


async def test_among_the_subprotocols_of_a_page(server: Serve) -> None:
    async with served(server) as (gateway, url):
        offered = [Subprotocol("bearer"), Subprotocol(valid())]
        async with Client(url, origin=Origin(url), subprotocols=offered) as client:
            assert client.socket.subprotocol == "bearer"
            assert [conn.user for conn in gateway.connections] == ["42"]
        offered = [Subprotocol("wsgateway.v1"), *offered]
        async with Client(url, origin=Origin(url), subprotocols=offered) as client:
            assert client.socket.subprotocol == "wsgateway.v1"
            assert [conn.user for conn in gateway.connections] == ["42"]


async def test_in_a_cookie(server: Serve) -> None:
    async with served(server, token_cookie="session") as (gateway, url):
        for headers in ({"Cookie": f"a=b; session={valid()}"}, {"Cookie": f"session={valid()}", "Origin": url}):
            async with Client(url, additional_headers=headers):
                assert [conn.user for conn in gateway.connections] == ["42"]
        assert (await refusal(url, additional_headers={"Cookie": f"other={valid()}"}))[0] == 401


async def test_as_the_first_object(server: Serve) -> None:
    async with served(server) as (gateway, url), V1(url, "auth=first") as client:
        assert len(gateway.connections) == 0
        await client.tell(token=valid(exp=time.time() + 600))
        assert 595 <= (await client.receive_json())["expires"] <= 600
        assert [conn.user for conn in gateway.connections] == ["42"]


async def test_a_channel_that_no_token_names_is_refused_without_the_advice_to_open_it(
    server: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(server) as (_, url), V1(url, "auth=first") as client:
        await client.tell(token=valid(channels=["user:*"]))
        assert (await client.ask(subscribe="room:1", id=1))["status"] == 403
    assert "the token of the client does not name the channel; add it to the claim `channels`" in caplog.text


async def test_the_first_that_is_present_counts(server: Serve) -> None:
    async with served(server, token_cookie="session") as (gateway, url):
        everywhere: dict[str, Any] = {"subprotocols": [Subprotocol("bearer"), Subprotocol(valid(sub="offered"))]}
        headers = {**bearer(valid(sub="header")), "Cookie": f"session={valid(sub='cookie')}"}
        async with Client(url, additional_headers=headers, **everywhere):
            assert [conn.user for conn in gateway.connections] == ["header"]
        async with Client(url, additional_headers={"Cookie": headers["Cookie"]}, **everywhere):
            assert [conn.user for conn in gateway.connections] == ["offered"]
        async with V1(url, "auth=first", additional_headers=headers) as client:
            await client.tell(token=valid(sub="object", exp=2e9))
            await client.receive()
            assert [conn.user for conn in gateway.connections] == ["object"]
        # a wrong one is not made good by another
        assert (await refusal(url, additional_headers={**headers, **bearer("garbage")}))[0] == 401


async def test_another_scheme_is_not_a_token(server: Serve) -> None:
    async with served(server, anonymous=True) as (gateway, url):
        async with Client(url, additional_headers={"Authorization": "Basic YTpi"}):
            assert [(conn.user, conn.user_id) for conn in gateway.connections] == [("", "")]


async def test_without_a_key_nothing_is_checked_and_a_token_grants_nothing(server: Serve) -> None:
    listener = Listener()
    async with served(server, listener, token_secret=(), token_cookie="session") as (_, url):
        for options in (
            {"additional_headers": bearer("garbage")},
            {"subprotocols": [Subprotocol("bearer"), Subprotocol("garbage")]},
            {"additional_headers": {"Cookie": "session=garbage"}},
        ):
            async with Client(url, **options):
                pass
        text = valid(channels=["room:1", "room:*"])
        async with V1(url, additional_headers=bearer(text)) as client:
            assert (await client.ask(subscribe="room:1"))["status"] == 403
    handshakes = [value for name, value in listener.events if name == "on_handshake"]
    assert handshakes == [*[("garbage", {}, None, "")] * 3, (text, {}, None, "")]


# Refusals


@pytest.mark.parametrize("subprotocols", [None, [Subprotocol("wsgateway.v1")]])
async def test_a_program_is_refused_with_401(server: Serve, subprotocols: Any) -> None:
    listener = Listener()
    async with served(server, listener) as (_, url):
        assert await refusal(url, subprotocols=subprotocols) == (401, "Bearer")
        for text in [*BAD.values(), *OLD.values()]:
            status, challenge = await refusal(url, subprotocols=subprotocols, additional_headers=bearer(text))
            assert status == 401
            assert challenge.startswith('Bearer error="invalid_token"')
    assert listener.events == []  # a bad token does not reach the listener


@pytest.mark.parametrize("protocol", [[], [Subprotocol("wsgateway.v1")]])
async def test_a_page_is_closed_with_3500(server: Serve, protocol: list[Subprotocol]) -> None:
    listener = Listener()
    async with served(server, listener) as (_, url):

        async def closed(*offered: Subprotocol) -> tuple[int | None, str | None]:
            async with Client(url, origin=Origin(url), subprotocols=[*protocol, *offered] or None) as client:
                return await client.closed()

        assert await closed() == (UNAUTHORIZED, "token required")
        for text in BAD.values():
            assert await closed(Subprotocol("bearer"), Subprotocol(text)) == (UNAUTHORIZED, "invalid token")
        for text in OLD.values():
            assert await closed(Subprotocol("bearer"), Subprotocol(text)) == (UNAUTHORIZED, "token expired")
    assert listener.events == []


@pytest.mark.parametrize("origin", [True, False])
async def test_a_first_object_without_a_valid_token_is_closed_with_3500(server: Serve, origin: bool) -> None:
    async with served(server) as (_, url):
        for text, reason in (
            (BAD["signature"], "invalid token"),
            (OLD["exp"], "token expired"),
            ("", "token required"),
        ):
            options = {"origin": Origin(url)} if origin else {}
            async with V1(url, "auth=first", **options) as client:
                answer = await client.ask(token=text)
                assert (answer["refused"], answer["status"], answer["reason"]) == (None, 401, reason)
                assert await client.closed() == (UNAUTHORIZED, reason)


@pytest.mark.parametrize("path", ["/sse", "/stream"])
async def test_a_stream_is_refused_with_401(server: Serve, path: str) -> None:
    async with served(server) as (gateway, url), httpx.AsyncClient(base_url=url) as http:
        for headers in ({}, {"Origin": url}):
            answer = await http.get(path, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert answer.json()["detail"].startswith("token required, send one")
            for text in [*BAD.values(), *OLD.values()]:
                answer = await http.get(path, headers={**bearer(text), **headers})
                assert answer.status_code == 401
                assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        async with http.stream("GET", path, headers=bearer(valid())) as stream:
            assert stream.status_code == 200
            assert [conn.user for conn in gateway.connections] == ["42"]


async def test_anonymous_clients_are_let_in_but_never_a_wrong_token(server: Serve) -> None:
    async with served(server, anonymous=True) as (gateway, url):
        async with Client(url):
            assert [(conn.user, conn.user_id, conn.expires_at) for conn in gateway.connections] == [("", "", None)]
        async with V1(url, "auth=first&channel=room:1") as client:
            assert (await client.ask(token=""))["status"] == 403
        assert (await refusal(url, additional_headers=bearer(BAD["signature"])))[0] == 401
        assert (await refusal(url, additional_headers=bearer(OLD["exp"])))[0] == 401


async def test_the_listener_has_the_last_word(server: Serve) -> None:
    class Strict(Listener):
        async def on_handshake(self, event: HandshakeEvent) -> None:
            if event.claims["role"] == "banned":
                raise Refused(403, "not you")
            event.conn.user = event.claims["role"]

    async with served(server, Strict()) as (gateway, url):
        assert (await refusal(url, additional_headers=bearer(valid(role="banned"))))[0] == 403
        async with Client(url, additional_headers=bearer(valid(role="admin"))):
            assert [(conn.user, conn.user_id) for conn in gateway.connections] == [("admin", "admin")]


async def test_an_object_of_the_application_may_stand_for_the_user(server: Serve) -> None:
    class Objects(Listener):
        async def on_handshake(self, event: HandshakeEvent) -> None:
            event.conn.user = {"name": event.conn.user}

    async with served(server, Objects()) as (gateway, url), Client(url, additional_headers=bearer(valid())):
        assert [(conn.user, conn.user_id) for conn in gateway.connections] == [({"name": "42"}, "42")]


# Channels


async def test_the_channels_of_a_token_are_subscribed_and_let_in(server: Serve) -> None:
    text = valid(channels=["user:42", "room:*"], subs={"room:9": {"info": {"name": "Ann"}, "data": [1]}}, info="conn")
    async with served(server) as (_, url):
        async with V1(url, "channel=room:1", additional_headers=bearer(text)) as client:
            assert (await client.receive_json())["subscribed"] == "user:42"
            subscribed = await client.receive_json()
            assert (subscribed["subscribed"], subscribed["reply"]) == ("room:9", [1])
            joined = (await client.receive_json())["joined"]
            assert (joined["user"], joined["info"], joined["conn_info"]) == ("42", {"name": "Ann"}, "conn")
            assert (await client.subscribed("room:1"))["subscribed"] == "room:1"
            await client.tell(subscribe="room:2")
            assert (await client.subscribed("room:2"))["subscribed"] == "room:2"
            await client.tell(subscribe="user:43", id=5)
            with pytest.raises(Refused):
                await client.subscribed("user:43")


async def test_a_plain_client_has_the_channels_of_its_token(server: Serve) -> None:
    async with served(server) as (gateway, url):
        text = valid(channels=["user:42", "room:*"])
        async with Client(url, "/ws?channel=room:1", additional_headers=bearer(text)) as client:
            assert [conn.channels for conn in gateway.connections] == [("user:42", "room:1")]
            await gateway.publish("hi", channel="user:42")
            assert await client.receive() == "hi"
        assert (await refusal(url, path="/ws?channel=user:9", additional_headers=bearer(text)))[0] == 403


async def test_on_subscribe_may_refuse_what_a_token_admits(server: Serve) -> None:
    class Rooms(Listener):
        async def on_subscribe(self, event: SubscribeEvent) -> None:
            if event.channel == "room:2":
                raise Refused(403, "full")

    async with served(server, Rooms()) as (_, url):
        text = valid(channels=["room:*"])
        async with V1(url, "channel=room:1", additional_headers=bearer(text)) as client:
            await client.subscribed("room:1")
            await client.tell(subscribe="room:2")
            with pytest.raises(Refused):
                await client.subscribed("room:2")


@pytest.mark.parametrize(("channels", "status"), [(["nowhere"], 404), ([" "], 400), (["room:1"] * 9, 101)])
async def test_channels_that_cannot_be(server: Serve, channels: list[str], status: int) -> None:
    async with served(server, max_channels=8) as (_, url):
        headers = bearer(valid(channels=channels))
        if status != 101:
            assert (await refusal(url, additional_headers=headers))[0] == status
        else:
            async with Client(url, additional_headers=headers):
                pass
        many = bearer(valid(channels=[f"room:{number}" for number in range(9)]))
        assert (await refusal(url, additional_headers=many))[0] == 403


# Renewal and expiry


async def test_a_client_renews_its_token(server: Serve) -> None:
    async with served(server) as (gateway, url):
        async with V1(url, additional_headers=bearer(valid(exp=time.time() + 60))) as client:
            assert (await client.receive_json())["expires"] <= 60
            answer = await client.ask(token=valid(exp=time.time() + 600, channels=["room:*"]), id=7)
            assert answer["id"] == 7
            assert 595 <= answer["expires"] <= 600
            assert [(conn.expires_at or 0) > time.time() + 500 for conn in gateway.connections] == [True]
            await client.tell(subscribe="room:1")
            await client.subscribed("room:1")
            assert (await client.receive_json())["joined"]["user"] == "42"
            assert await client.ask(token=valid(expire_at=0)) == {"expires": None}
            assert [conn.expires_at for conn in gateway.connections] == [None]


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        (BAD["signature"], UNAUTHORIZED, "invalid token"),
        (signed(SECRET, sub="43"), UNAUTHORIZED, "invalid token"),
        (signed(SECRET), UNAUTHORIZED, "invalid token"),
        (OLD["exp"], EXPIRED, "connection expired"),
        (OLD["expire_at"], EXPIRED, "connection expired"),
    ],
    ids=["signature", "another user", "no user", "exp", "expire_at"],
)
async def test_a_new_token_that_is_not_valid(server: Serve, text: str, code: int, reason: str) -> None:
    listener = Listener()
    async with served(server, listener) as (_, url):
        async with V1(url, additional_headers=bearer(valid())) as client:
            await client.tell(token=text)
            assert await client.closed() == (code, reason)
        await listener.wait_for("on_client_close")
        assert listener.events[-1] == ("on_client_close", code)


async def test_code_renews_a_connection(server: Serve) -> None:
    class Renewing(Listener):
        async def on_message(self, event: MessageEvent) -> None:
            assert event.conn is not None
            event.message, event.connections = str(await event.conn.refresh(event.message)), [event.conn]

    async with served(server, Renewing()) as (gateway, url):
        async with Client(url, additional_headers=bearer(valid(exp=time.time() + 60))) as client:
            await client.send(valid(exp=2e9))
            assert await client.receive() == "True"
            assert [conn.expires_at for conn in gateway.connections] == [2e9]
            await client.send(valid(sub="43"))
            assert await client.closed() == (UNAUTHORIZED, "invalid token")


async def test_a_connection_expires(server: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "GRACE", 0.2)

    class Expiring(Listener):
        async def on_expire(self, event: Event) -> None:
            self.record("on_expire", event.conn.user_id)  # type: ignore[union-attr]  # the event has a connection

    listener = Expiring()
    async with served(server, listener, pong_timeout=0.5) as (_, url):
        async with Client(url, additional_headers=bearer(valid(exp=time.time() + 0.5))) as client:
            assert await client.closed() == (EXPIRED, "connection expired")
        await listener.wait_for("on_client_close")
    assert [event for event in listener.events if event[0] in ("on_expire", "on_client_close")] == [
        ("on_expire", "42"),
        ("on_client_close", EXPIRED),
    ]


async def test_the_server_renews_a_connection_that_expires(server: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "GRACE", 0.2)

    class Renewing(Listener):
        def on_expire(self, event: Event) -> None:  # in a thread
            assert event.conn is not None
            self.events.append(("on_expire", None))
            event.conn.expires_at = time.time() + 0.2 if len(self.events) < 6 else None

    listener = Renewing()
    async with served(server, listener, pong_timeout=0.5) as (gateway, url):
        async with V1(url, additional_headers=bearer(valid(exp=time.time() + 0.3))) as client:
            with anyio.fail_after(20):
                while (await client.receive_json())["expires"] is not None:
                    pass
            assert [conn.expires_at for conn in gateway.connections] == [None]
            await client.tell(message="still open")
            await listener.wait_for("on_message")


async def test_the_listener_may_let_any_connection_expire(server: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "GRACE", 0.1)

    class Limited(Listener):
        async def on_handshake(self, event: HandshakeEvent) -> None:
            event.conn.expires_at = time.time() + 0.1
            with pytest.raises(ValueError, match="expires_at"):
                event.conn.expires_at = "soon"  # type: ignore[assignment]
            with pytest.raises(RuntimeError, match="not open yet"):
                await event.conn.refresh("x")

    async with served(server, Limited(), token_secret=(), pong_timeout=0.5) as (_, url), Client(url) as client:
        assert await client.closed() == (EXPIRED, "connection expired")


# Keys of a key set


async def test_tokens_are_checked_with_a_key_set(server: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.gateway.test_jwks import web_server

    issuer, other = Issuer(), Issuer()
    documents: dict[str, Any] = {"/jwks": issuer.key_set()}
    with web_server(documents) as source:
        async with served(server, token_jwks=f"{source}/jwks") as (gateway, url):
            async with Client(url, additional_headers=bearer(issuer.token(sub="ann"))):
                assert [conn.user for conn in gateway.connections] == ["ann"]
            assert (await refusal(url, additional_headers=bearer(other.token(sub="ann"))))[0] == 401
            issuer.rotate()
            documents["/jwks"] = issuer.key_set()
            async with Client(url, additional_headers=bearer(issuer.token(sub="bob"))):
                assert [conn.user for conn in gateway.connections] == ["bob"]
            async with Client(url, additional_headers=bearer(valid())):  # the secret still counts
                assert [conn.user for conn in gateway.connections] == ["42"]


async def test_without_keys_a_client_may_try_again(server: Serve) -> None:
    issuer = Issuer()
    options: dict[str, Any] = {"token_secret": (), "token_jwks": "http://127.0.0.1:9/jwks", "handshake_timeout": 0.3}
    async with served(server, **options) as (_, url):
        assert (await refusal(url, additional_headers=bearer(issuer.token(sub="ann"))))[0] == 503
        assert (await refusal(url, additional_headers=bearer("garbage")))[0] == 401
        async with V1(url, "auth=first", origin=Origin(url)) as client:
            assert (await client.ask(token=issuer.token(sub="ann")))["status"] == 503
            assert (await client.closed())[0] == 1013


# Secrecy


async def test_a_token_is_in_no_line_of_the_log(server: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    texts = [*BAD.values(), *OLD.values(), valid(exp=2e9), valid(channels=["nowhere"])]
    listener = Listener()
    shown: list[str] = []
    async with served(server, listener, verbose=True, token_cookie="session") as (gateway, url):
        async with httpx.AsyncClient(base_url=url) as http:
            for text in texts:
                for path in ("/sse", "/stream"):
                    async with http.stream("GET", path, headers=bearer(text)):
                        pass
        for text in texts:
            for options in (
                {"additional_headers": bearer(text)},
                {"additional_headers": {"Cookie": f"session={text}"}},
                {"subprotocols": [Subprotocol("bearer"), Subprotocol(text)], "origin": Origin(url)},
            ):
                with suppress(Exception):  # it is refused, or too long for the client's own limits
                    async with Client(url, **options):
                        shown += [repr(conn) for conn in gateway.connections]
            async with V1(url, "auth=first") as client:
                await client.tell(token=text)
                await client.tell(token=text)
                await client.tell(token=text, since=["x"])
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("wsgateway")]
    assert len(lines) > 10
    ours = "\n".join([*lines, *shown])
    for text in texts:
        assert text not in ours
        assert len(text) < 20 or text[-20:] not in ours
