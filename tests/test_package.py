"""The wheel, built and installed into an empty environment, serves every page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import anyio
import httpx
import pytest

from tests.ports import free_port
from tests.processes import serving

FILES = ("/client.js", "/client.d.ts", "/pages/test.js", "/pages/test.css")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with nothing but the wheel and what it needs."""
    folder = tmp_path_factory.mktemp("wheel")
    quiet = ["--quiet", "--disable-pip-version-check"]
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    binaries = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    subprocess.run([binaries / "python", "-m", "pip", "install", *quiet, wheel], check=True, capture_output=True)
    return binaries


async def test_every_page_is_served_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    command = [str(installed / "wsgateway"), "serve", "--port", "0"]
    with serving(cwd=tmp_path, command=command) as served:
        async with httpx.AsyncClient() as http:
            for path in ("/", *FILES, "/health", "/ready", "/metrics", "/info"):
                answer = await http.get(served.url + path)
                assert answer.status_code == 200, path
                assert answer.content
        assert served.terminate() == 0
    assert "Traceback" not in served.stderr


async def test_the_panel_is_served_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [str(installed / "wsgateway"), "serve", "--port", "0", "--admin-port", str(port)]
    with serving(cwd=tmp_path, command=command) as served:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            with anyio.fail_after(10):
                while not await answers(http):
                    await anyio.sleep(0.02)  # it begins to listen after the gateways do
            text = (await http.get("/")).text
            for path in ("/log", "/new", *re.findall(r'(?:src|href)="(/static/[^"]+)"', text)):
                answer = await http.get(path)
                assert answer.status_code == 200, path
                assert answer.content
        assert served.terminate() == 0
    assert "Traceback" not in served.stderr


async def answers(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/")).status_code == 200
    except httpx.ConnectError:
        return False


def test_init_works_from_the_wheel_and_the_package_is_typed(installed: Path, tmp_path: Path) -> None:
    subprocess.run([installed / "wsgateway", "init", tmp_path], check=True, capture_output=True)
    assert (tmp_path / "listener.py").exists()
    code = "import wsgateway, pathlib; print((pathlib.Path(wsgateway.__file__).parent / 'py.typed').exists())"
    done = subprocess.run([installed / "python", "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "True\n"
