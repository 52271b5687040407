"""The page about servers is true: its application runs on them. Its broker has a folder for each working folder."""

from pathlib import Path

import httpx
import pytest

from tests.samples import ROOT, run_sample
from tests.servers import Hypercorn, PlainUvicorn, Serve
from wsgateway.testing import Client

PAGE = "docs/how-to/servers.md"

NATIVE = {"ws": "wsgateway.server:WebSocketProtocol", "http": "wsgateway.server:HttpProtocol"}


@pytest.mark.parametrize("serve", [PlainUvicorn(**NATIVE), Hypercorn()], ids=["uvicorn", "hypercorn"])
async def test_the_application_runs_as_written(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = run_sample(PAGE, "chat.py")
    async with serve(module.app) as url, Client(url, "/live/ws") as ann, httpx.AsyncClient() as http:
        await ann.send("hi")
        assert await ann.receive() == "hi"
        assert (await http.post(url + "/live/send", json={"message": "pushed"})).json()["nodes"] == 1
        assert await ann.receive() == "pushed"


def test_the_options_of_uvicorn_name_the_protocols() -> None:
    options = f"--ws {NATIVE['ws']} --http {NATIVE['http']}"
    assert (ROOT / PAGE).read_text().count(options) == 2
