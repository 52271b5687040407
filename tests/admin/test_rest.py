"""The REST interface: access, answers, and description."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import httpx
import pytest
from openapi_spec_validator import validate

from tests import processes
from tests.servers import free_socket
from wsgateway import Event, Gateway, Settings
from wsgateway.admin.api import Api
from wsgateway.admin.credentials import Credentials
from wsgateway.admin.handlers import Handlers
from wsgateway.admin.rest import OPERATIONS, Operation
from wsgateway.server.serving import serving
from wsgateway.supervisor.store import Store
from wsgateway.supervisor.supervisor import Supervisor
from wsgateway.testing import Client, serve

FILE = """\
[gateways.chat]
port = 0
api_key = ["very secret"]

[gateways.prices]
port = 0

[admin]
token = ["full"]
read_token = ["looking"]
listeners = ["tests.listeners.*"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "wsgateway.toml"
    file.write_text(FILE)
    return file


@pytest.fixture
async def supervisor(path: Path) -> AsyncIterator[Supervisor]:
    async with Supervisor(Store(str(path))) as found:
        yield found


@pytest.fixture
async def url(supervisor: Supervisor) -> AsyncIterator[str]:
    async with serving(Api(supervisor, Credentials(supervisor, bound_host="127.0.0.1")), Settings(port=0)) as found:
        yield found
        supervisor.end_streams()


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, headers={"authorization": "Bearer full"}, timeout=20) as client:
        yield client


def api_of(supervisor: Supervisor) -> Api:
    return Api(supervisor, Credentials(supervisor))


def path_of(operation: Operation) -> str:
    return operation.path.format(gateway_id="chat", connection_id="unknown", channel="room")


async def status_of(http: httpx.AsyncClient, operation: Operation, **headers: str) -> int:
    async with http.stream(operation.method, path_of(operation), headers=headers) as response:
        return response.status_code


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_every_operation_is_denied_by_default(operation: Operation, url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        assert await status_of(http, operation) == 401
        assert await status_of(http, operation, authorization="Bearer wrong") == 401
        assert await status_of(http, operation, authorization="Basic full") == 401
        assert await status_of(http, operation, authorization="Bearer full", origin="https://evil.example") == 403
        reading = await status_of(http, operation, authorization="Bearer looking")
        assert (reading == 403) == operation.writes
        full = await status_of(http, operation, authorization="Bearer full")
        assert full not in (401, 403)


async def test_an_operation_that_nobody_described_is_denied_too(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        assert (await http.put("/api/gateways")).status_code == 401
        assert (await http.put("/api/gateways", headers={"authorization": "Bearer full"})).status_code == 405
        assert (await http.get("/api/other", headers={"authorization": "Bearer full"})).status_code == 404


async def test_without_a_token_only_local_callers_that_ask_for_a_local_name(tmp_path: Path) -> None:
    file = tmp_path / "wsgateway.toml"
    file.write_text("[gateways]\n")
    async with Supervisor(Store(str(file))) as supervisor, serving(api_of(supervisor), Settings(port=0)) as url:
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.get("/api/gateways")).json() == {"gateways": []}
            for headers in (
                {"host": "attacker.example"},
                {"x-forwarded-for": "1.2.3.4"},
                {"origin": "http://evil.example"},
            ):
                assert (await http.get("/api/gateways", headers=headers)).status_code == 403


BODYLESS = [operation for operation in OPERATIONS if operation.writes and not operation.body]


@pytest.mark.parametrize("operation", BODYLESS, ids=lambda operation: operation.name)
async def test_a_page_of_another_port_manages_nothing(operation: Operation, tmp_path: Path) -> None:
    file = tmp_path / "wsgateway.toml"
    file.write_text("[gateways.chat]\nport = 0\n")
    async with Supervisor(Store(str(file))) as supervisor, serving(api_of(supervisor), Settings(port=0)) as url:
        async with httpx.AsyncClient(base_url=url) as http:
            for headers in (
                {"origin": "http://localhost:3000"},
                {"origin": "http://localhost:3000", "sec-fetch-site": "same-site"},
                {"origin": "null"},
                {"sec-fetch-site": "same-site"},
                {"sec-fetch-site": "cross-site", "content-type": "text/plain"},
            ):
                assert await status_of(http, operation, **headers) == 403
            assert supervisor.state("chat") == "running"


@pytest.mark.parametrize(
    "headers",
    [{}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}, {"content-type": "application/json"}],
    ids=["curl", "an own page", "the address bar", "a program"],
)
async def test_what_a_page_of_another_port_cannot_send_manages(headers: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "wsgateway.toml"
    file.write_text("[gateways.chat]\nport = 0\n")
    async with Supervisor(Store(str(file))) as supervisor, serving(api_of(supervisor), Settings(port=0)) as url:
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=90) as http:
            assert (await http.post("/api/gateways/chat/stop?wait=60")).status_code == 200
            assert (await http.delete("/api/gateways/chat?wait=60")).status_code == 204


@pytest.mark.parametrize(
    ("method", "where", "headers", "status", "told"),
    [
        ("GET", "/api/nowhere", {}, 404, "wrong-path"),
        ("GET", "/api/gateways/none", {}, 404, "unknown-gateway"),
        ("PUT", "/api/gateways", {}, 405, "wrong-method"),
        ("POST", "/api/gateways", {"content-type": "text/plain"}, 415, "bad-body"),
        ("GET", "/api/gateways/chat/connections?limit=x", {}, 422, "bad-body"),
        ("DELETE", "/api/gateways/chat/connections/none", {}, 404, "wrong-path"),
        ("GET", "/api/gateways", {"authorization": "Bearer x"}, 401, "[admin] token"),
        ("POST", "/api/drain", {"authorization": "Bearer looking"}, 403, "read-only"),
        ("POST", "/api/drain", {"origin": "http://localhost:3000"}, 403, "allowed_origins"),
    ],
)
async def test_every_refusal_is_a_warning_that_says_what_helps(
    method: str,
    where: str,
    headers: dict[str, str],
    status: int,
    told: str,
    http: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(3):
        assert (await http.request(method, where, headers=headers)).status_code == status
    lines = [record for record in caplog.records if "refused" in record.getMessage()]
    assert len(lines) in (1, 2)  # one a second
    assert lines[0].levelname == "WARNING"
    assert f"admin: refused {method} {where.partition('?')[0]} from 127.0.0.1: " in lines[0].getMessage()
    assert told in lines[0].getMessage()


async def test_a_read_only_token_stays_read_only_where_there_is_no_full_one(tmp_path: Path) -> None:
    file = tmp_path / "wsgateway.toml"
    file.write_text('[gateways.chat]\nport = 0\n[admin]\nread_token = ["looking"]\n')
    async with Supervisor(Store(str(file))) as supervisor, serving(api_of(supervisor), Settings(port=0)) as url:
        async with httpx.AsyncClient(base_url=url, headers={"authorization": "Bearer looking"}) as http:
            assert (await http.get("/api/gateways")).status_code == 200
            assert (await http.post("/api/gateways/chat/stop?wait=5")).status_code == 403
            assert supervisor.state("chat") == "running"


async def test_gateways_are_listed_and_shown_without_secrets(http: httpx.AsyncClient) -> None:
    listed = (await http.get("/api/gateways")).json()["gateways"]
    assert [(found["id"], found["state"], found["editable"]) for found in listed] == [
        ("chat", "running", True),
        ("prices", "running", True),
    ]
    response = await http.get("/api/gateways/CHAT")
    assert response.json()["settings"]["api_key"] == "***"
    assert "very secret" not in response.text
    assert (await http.get("/api/gateways/nobody")).json()["detail"] == (
        "there is no gateway with id [nobody], available are [chat, prices]"
    )


async def test_a_gateway_lives_from_create_to_delete(http: httpx.AsyncClient, path: Path) -> None:
    created = await http.post("/api/gateways?wait=10", json={"id": "game", "port": 0, "echo_sender": False})
    assert (created.status_code, created.json()["state"]) == (201, "running")
    assert "[gateways.game]" in path.read_text()
    async with Client(created.json()["url"]) as ann:
        found = (await http.get("/api/gateways/game/connections")).json()
        assert (found["total"], found["connections"][0]["path"]) == (1, "/ws")
        conn = found["connections"][0]["id"]
        sent = await http.post("/api/gateways/game/send", json={"message": {"a": 1}, "connections": [conn]})
        assert sent.json() == {"id": "game", "recipients": 1, "queued": 1, "dropped": 0, "at": None, "is_new": True}
        assert await ann.receive_json() == {"a": 1}
        shown = (await http.get(f"/api/gateways/game/connections/{conn}")).json()
        assert (shown["headers"]["sec-websocket-key"], shown["channels"]) == ("***", [])
        edited = await http.patch("/api/gateways/game?wait=10", json={"echo_sender": None, "hook_timeout": 3})
        assert (edited.json()["state"], edited.json()["settings"]["hook_timeout"]) == ("running", 3)
        assert edited.json()["settings"]["echo_sender"] is True
        assert (await ann.closed())[0] == 1012
    for action, state in (("stop", "stopped"), ("start", "running"), ("restart", "running")):
        answer = await http.post(f"/api/gateways/game/{action}", params={"wait": 10})
        assert (answer.status_code, answer.json()["state"]) == (200, state)
    assert (await http.delete("/api/gateways/game?wait=10")).status_code == 204
    assert (await http.get("/api/gateways/game")).status_code == 404
    assert "game" not in path.read_text()


async def test_without_wait_the_answer_names_what_to_watch(http: httpx.AsyncClient, supervisor: Supervisor) -> None:
    listener = Path(__file__).parent.parent / "slow_start.py"
    supervisor.admin = supervisor.admin.__class__(token=("full",), listeners=(f"{listener.parent}/slow_*.py",))
    answer = await http.post("/api/gateways", json={"id": "slow", "port": 0, "listener": str(listener)})
    assert (answer.status_code, answer.json()["state"]) == (202, "starting")
    with anyio.fail_after(10):
        while (await http.get("/api/gateways/slow")).json()["state"] != "running":
            await anyio.sleep(0.05)  # REST is asked, which answers immediately


async def test_a_start_that_fails_says_why(http: httpx.AsyncClient) -> None:
    with free_socket() as taken:
        taken.listen()
        port = taken.getsockname()[1]
        created = await http.post("/api/gateways?wait=10", json={"id": "late", "port": port})
        assert (created.status_code, created.json()["state"]) == (201, "failed")
        assert f"cannot listen on 127.0.0.1:{port}" in created.json()["failure"]
        again = await http.post("/api/gateways/late/start?wait=10")
        assert again.status_code == 409
        assert "is another server running there?" in again.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "id"),
        ({"id": "chat"}, 409, "already"),
        ({"id": "CHAT"}, 409, "already"),
        ({"id": "../x"}, 422, "is not an id"),
        ({"id": "x", "port": 70000}, 422, "from 0 to 65535"),
        ({"id": "x", "prot": 1}, 422, "no such setting"),
        ({"id": "x", "listener": "os:system"}, 403, "add it to listeners in [admin]"),
        ({"id": "x", "log_file": "/etc/passwd"}, 403, "file of the host"),
        ({"id": "x", "channels": {"room:*": {}}}, 403, "a table for each namespace, so it is only set in the settings"),
        ({"id": "x", "startup": "sometimes"}, 422, "is not one of automatic, manual, disabled"),
    ],
)
async def test_a_gateway_that_cannot_be_created(
    http: httpx.AsyncClient, path: Path, body: dict[str, Any], status: int, said: str
) -> None:
    answer = await http.post("/api/gateways", json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert said in answer.json()["detail"]
    assert path.read_text() == FILE


async def test_connections_are_paged_searched_and_closed(http: httpx.AsyncClient, supervisor: Supervisor) -> None:
    where = supervisor.find("prices").url
    async with Client(where, "/ws/a") as ann, Client(where, "/ws/b") as bob, Client(where, "/ws/a") as eve:
        base = "/api/gateways/prices/connections"
        assert (await http.get(base, params={"search": "/WS/A"})).json()["total"] == 2
        page = (await http.get(base, params={"offset": 1, "limit": 1})).json()
        assert (page["total"], [conn["path"] for conn in page["connections"]]) == (3, ["/ws/b"])
        for body in (
            {},
            {"all": False},
            {"user": ""},
            {"user": None},
            {"all": True, "user": "a"},
            {"all": True, "code": 1005},
            {"all": True, "code": True},
        ):
            assert (await http.post(base + "/close", json=body)).status_code == 422
        closed = await http.post(
            base + "/close", json={"connections": [page["connections"][0]["id"], "x"], "code": 4000, "reason": "bye"}
        )
        assert closed.json() == {"closed": 1, "complete": True}
        assert await bob.closed() == (4000, "bye")
        first = (await http.get(base)).json()["connections"][0]["id"]
        assert (await http.delete(f"{base}/{first}")).status_code == 204
        assert await ann.closed() == (1000, "")
        assert (await http.delete(f"{base}/{first}")).status_code == 404
        assert (await http.post(base + "/close", json={"all": True})).json() == {"closed": 1, "complete": True}
        assert await eve.closed() == (1000, "")


ROOMS = """
[gateways.rooms]
port = 0

[gateways.rooms.channels."room:*"]
public = true
history = 10
presence = true
"""


async def test_channels_are_listed_described_read_and_emptied(
    path: Path, http: httpx.AsyncClient, supervisor: Supervisor
) -> None:
    path.write_text(FILE + ROOMS)
    await supervisor.reload()
    await supervisor.start("rooms")
    base, name = "/api/gateways/rooms", "room:a/b%2F"
    channel = f"{base}/channels/{quote(name, safe='')}"
    async with Client(supervisor.find("rooms").url or "", f"/ws?channel={quote(name)}") as ann:
        for number in range(3):
            body = {"message": number, "channel": name, "idempotency_key": str(number // 2)}
            sent = (await http.post(base + "/send", json=body)).json()
        assert (sent["recipients"], sent["is_new"]) == (1, True)
        assert [await ann.receive(), await ann.receive()] == ["0", "2"]
        listed = (await http.get(base + "/channels", params={"prefix": "room:"})).json()
        assert [(one["name"], one["subscribers"], one["at"]) for one in listed["channels"]] == [(name, 1, sent["at"])]
        assert (await http.get(base + "/channels", params={"prefix": "x"})).json()["total"] == 0
        info = (await http.get(channel)).json()
        assert (info["name"], info["records"], info["settings"]["presence"]) == (name, 2, True)
        history = (await http.get(channel + "/history", params={"since": "", "limit": 1})).status_code
        assert history == 422
        read = (await http.get(channel + "/history", params={"reverse": "true", "limit": 1})).json()
        assert [one["message"] for one in read["publications"]] == [2]
        assert (await http.get(channel + "/presence")).json()["total"] == 1
        assert (await http.delete(channel + "/history")).status_code == 204
        assert (await http.get(channel + "/history")).json()["publications"] == []
        for wrong in ({}, {"user": ""}, {"all": True, "user": "a"}, {"connections": "a"}, {"all": True, "code": 1000}):
            assert (await http.post(channel + "/unsubscribe", json=wrong)).status_code == 422, wrong
        closed = await http.post(base + "/connections/close", json={"user": "nobody"})
        assert closed.json() == {"closed": 0, "complete": True}
        ended = await http.post(channel + "/unsubscribe", json={"all": True})
        assert ended.json() == {"unsubscribed": 1, "complete": True}
        assert (await http.get(channel)).json()["subscribers"] == 0
    for path_of_none in ("", "/history", "/presence"):
        answer = await http.get(f"{base}/channels/rom:1{path_of_none}")
        assert answer.status_code == 404
        assert 'did you mean "room:*"?' in answer.json()["detail"]
    assert (await http.post(base + "/send", json={"message": 1, "channel": "rom:1"})).status_code == 404
    assert (await http.post(base + "/send", json={"message": 1, "user": None})).status_code == 422


async def test_the_stream_tells_states_and_ends_with_the_server(
    http: httpx.AsyncClient, supervisor: Supervisor
) -> None:
    states: list[str] = []
    async with http.stream("GET", "/api/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                found = {item["id"]: item["state"] for item in json.loads(line[6:])["gateways"]}
                if not states:
                    supervisor.begin(supervisor.stop("chat"))
                states.append(found["chat"])
                if found["chat"] == "stopped":
                    supervisor.end_streams()
    assert states[0] == "running"
    assert states[-1] == "stopped"


async def test_a_reload_takes_over_the_file_its_tokens_too(http: httpx.AsyncClient, path: Path) -> None:
    path.write_text(
        FILE.replace('token = ["full"]', 'token = ["fresh"]').replace("[gateways.prices]", "[gateways.news]")
    )
    answer = await http.post("/api/reload?wait=10")
    assert [found["id"] for found in answer.json()["gateways"]] == ["chat", "news"]
    assert (await http.get("/api/gateways")).status_code == 401
    path.write_text("[gateways\nx = 1\n")
    headers = {"authorization": "Bearer fresh"}
    answer = await http.post("/api/reload?wait=10", headers=headers)
    assert answer.status_code == 422
    assert "line 1, column" in answer.json()["detail"]
    assert len((await http.get("/api/gateways", headers=headers)).json()["gateways"]) == 2


async def test_the_log_is_shown_by_gateway_and_level(http: httpx.AsyncClient, tmp_path: Path) -> None:
    gateway = Gateway(id="logged", log_file=str(tmp_path / "some.log"))
    await gateway.start()
    gateway.log.error("something\nwent wrong")
    await gateway.stop()
    lines = (await http.get("/api/log", params={"gateway": "LOGGED"})).json()["lines"]
    assert any("started" in line for line in lines)
    lines = (await http.get("/api/log", params={"gateway": "logged", "level": "error"})).json()["lines"]
    assert len(lines) == 1
    assert lines[0].endswith("[logged] something\\nwent wrong")
    assert (await http.get("/api/log", params={"lines": 0})).status_code == 422


async def test_the_description_is_valid_and_complete(http: httpx.AsyncClient) -> None:
    found = (await http.get("/api/openapi.json")).json()
    validate(found)
    described = {(method.upper(), path) for path, methods in found["paths"].items() for method in methods}
    assert described == {(operation.method, operation.path) for operation in OPERATIONS}


def test_schemathesis_finds_no_answer_that_is_not_described(tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_text(FILE)
    with free_socket() as probe:
        port = probe.getsockname()[1]
    with processes.serving("--admin-port", str(port), cwd=tmp_path, command=[*processes.COMMAND, "serve"]) as served:
        checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
        fuzzed = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/api/openapi.json"),
                *("--header", "Authorization: Bearer full", "--checks", checks, "--max-examples", "25"),
                *("--exclude-path", "/api/events", "--seed", "1", "--no-color", "--suppress-health-check", "all"),
                *("--phases", "examples,coverage,fuzzing"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert fuzzed.returncode == 0, fuzzed.stdout[-6000:] + fuzzed.stderr[-2000:]
        assert served.process.poll() is None


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_has_a_handler_of_its_name(operation: Operation) -> None:
    assert getattr(Handlers, operation.name) is operation.handler


class Holding:
    """A listener whose stop takes until `free` is set, and that keeps the data of the last message."""

    def __init__(self) -> None:
        self.free = anyio.Event()
        self.data: dict[str, Any] = {}

    async def on_message(self, event: Event) -> None:
        self.data = event.data

    async def on_client_close(self, event: Event) -> None:
        await self.free.wait()


async def post_to(gateway: Gateway, path: str, body: dict[str, Any]) -> httpx.Response:
    transport = httpx.ASGITransport(api_of(Supervisor(gateways=[gateway])))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        return await http.post(f"/api/gateways/default{path}", json=body)


async def test_a_push_to_a_gateway_that_is_stopping_is_503_and_may_be_tried_again() -> None:
    listener = Holding()
    gateway = Gateway(listener, local_access=True)
    async with serve(gateway) as url, Client(url), httpx.AsyncClient() as http, anyio.create_task_group() as tasks:
        tasks.start_soon(gateway.stop)
        with anyio.fail_after(10):
            while gateway.state != "stopping":
                await anyio.sleep(0.01)  # nothing reports a new state
        answers = [await post_to(gateway, "/send", {"message": "x"})]
        answers.append(await http.post(url + "/send", json={"message": "x"}))
        listener.free.set()
    for answer in answers:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_a_push_drops_the_keys_that_send_ignores() -> None:
    listener = Holding()
    gateway = Gateway(listener)
    async with gateway.lifespan():
        body = {"message": "x", "conn": 1, "action": 2, "webSocketServerAction": 3, "room": "a"}
        assert (await post_to(gateway, "/send", body)).status_code == 200
    assert listener.data == {"room": "a"}


async def test_a_body_that_is_too_large_names_no_setting_that_is_not_its_limit() -> None:
    gateway = Gateway()
    answer = await post_to(gateway, "/send", {"message": "x" * 1_048_577})
    assert answer.status_code == 413
    assert answer.json()["detail"] == "the body is larger than 1048576 bytes"
