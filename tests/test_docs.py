"""The documentation is true: its code runs on a real server, its links and the anchors of refusals are there."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import httpx
import pytest
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import path

from wsgateway.testing import Client, serve

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md")] + sorted((ROOT / "docs").rglob("*.md"))
PAGES.append(ROOT / "deploy" / "README.md")


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("Django's page")


urlpatterns = [path("", hello)]


def block(page: str, name: str) -> str:
    found = re.search(rf"```python\n# {name}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert found
    return found[1]


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "written_in_the_docs"}
    exec(compile(code, "docs", "exec", dont_inherit=True), names)
    return names


@pytest.fixture(scope="module", autouse=True)
def configured_django() -> None:
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="for the test")
    django.setup()


@pytest.mark.parametrize("name", ["starlette_app", "fastapi_app", "django_app", "litestar_app"])
async def test_it_is_mounted_as_written(name: str) -> None:
    code = block("how-to/mounting.md", f"{name}.py").replace("Gateway()", "Gateway(local_access=True)")
    if name == "litestar_app":
        code = code.replace("lifespan=[", "logging_config=None, lifespan=[")
    names = run(code)
    async with serve(names["app"]) as url, Client(url, "/live/ws/room") as ann, httpx.AsyncClient() as http:
        await ann.send("hi")
        assert await ann.receive() == "hi"
        answer = await http.post(url + "/live/send", json={"message": "pushed"})
        assert answer.json()["queued"] == 1
        assert await ann.receive() == "pushed"
        assert '<base href="./">' in (await http.get(url + "/live/", follow_redirects=True)).text
        assert (await http.get(url + "/live/pages/test.js")).status_code == 200
        assert (await http.get(url + "/live/info")).json()["connections"][0]["path"] == "/ws/room"
        if name == "django_app":
            assert (await http.get(url + "/")).text == "Django's page"
        if name == "fastapi_app":
            for route in ("orders", "threads"):
                assert (await http.post(f"{url}/{route}/7")).json() == {"recipients": 1}
                assert await ann.receive_json() == {"order": 7}
    assert names["gateway"].state == "stopped"


async def test_the_example_of_a_test_passes() -> None:
    found = re.search(
        r"```python\n(from wsgateway import Gateway, MessageEvent\n.*?)```",
        (ROOT / "docs/reference/listener.md").read_text(),
        re.DOTALL,
    )
    assert found
    await run(found[1])["test_a_message_is_signed"]()


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def refusals() -> Iterator[str]:
    """The anchors that the package prints: the fourth argument of each `Refusal`."""
    for module in (ROOT / "wsgateway").rglob("*.py"):
        source = module.read_text()
        yield from re.findall(
            r'"([a-z]+(?:-[a-z]+)+)"', "".join(re.findall(r"Refusal\((?:[^()]|\([^()]*\))*\)", source))
        )


def test_every_refusal_has_its_part_of_the_documentation() -> None:
    ignored = {"www-authenticate", "retry-after", "utf-8"}
    used = set(refusals()) - ignored | {"broker", "token"}
    assert len(used) >= 9
    assert used <= anchors(ROOT / "docs" / "troubleshooting.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


async def test_the_supervisor_of_the_admin_page(tmp_path: Path) -> None:
    file = tmp_path / "wsgateway.toml"
    file.write_text("[gateways.chat]\nport = 0\n[gateways.prices]\nport = 0\n")
    found = await run(block("how-to/admin.md", "supervised.py"))["main"](str(file))
    assert found == ["chat stopped", "prices running"]
    assert "hook_timeout = 3.0" in file.read_text()


async def test_the_panel_in_an_application() -> None:
    names = run(block("how-to/admin.md", "panel.py"))
    async with serve(names["app"]) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/panel/")).status_code == 403
        shown = await http.get("/panel/", headers={"cookie": "role=admin"})
        assert shown.status_code == 200
        assert "live" in shown.text
