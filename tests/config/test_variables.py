"""The variables of the environment: empty ones, those of Kubernetes, and files that hold a secret."""

from pathlib import Path

import httpx
import pytest

from tests.ports import free_port
from tests.processes import run, serving
from wsgateway.config.sources import admin_settings, load
from wsgateway.config.variables import read_variables
from wsgateway.exceptions import ConfigError
from wsgateway.supervisor.store import Store

SECRETS = {
    "WSGATEWAY_API_KEY": False,
    "WSGATEWAY_API_KEY_FILE": False,
    "WSGATEWAY_ADMIN_TOKEN": True,
    "WSGATEWAY_ADMIN_READ_TOKEN": True,
    "WSGATEWAY_ADMIN_PASSWORD_HASH": True,
    "WSGATEWAY_ADMIN_READ_PASSWORD_HASH": True,
}
"""Variables of secrets, and whether they are the admin interface's."""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def services(name: str) -> dict[str, str]:
    """What Kubernetes sets in every pod for the Service `name` with a TCP port that has a name, and a UDP one."""
    start = name.upper().replace("-", "_")
    return {
        f"{start}_SERVICE_HOST": "10.96.0.7",
        f"{start}_SERVICE_PORT": "10125",
        f"{start}_SERVICE_PORT_HTTP": "10125",
        f"{start}_PORT": "tcp://10.96.0.7:10125",
        f"{start}_PORT_10125_TCP": "tcp://10.96.0.7:10125",
        f"{start}_PORT_10125_TCP_PROTO": "tcp",
        f"{start}_PORT_10125_TCP_PORT": "10125",
        f"{start}_PORT_10125_TCP_ADDR": "10.96.0.7",
        f"{start}_PORT_53_UDP": "udp://10.96.0.7:53",
    }


@pytest.mark.parametrize(
    "name", ["wsgateway", "wsgateway-admin", "wsgateway-broker", "wsgateway-api-key", "wsgateway-x"]
)
def test_the_variables_of_a_service_are_ignored_with_one_line(name: str) -> None:
    environ = services(name)
    found = read_variables(environ)
    assert found.texts == {}
    assert len(found.warnings) == 1
    assert "and 6 more variables of a Kubernetes Service" in found.warnings[0]
    loaded = load(defaults={}, environ=environ, flags={})
    assert (loaded.settings.port, loaded.settings.broker) == (10125, None)
    assert admin_settings({}, None, environ, {}).port == 10120


@pytest.mark.parametrize("scheme", ["tcp", "udp", "sctp", "TCP"])
def test_the_port_of_a_service_may_be_of_any_protocol(scheme: str) -> None:
    assert load(defaults={}, environ={"WSGATEWAY_PORT": f"{scheme}://10.0.0.1:80"}, flags={}).settings.port == 10125


@pytest.mark.parametrize(
    ("variable", "text"), [("WSGATEWAY_PORT", "http://x:80"), ("WSGATEWAY_ADMIN_PORT", "10.0.0.1")]
)
def test_another_port_that_is_no_number_is_a_mistake(variable: str, text: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        Store(environ={variable: text}).read()


def test_a_service_s_port_is_not_one_for_several_gateways(tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_text("[gateways.a]\nport = 0\n[gateways.b]\nport = 0\n")
    for environ in (services("wsgateway"), {"WSGATEWAY_PORT": "", "WSGATEWAY_UDS": "", "WSGATEWAY_ID": ""}):
        described = Store(environ=environ).read()
        assert list(described.gateways) == ["a", "b"]
        assert len(described.warnings) == len(set(described.warnings))
    assert len(Store(environ=services("wsgateway")).read().warnings) == 1


def test_a_setting_that_is_misspelled_is_still_a_line_of_its_own() -> None:
    environ = {
        "WSGATEWAY_PROT": "1",
        "WSGATEWAY_ADMIN_TOKN": "x",
        "WSGATEWAY_FOO_PORT": "8080",
        **services("wsgateway"),
    }
    lines = read_variables(environ).warnings
    assert len(lines) == 4
    assert "WSGATEWAY_ADMIN_TOKN is not a setting and is ignored, did you mean WSGATEWAY_ADMIN_TOKEN?" in lines


# Empty ones


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        *((name, text) for name in SECRETS for text in ("", "  ", "\n")),
        ("WSGATEWAY_API_KEY", ","),
        ("WSGATEWAY_ADMIN_TOKEN", " , "),
    ],
)
def test_an_empty_secret_is_not_set_and_is_reported(variable: str, text: str) -> None:
    found = read_variables({variable: text})
    assert found.texts == found.files == {}
    assert found.empty_secret(of_admin=SECRETS[variable]) == variable
    assert found.empty_secret(of_admin=not SECRETS[variable]) is None
    assert len(found.warnings) == 1
    assert f"{variable} is empty" in found.warnings[0]


@pytest.mark.parametrize("variable", [name for name, is_admin in SECRETS.items() if not is_admin])
def test_an_empty_key_turns_keyless_access_off_unless_it_is_written_down(variable: str, tmp_path: Path) -> None:
    def local_access(**more: str) -> bool:
        environ = {variable: "", **more}
        return load(defaults={"local_access": True}, environ=environ, flags={}).settings.local_access

    assert not local_access()
    assert local_access(WSGATEWAY_LOCAL_ACCESS="true")
    with_flag = load(defaults={"local_access": True}, environ={variable: ""}, flags={"local_access": True})
    assert with_flag.settings.local_access
    (tmp_path / "wsgateway.toml").write_text("local_access = true\n")
    assert local_access()


@pytest.mark.parametrize("variable", [name for name, is_admin in SECRETS.items() if is_admin])
def test_an_empty_token_turns_keyless_access_of_the_admin_interface_off(variable: str, tmp_path: Path) -> None:
    def local_access(tables: dict[str, object] | None = None, **more: str) -> bool | None:
        return admin_settings({"admin": tables or {}}, tmp_path, {variable: "", **more}, {}).local_access

    assert local_access() is False
    assert local_access({"local_access": True}) is True
    assert local_access(WSGATEWAY_ADMIN_LOCAL_ACCESS="true") is True
    assert local_access(WSGATEWAY_ADMIN_LOCAL_ACCESS="") is False


def test_an_empty_variable_takes_nothing_away_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_text(
        'api_key = ["from the file"]\nhost = "127.0.0.2"\nport = 1\nallowed_origins = ["https://a.example"]\n'
        'listener = "a:B"\nverbose = true\n'
    )
    names = ("API_KEY", "API_KEY_FILE", "HOST", "PORT", "ALLOWED_ORIGINS", "LISTENER", "VERBOSE", "CONFIG")
    loaded = load(defaults={}, environ={f"WSGATEWAY_{name}": " " for name in names}, flags={})
    found = loaded.settings
    assert (found.api_key, found.host, found.port, found.listener) == (("from the file",), "127.0.0.2", 1, "a:B")
    assert (found.allowed_origins, found.verbose) == (("https://a.example",), True)
    told = [line.partition(" ")[0].removeprefix("WSGATEWAY_") for line in loaded.warnings]
    assert told == ["ALLOWED_ORIGINS", "API_KEY", "API_KEY_FILE", "CONFIG", "HOST", "LISTENER"]


def test_an_empty_log_file_means_none_and_an_empty_hook_is_off_with_a_line() -> None:
    environ = {"WSGATEWAY_LOG_FILE": "", "WSGATEWAY_ON_HANDSHAKE": ""}
    loaded = load(defaults={"log_file": "WebSocket.log"}, environ=environ, flags={})
    assert (loaded.settings.log_file, loaded.settings.on_handshake) == (None, "")
    assert loaded.warnings == ("WSGATEWAY_ON_HANDSHAKE is empty, so the hook is turned off",)


@pytest.mark.parametrize("setting", ["api_key", "admin_token", "admin_read_token", "admin_password_hash"])
def test_an_empty_secret_in_the_file_or_a_flag_is_a_mistake(setting: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is empty, leave it out"):
        Store(flags={setting: ""}).read()
    name = setting.removeprefix("admin_")
    (tmp_path / "wsgateway.toml").write_text(f'{"[admin]" if name != setting else ""}\n{name} = " "\n')
    with pytest.raises(ConfigError, match="it is empty, leave it out"):
        Store().read()


# Files of their own


@pytest.mark.parametrize("data", [b"", b"\n \r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"])
@pytest.mark.parametrize(("variable", "what"), [("API_KEY", "key"), ("BROKER", "URL")])
def test_a_file_without_a_secret_is_a_mistake(data: bytes, variable: str, what: str) -> None:
    Path("secret").write_bytes(data)
    with pytest.raises(ConfigError, match=f"WSGATEWAY_{variable}_FILE: 'secret' does not contain a {what}"):
        load(defaults={}, environ={f"WSGATEWAY_{variable}_FILE": "secret"}, flags={})


def test_a_byte_order_mark_and_windows_line_endings_are_not_part_of_a_key() -> None:
    Path("secret").write_bytes(b"\xef\xbb\xbfone\r\nt\xc3\xa4wo\r\n")
    loaded = load(defaults={}, environ={"WSGATEWAY_API_KEY_FILE": "secret"}, flags={})
    assert loaded.settings.api_key == ("one", "täwo")
    assert loaded.sources["api_key"] == "WSGATEWAY_API_KEY_FILE"
    Path("broker").write_bytes(b"\xef\xbb\xbfredis://:pass@h\r\n")
    assert load(defaults={}, environ={"WSGATEWAY_BROKER_FILE": "broker"}, flags={}).settings.broker == "redis://:pass@h"


@pytest.mark.parametrize("data", ["SECRET".encode("utf-16"), "SECRET".encode("utf-16-le"), b"SECRET\xff", b"SEC\0RET"])
def test_a_file_that_is_not_utf_8_is_a_sentence_without_its_text(data: bytes) -> None:
    Path("secret").write_bytes(data)
    with pytest.raises(
        ConfigError, match=r"cannot read api_key from 'secret': the file is .*, save it as UTF-8"
    ) as error:
        load(defaults={}, environ={"WSGATEWAY_API_KEY_FILE": "secret"}, flags={})
    assert "SECRET" not in repr(error.value) + repr(error.value.__cause__) + repr(error.value.__context__)


# On a real server


@pytest.mark.parametrize("variable", ["WSGATEWAY_API_KEY", "WSGATEWAY_API_KEY_FILE"])
def test_a_server_with_an_empty_key_answers_nobody(variable: str, tmp_path: Path) -> None:
    with serving("--admin-port", "0", cwd=tmp_path, env={variable: ""}) as served:
        assert httpx.get(f"{served.url}/info").status_code == 403
        assert httpx.post(f"{served.url}/send", json={"message": 1}).status_code == 403
        assert httpx.get(f"{served.url}/health").status_code == 200
        assert f"{variable} is empty" in served.stderr


@pytest.mark.parametrize("variable", ["WSGATEWAY_ADMIN_TOKEN", "WSGATEWAY_ADMIN_PASSWORD_HASH"])
def test_an_admin_interface_with_an_empty_token_answers_nobody(variable: str, tmp_path: Path) -> None:
    port = free_port()
    with serving("--admin-port", str(port), cwd=tmp_path, env={variable: ""}) as served:
        assert httpx.get(f"http://127.0.0.1:{port}/api/gateways").status_code == 403
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 403
        assert f"{variable} is empty" in served.stderr
        assert httpx.get(f"{served.url}/info").status_code == 200  # which is another door


def test_check_and_doctor_show_what_is_empty_or_ignored(tmp_path: Path) -> None:
    environ = {"WSGATEWAY_API_KEY": "", "WSGATEWAY_HOST": "", **services("wsgateway-admin")}
    for command in ("check", "doctor"):
        done = run(command, cwd=tmp_path, env=environ)
        said = done.stdout + done.stderr
        assert said.count("WSGATEWAY_API_KEY is empty and counts as not set") == 1
        assert said.count("WSGATEWAY_HOST is empty and counts as not set") == 1
        assert said.count("of a Kubernetes Service are ignored") == 1
    assert (
        "local_access = false  # default, because WSGATEWAY_API_KEY is empty"
        in run("check", cwd=tmp_path, env=environ).stdout
    )
