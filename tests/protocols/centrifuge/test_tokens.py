"""Tokens of Centrifuge clients on a real server: what admits them, what refuses them, what expires, what renews."""

import time
from typing import Any

import pytest

from wsgateway import ExpireEvent, Gateway, Refused, SubscribeEvent
from wsgateway.protocols import expiry
from wsgateway.testing import SECRET, Client, serve, token

CHANNELS: Any = {"closed:*": {"history": 10, "presence": True}, "public:*": {"public": True}}


signed = token


def served(listener: object = None, **options: Any) -> Gateway:
    return Gateway(listener, protocols=["centrifuge"], channels=CHANNELS, token_secret=[SECRET], **options)


def soon(seconds: float = 100) -> float:
    return time.time() + seconds


async def connect(client: Client, **fields: Any) -> dict[str, Any]:
    await client.send_json({"id": 1, "connect": fields})
    reply: dict[str, Any] = await client.receive_json()
    return reply


def centrifuge(url: str, **claims: Any) -> Client:
    return Client(url, protocol="centrifuge", token=signed(**claims))


def raw(url: str) -> Client:
    return Client(url, "/connection/websocket")


# The connection


@pytest.mark.parametrize(
    ("claims", "code"),
    [({"exp": 1}, 109), ({"expire_at": 1}, 110), ({"channels": ["nowhere"]}, 102), (None, 101)],
    ids=str,
)
async def test_a_connect_without_a_valid_token_has_an_error(claims: dict[str, Any] | None, code: int) -> None:
    async with serve(served()) as url, raw(url) as client:
        fields = {} if claims is None else {"token": signed(sub="ann", **claims)}
        assert (await connect(client, **fields))["error"]["code"] == code


@pytest.mark.parametrize(
    "wrong",
    ["x", "a.b.c", "x" * 9000, token(sub="a")[:-8] + "AAAAAAAA", signed(channel="closed:1"),
     signed(nbf=4e9), signed(sub=5), signed(exp="9")],
    ids=["junk", "parts", "long", "key", "subscription", "early", "user", "text"],
)  # fmt: skip
async def test_a_bad_token_closes_the_client(wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serve(served()) as url, raw(url) as client:
        await client.send_json({"id": 1, "connect": {"token": wrong}})
        assert await client.closed() == (3500, "invalid token")
    assert wrong not in caplog.text


async def test_the_token_of_the_request_counts_if_the_command_has_none() -> None:
    gateway = served()
    headers = {"Authorization": f"Bearer {signed(sub='ann')}"}
    async with serve(gateway) as url:
        async with Client(url, "/connection/websocket", additional_headers=headers) as client:
            assert "connect" in await connect(client)
            assert [conn.user for conn in gateway.connections] == ["ann"]
            async with Client(url, "/connection/websocket", additional_headers=headers) as other:
                assert "connect" in await connect(other, token=signed(sub="bob"))
                assert {conn.user for conn in gateway.connections} == {"ann", "bob"}


async def test_without_keys_a_token_is_not_read() -> None:
    gateway = Gateway(protocols=["centrifuge"])
    async with serve(gateway) as url, Client(url, protocol="centrifuge", token="anything") as client:
        assert "expires" not in client.connected
        with pytest.raises(Refused, match="108"):
            await client.call("refresh", token="anything")


async def test_a_connection_is_renewed_by_a_token_of_the_same_user() -> None:
    gateway = served()
    async with serve(gateway) as url, centrifuge(url, sub="ann", exp=soon(50)) as client:
        assert (client.connected["expires"], client.connected["ttl"]) == (True, 50)
        with pytest.raises(Refused, match="107"):
            await client.call("refresh")
        with pytest.raises(Refused, match="110"):
            await client.call("refresh", token=signed(sub="ann", expire_at=1))
        result = await client.call("refresh", token=signed(sub="ann", exp=soon(90)))
        assert result == {"client": client.connected["client"], "expires": True, "ttl": 90}
        assert await client.call("refresh", token=signed(sub="ann")) == {"client": client.connected["client"]}
        (conn,) = gateway.connections
        assert conn.expires_at is None


@pytest.mark.parametrize(
    ("claims", "code"), [({"sub": "bob"}, 3500), ({"sub": "ann", "nbf": 1e11}, 3500), ({"sub": "ann", "exp": 1}, 3005)]
)
async def test_a_token_that_does_not_renew_closes_the_client(claims: dict[str, Any], code: int) -> None:
    async with serve(served()) as url, centrifuge(url, sub="ann", exp=soon()) as client:
        await client.send_json({"id": 9, "refresh": {"token": signed(**claims)}})
        assert (await client.closed())[0] == code


async def test_a_connection_that_is_not_renewed_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "GRACE", 0.1)
    async with serve(served(ping_interval=1)) as url, centrifuge(url, sub="ann", exp=soon(1)) as client:
        assert client.connected["ttl"] == 1
        assert await client.closed() == (3005, "connection expired")


async def test_the_hook_may_renew_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "GRACE", 0.1)

    class Renewing:
        async def on_expire(self, event: ExpireEvent) -> None:
            event.conn.expires_at = None
            await event.conn.send("renewed")

    async with serve(served(Renewing(), ping_interval=1)) as url, centrifuge(url, sub="ann", exp=soon(0.5)) as client:
        assert (await client.receive_json())["push"]["pub"]["data"] == "renewed"
        assert await client.call("ping") == {}


# Subscriptions


async def test_a_subscription_token_admits_its_client() -> None:
    async with serve(served()) as url, centrifuge(url, sub="ann", info={"n": 1}) as client:
        given = signed(sub="ann", channel="closed:1", exp=soon(60), info={"c": 2}, client=client.connected["client"])
        sub = await client.call("subscribe", channel="closed:1", token=given)
        assert (sub["expires"], sub["ttl"], sub["recoverable"]) == (True, 60, True)
        join = (await client.receive_json())["push"]["join"]["info"]
        ident = client.connected["client"]
        assert join == {"user": "ann", "client": ident, "conn_info": {"n": 1}, "chan_info": {"c": 2}}
        assert await client.call("sub_refresh", channel="closed:1", token=given) == {"expires": True, "ttl": 60}


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        (None, 103),
        ({"exp": 1}, 109),
        ({"expire_at": 1}, 110),
        ({"nbf": 1e11}, 103),
        ({"channel": "closed:2"}, None),
        ({"sub": "bob"}, None),
        ({"client": "another"}, None),
    ],
    ids=str,
)
async def test_a_wrong_subscription_token_is_refused(claims: dict[str, Any] | None, code: int | None) -> None:
    async with serve(served()) as url, centrifuge(url, sub="ann") as client:
        fields = {"channel": "closed:1"}
        if claims is not None:
            fields["token"] = signed(**{"sub": "ann", "channel": "closed:1", **claims})
        await client.send_json({"id": 9, "subscribe": fields})
        if code is None:
            assert await client.closed() == (3500, "invalid token")
        else:
            assert (await client.receive_json())["error"]["code"] == code


async def test_a_token_for_a_public_channel_has_to_be_valid() -> None:
    async with serve(served()) as url, centrifuge(url, sub="ann") as client:
        with pytest.raises(Refused, match="103"):
            await client.call("subscribe", channel="public:1", token="junk")
        await client.call("subscribe", channel="public:1")


async def test_the_listener_has_the_last_word() -> None:
    class Strict:
        async def on_subscribe(self, event: SubscribeEvent) -> None:
            if event.channel == "closed:1":
                raise Refused(403)
            event.info = {"instead of": event.info}

    async with serve(served(Strict())) as url, centrifuge(url, sub="ann", channels=["closed:*"]) as client:
        with pytest.raises(Refused, match="103"):
            await client.call("subscribe", channel="closed:1", token=signed(sub="ann", channel="closed:1"))
        await client.call("subscribe", channel="closed:2", token=signed(sub="ann", channel="closed:2", info=1))
        join = (await client.receive_json())["push"]["join"]["info"]
        assert join["chan_info"] == {"instead of": 1}


async def test_a_subscription_that_is_not_renewed_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "GRACE", 0.1)
    end = {"channel": "closed:1", "unsubscribe": {"code": 2501, "reason": "subscription expired"}}
    async with serve(served(ping_interval=1)) as url, centrifuge(url, sub="ann") as client:
        for _ in range(2):
            given = signed(sub="ann", channel="closed:1", exp=soon(0.5))
            await client.call("subscribe", channel="closed:1", token=given)
            assert "join" in (await client.receive_json())["push"]
            assert (await client.receive_json())["push"] == end
        given = signed(sub="ann", channel="closed:1", exp=soon(0.5))
        await client.call("subscribe", channel="closed:1", token=given)
        await client.call("sub_refresh", channel="closed:1", token=signed(sub="ann", channel="closed:1"))
        await client.call("unsubscribe", channel="closed:1")
        assert "join" in (await client.receive_json())["push"]


async def test_an_expired_renewal_ends_the_subscription_before_its_error() -> None:
    async with serve(served()) as url, centrifuge(url, sub="ann") as client:
        await client.call("subscribe", channel="closed:1", token=signed(sub="ann", channel="closed:1"))
        assert "join" in (await client.receive_json())["push"]
        fields = {"channel": "closed:1", "token": signed(sub="ann", channel="closed:1", exp=1)}
        await client.send_json({"id": 9, "sub_refresh": fields})
        assert (await client.receive_json())["push"]["unsubscribe"]["code"] == 2501
        assert (await client.receive_json())["error"]["code"] == 110
        for wrong, code in (({"channel": "closed:1"}, 107), (fields, 103), ({**fields, "type": 1}, 108)):
            with pytest.raises(Refused, match=str(code)):
                await client.call("sub_refresh", **wrong)


async def test_a_bad_renewal_closes_the_client() -> None:
    async with serve(served()) as url, centrifuge(url, sub="ann") as client:
        await client.call("subscribe", channel="closed:1", token=signed(sub="ann", channel="closed:1"))
        fields = {"channel": "closed:1", "token": signed(sub="bob", channel="closed:1")}
        await client.send_json({"id": 9, "sub_refresh": fields})
        assert await client.closed() == (3500, "invalid token")


async def test_a_subscription_of_the_server_that_expires_closes_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "GRACE", 0.1)
    async with serve(served(ping_interval=1)) as url, centrifuge(url, sub="ann", channels=["closed:1"]) as client:
        given = signed(sub="ann", channel="closed:1", exp=soon(0.5))
        await client.call("sub_refresh", channel="closed:1", token=given)
        assert await client.closed() == (3006, "subscription expired")


@pytest.mark.parametrize("exp", [1e300, 2**64, 2**32])
async def test_a_token_for_ages_has_the_largest_ttl(exp: float) -> None:
    async with serve(served()) as url, centrifuge(url, sub="ann", exp=exp) as client:
        assert client.connected["ttl"] == 2**31 - 1


async def test_a_subscription_that_has_ended_expires_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "GRACE", 0.1)
    gateway = served()
    async with serve(gateway) as url, centrifuge(url, sub="ann") as client:
        (conn,) = gateway.connections
        for channel, ended in (("closed:1", 2000), ("closed:2", 2500)):
            given = signed(sub="ann", channel=channel, exp=soon(0.2))
            await client.call("subscribe", channel=channel, token=given)
            await conn.unsubscribe(channel, ended)
            await conn.subscribe(channel)
        session: Any = conn._session
        assert session._expiries == {}
