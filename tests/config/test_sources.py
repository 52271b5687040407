"""What a settings file may still say, although it was written for an earlier layout."""

from pathlib import Path

import pytest

from tests.processes import serving
from wsgateway.config.sources import admin_settings, load

OLD, NEW = "wsgateway.starter.listener:Listener", "wsgateway.supervisor.starter:Listener"


@pytest.mark.parametrize("source", ["file", "table", "variable", "flag"])
def test_the_former_path_of_the_starter_listener_is_replaced(source: str, tmp_path: Path) -> None:
    path = tmp_path / "wsgateway.toml"
    path.write_text(
        {"file": f'listener = "{OLD}"\n', "table": f'[gateways.a]\nlistener = "{OLD}"\n'}.get(source, "port = 0\n")
    )
    environ = {"WSGATEWAY_LISTENER": OLD} if source == "variable" else {}
    loaded = load(defaults={}, config=str(path), environ=environ, flags={"listener": OLD} if source == "flag" else {})
    assert loaded.settings.listener == NEW


def test_the_former_path_is_replaced_in_the_patterns_of_admin() -> None:
    tables = {"admin": {"listeners": [OLD, "shop.*"]}}
    assert admin_settings(tables, None, {}, {}).listeners == (NEW, "shop.*")
    assert admin_settings({}, None, {"WSGATEWAY_ADMIN_LISTENERS": f"{OLD},shop.*"}, {}).listeners == (NEW, "shop.*")


@pytest.mark.parametrize(
    "name",
    [
        "my_wsgateway.starter.listener:Listener",
        "wsgateway.starter.listener_x:Listener",
        "wsgateway.starter.listener.py",
    ],
)
def test_another_name_that_contains_the_former_path_is_kept(name: str) -> None:
    loaded = load(defaults={"listener": name}, environ={}, flags={})
    assert loaded.settings.listener == name
    assert admin_settings({"admin": {"listeners": [name]}}, None, {}, {}).listeners == (name,)


def test_the_former_module_without_a_name_is_replaced() -> None:
    loaded = load(defaults={"listener": "wsgateway.starter.listener"}, environ={}, flags={})
    assert loaded.settings.listener == "wsgateway.supervisor.starter"


def test_a_settings_file_with_the_former_path_is_served(tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_text(f'[gateways.a]\nport = 0\nlistener = "{OLD}"\n')
    with serving("--no-admin-enabled", cwd=tmp_path) as served:
        assert served.terminate() == 0
    assert "Traceback" not in served.stderr
