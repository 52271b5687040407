"""What comes before a request is one, how many may come, and how often: limits that a raw socket meets."""

from collections.abc import Callable

import anyio
import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.raw import handshake
from tests.servers import OwnServer, PlainUvicorn, Serve
from wsgateway import Event, Gateway
from wsgateway.config.addresses import MAX_ADDRESS
from wsgateway.testing import Client, RecordingListener

own = OwnServer()


@pytest.fixture(params=[OwnServer(), PlainUvicorn()], ids=lambda serve: serve.name)
def serve(request: pytest.FixtureRequest) -> Serve:
    found: Serve = request.param
    return found


async def test_on_handshake_has_a_limit_of_its_own(serve: Serve) -> None:
    class Listener:
        async def on_handshake(self, event: Event) -> None:
            await anyio.sleep(60)  # longer than handshake_timeout

    async with serve(Gateway(Listener, handshake_timeout=0.2)) as url:
        with pytest.raises(InvalidStatus, match="503"):
            async with Client(url):
                pass


async def test_more_than_max_connections_are_503_with_a_retry_after(serve: Serve) -> None:
    gateway = Gateway(RecordingListener(), max_connections=2)
    async with serve(gateway) as url:
        async with Client(url), Client(url):
            with pytest.raises(InvalidStatus) as caught:
                async with Client(url):
                    pass
            assert caught.value.response.status_code == 503
            assert caught.value.response.headers["retry-after"] == "5"
            async with httpx.AsyncClient() as http:
                assert (await http.get(url + "/health")).status_code == 200
        await until(lambda: len(gateway.connections) == 0)
        async with Client(url) as ann:
            await ann.send("room again")
            assert await ann.receive() == "room again"


async def test_more_than_its_share_of_one_address_is_429(serve: Serve) -> None:
    async with serve(Gateway(max_connections_per_address=1)) as url, Client(url):
        with pytest.raises(InvalidStatus, match="429"):
            async with Client(url):
                pass


async def test_refusals_of_a_crowd_are_counted_each_and_logged_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    gateway = Gateway(max_connections=1)
    async with own(gateway) as url, Client(url):
        for _ in range(20):
            raw, _ = await handshake(url)
            await raw.stream.aclose()
    assert gateway.metrics.refusals["capacity"] == 20
    assert 1 <= sum("refused a handshake" in record.getMessage() for record in caplog.records) < 20


async def test_a_crowd_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with own(Gateway(max_connections=5)) as url:
        clients = [await handshake(url) for _ in range(5)]
        assert sum("max_connections" in record.getMessage() for record in caplog.records) == 1
        for raw, _ in clients:
            await raw.stream.aclose()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.01)  # nothing reports these figures


async def test_an_address_that_connects_too_often_is_429(serve: Serve) -> None:
    gateway = Gateway(connect_rate=0.001, connect_burst=3, local_access=True)
    async with serve(gateway) as url:
        for _ in range(3):
            async with Client(url):
                pass
        with pytest.raises(InvalidStatus, match="429"):
            await Client(url).__aenter__()
        assert gateway.metrics.refusals["connect_rate"] == 1
        async with httpx.AsyncClient() as http:
            assert (await http.get(url + "/health")).status_code == 200


async def test_of_an_address_that_a_header_claims_little_is_kept_and_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = Gateway(connect_rate=0.001, connect_burst=1, max_connections_per_address=5, api_key="key")
    claimed = {"X-Forwarded-For": "a" * 5000}
    async with serve(gateway) as url, Client(url, additional_headers=claimed), httpx.AsyncClient() as http:
        assert [len(conn.address) <= MAX_ADDRESS for conn in gateway.connections] == [True]
        with pytest.raises(InvalidStatus, match="429"):
            await Client(url, additional_headers=claimed).__aenter__()
        assert (await http.get(url + "/info", headers=claimed)).status_code == 401
    lines = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert len(lines) == 2
    assert max(map(len, lines)) < 400


async def test_a_key_that_is_used_too_often_is_429_and_others_are_not(serve: Serve) -> None:
    gateway = Gateway(api_key=["one", "other"], send_rate=0.001, send_burst=2)
    async with serve(gateway) as url, httpx.AsyncClient(base_url=url) as http:
        statuses = []
        for key in ("one", "one", "one", "one", "other", "wrong"):
            answer = await http.post("/send", json={"message": 1}, headers={"authorization": f"Bearer {key}"})
            statuses.append(answer.status_code)
            if answer.status_code == 429:
                assert answer.headers["retry-after"] == "1"
                assert "send_rate" in answer.json()["detail"]
        assert statuses == [200, 200, 429, 429, 200, 401]
        again = await http.post("/send", json={"message": 1}, headers={"authorization": "BEARER   one"})
        assert again.status_code == 429
