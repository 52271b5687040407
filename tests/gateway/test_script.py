"""`client.js` and its types, as a gateway serves them and as the command prints them."""

import re
from importlib.resources import files
from pathlib import Path

import httpx
import pytest

from tests.processes import run
from wsgateway import Gateway
from wsgateway.gateway.http.script import MEDIA_TYPES, SCRIPT, TYPES, script_text
from wsgateway.testing import serve

MAX_LINES = 330


@pytest.mark.parametrize("name", list(MEDIA_TYPES))
async def test_a_file_is_served_to_pages_of_any_origin_and_kept_until_it_changes(name: str) -> None:
    gateway = Gateway(test_page=False, api_key="k", allowed_origins=["https://a.test"])
    async with serve(gateway) as url:
        async with httpx.AsyncClient(base_url=url, headers={"origin": "https://b.test"}) as http:
            answer = await http.get(f"/{name}")
            assert answer.status_code == 200
            assert answer.text == script_text(name)
            assert answer.headers["content-type"] == MEDIA_TYPES[name]
            assert answer.headers["access-control-allow-origin"] == "*"
            assert answer.headers["cache-control"] == "no-cache"
            etag = answer.headers["etag"]
            for known in (etag, f'"other", W/{etag}', "*"):
                again = await http.get(f"/{name}", headers={"if-none-match": known})
                assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
            assert (await http.get(f"/{name}", headers={"if-none-match": '"other"'})).status_code == 200
            assert (await http.head(f"/{name}")).headers["content-length"] == str(len(answer.content))
            assert (await http.post(f"/{name}")).status_code == 405


def test_the_command_prints_the_script_and_its_types(tmp_path: Path) -> None:
    for options, name in (((), SCRIPT), (("--types",), TYPES)):
        printed = run("client-js", *options, cwd=tmp_path)
        assert (printed.returncode, printed.stdout) == (0, script_text(name))


def test_the_script_is_short_and_runs_no_text() -> None:
    text = script_text(SCRIPT)
    lines = text.splitlines()
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= 120
    assert text.isascii()  # so that it is right with whatever charset it is stored and served
    assert not re.search(r"\b(eval|innerHTML|outerHTML|document\.write|Function|import)\s*\(?", text.split("*/", 1)[1])


def body_of(interface: str) -> str:
    found = re.search(rf"interface {interface} {{\n(.*?)\n}}", script_text(TYPES), re.DOTALL)
    assert found
    return found[1]


def test_the_types_have_the_names_of_the_script() -> None:
    script, types = script_text(SCRIPT), script_text(TYPES)
    exported = r"^export (?:async )?(?:function|class|const) (\w+)"
    assert set(re.findall(exported, script, re.MULTILINE)) == set(re.findall(exported, types, re.MULTILINE))
    members = r"^  (?:readonly )?(\w+)[<(:?]"
    live, room = (set(re.findall(members, body_of(name), re.MULTILINE)) for name in ("Live", "Room"))
    assert set(re.findall(r"const live = { (channel), (send), (request), (close): ", script)[0]) == live - {"on"}
    assert set(re.findall(r"const api = { (name), (members): .*, (publish), (unsubscribe) }", script)[0]) == room - {
        "on"
    }
    events = set(re.findall(members, body_of("ChannelEvents"), re.MULTILINE))
    told = set(re.findall(r'tell\((?:joined \? )?"(\w+)"', script)) | {"left"}
    assert told == events
    states = set(re.findall(r'emit\("status", "(\w+)"', script))
    assert states == set(re.findall(r'"(\w+)"', types[types.index("type Status") :]))
    details = set(re.findall(members, body_of("MessageDetails"), re.MULTILINE))
    assert details == set(re.findall(r"\w+", script.split('"message"), {', 1)[1].split("}", 1)[0]))


def test_the_files_are_in_the_package() -> None:
    folder = files("wsgateway.gateway.http") / "scripts"
    assert {each.name for each in folder.iterdir()} == set(MEDIA_TYPES)
