"""The command `wsgateway doctor` on this machine."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from tests.processes import run, run_here
from tests.services import redis
from wsgateway.cli.doctor import certificate_ends, systemd_seconds


@pytest.mark.parametrize(
    ("shown", "seconds"),
    [
        ("LoadState=loaded\nTimeoutStopUSec=1min 30s\n", 90),
        ("TimeoutStopUSec=40s\nLoadState=loaded\n", 40),
        ("LoadState=loaded\nTimeoutStopUSec=500ms\n", 0.5),
        ("LoadState=loaded\nTimeoutStopUSec=infinity\n", None),
        ("LoadState=not-found\nTimeoutStopUSec=1min 30s\n", None),
        ("", None),
    ],
)
def test_what_systemd_says(shown: str, seconds: float | None) -> None:
    assert systemd_seconds(shown) == seconds


def certificate_files(folder: Path, ends: datetime) -> tuple[str, str]:
    begins = ends - timedelta(days=90)
    found = trustme.CA().issue_cert("localhost", not_before=begins, not_after=ends)
    found.private_key_pem.write_to_path(folder / "key.pem")
    for place, pem in enumerate(found.cert_chain_pems):
        pem.write_to_path(folder / "cert.pem", append=bool(place))
    return str(folder / "cert.pem"), str(folder / "key.pem")


def test_when_a_certificate_ends(tmp_path: Path) -> None:
    ends = (datetime.now(UTC) + timedelta(days=5)).replace(microsecond=0)
    assert certificate_ends(*certificate_files(tmp_path, ends)) == ends.timestamp()


def test_a_certificate_that_has_expired_or_another_key_is_reported(tmp_path: Path) -> None:
    cert, key = certificate_files(tmp_path, datetime.now(UTC) - timedelta(days=1))
    with pytest.raises(OSError, match="expired"):
        certificate_ends(cert, key)
    other = tmp_path / "other"
    other.mkdir()
    _, wrong = certificate_files(other, datetime.now(UTC) + timedelta(days=5))
    with pytest.raises(OSError, match=r"(?i)key.values.mismatch"):
        certificate_ends(cert, wrong)
    with pytest.raises(OSError, match="No such file"):
        certificate_ends(str(tmp_path / "none.pem"), key)


# The command


def test_on_a_sound_installation_it_finds_nothing_serious(tmp_path: Path) -> None:
    done = run_here("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


def test_a_written_local_access_is_explained(tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_text(
        'local_access = true\n[gateways.a]\n[gateways.b]\nallowed_origins = "https://a.example"\n'
        '[admin]\nallowed_hosts = "a.example"\nlocal_access = true\n'
    )
    told = run_here("doctor", cwd=tmp_path).stdout
    assert "hint: [a] local_access is true" in told
    assert "warning: [b] local_access is true" in told
    assert "although allowed_origins is set" in told
    assert "warning: local_access is true: the panel and REST" in told


def test_what_is_on_or_off_by_default_is_none(tmp_path: Path) -> None:
    for more in ((), ("--allowed-hosts", "a.example"), ("--no-local-access",)):
        assert "local_access" not in run_here("doctor", *more, cwd=tmp_path).stdout


def test_it_prints_the_worst_first_and_fails_if_it_is_serious(tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_text(
        'compression = true\n[gateways.a]\nlistener = "nowhere"\nlog_file = "no/such/folder.log"\n'
        '[gateways.b]\nssl_certfile = "c.pem"\nssl_keyfile = "k.pem"\nallowed_origins = "*"\n'
    )
    env = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "WEB_CONCURRENCY": "3", "WSGATEWAY_PROT": "1"}
    done = run("doctor", "--json", cwd=tmp_path, env=env)
    assert done.returncode == 1
    found = [(finding["level"], finding["what"]) for finding in json.loads(done.stdout)]
    levels = [level for level, _ in found]
    assert levels == sorted(levels, key=["serious", "warning", "hint"].index)
    told = "\n".join(text for _, text in found)
    for text in (
        "[a] listener 'nowhere': there is no module",
        "[a] log_file no/such/folder.log cannot be written",
        "[b] ssl_certfile c.pem cannot be used: No such file",
        "[b] allowed_origins is *",
        "3 workers without a broker",
        "Kubernetes, by default, kills after 30 s",
        "WSGATEWAY_PROT is not a setting",
        "[a] compression is on",
    ):
        assert text in told
    assert run("doctor", "--stop-timeout", "60", cwd=tmp_path, env=env).stdout.count("kills after") == 0


def test_an_address_without_a_scheme_is_a_finding_among_the_others(tmp_path: Path) -> None:
    done = run_here("doctor", "--url", "example.com", "--stop-timeout", "5", cwd=tmp_path)
    assert done.returncode == 1
    assert "serious: --url 'example.com' is not a URL" in done.stdout
    assert "kills after 5 s" in done.stdout


def test_every_mistake_in_the_settings_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_text("prot = 1\ndrain = -1\n")
    done = run_here("doctor", cwd=tmp_path)
    assert done.returncode == 1
    assert "serious: prot (wsgateway.toml): there is no such setting, did you mean port?" in done.stdout
    assert "drain (wsgateway.toml)" in done.stdout
    assert done.stdout.endswith("2 problems found\n")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://x", "serious: broker: 'http://x' is not one of ipc://"),
        ("redis://127.0.0.1:1", "serious: the broker redis://127.0.0.1:1 cannot be reached"),
        ("nats://127.0.0.1:1", "serious: the broker nats://127.0.0.1:1 cannot be reached"),
    ],
)
def test_a_broker_that_is_not_there_is_a_finding(url: str, said: str, tmp_path: Path) -> None:
    done = run_here("doctor", "--broker", url, cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stdout


def test_the_redis_of_a_history_is_examined(tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_text('[channels."room:*"]\nhistory = 5\n')
    with redis("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as service:
        done = run_here("doctor", "--broker", service.url, cwd=tmp_path)
        assert f"warning: maxmemory-policy of {service.url} is allkeys-lru" in done.stdout
        service.command("ACL", "SETUSER", "me", "on", ">secret", "&*", "+subscribe", "+eval")
        url = service.url.replace("://", "://me:secret@")
        done = run_here("doctor", "--broker", url, cwd=tmp_path)
        assert "add ~wsgateway:* to its ACL" in done.stdout
        assert "add +info to its ACL" in done.stdout
        assert "secret" not in done.stdout


def test_a_broker_that_answers_is_none(tmp_path: Path) -> None:
    with redis() as service:
        assert "broker" not in run_here("doctor", "--broker", service.url, cwd=tmp_path).stdout
