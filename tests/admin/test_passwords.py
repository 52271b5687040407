"""The passwords of the panel, and the logins that their file ends."""

import codecs
import fcntl
import json
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import processes
from wsgateway.admin.logins import Login, Logins
from wsgateway.admin.passwords import MAX_ENDED, Passwords, hash_password, matches, write_password
from wsgateway.auth.admin import Access
from wsgateway.config.settings import AdminSettings

OLD_HASH = "scrypt:15:8:1:1uvC07JMHx2_yE6YpnSjRA==:lErBY26issNhAMoNfYW4m0zfBhvou6AvgaRmKa53x_k="
"""`correct horse`, hashed with less work than today."""

NOW = int(time.time())


def passwords_in(path: Path) -> Passwords:
    return Passwords(AdminSettings(password_file=path.name), path.parent)


def passwords_of(hashed: str) -> Passwords:
    return Passwords(AdminSettings(password_hash=hashed, password_file=""), Path())


def test_a_hash_matches_its_password_only() -> None:
    hashed = hash_password("correct horse")
    assert matches("correct horse", hashed)
    assert not matches("correct horsf", hashed)
    assert "correct" not in hashed


def test_a_hash_takes_the_work_that_owasp_asks_for() -> None:
    name, log2_n, r, p = hash_password("correct horse").split(":")[:4]
    assert name == "scrypt"
    assert (int(log2_n), int(r), int(p)) == (15, 8, 3)  # equal to 2^17, 8, 1


def test_a_hash_of_less_work_still_counts_and_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    passwords = passwords_of(OLD_HASH)
    assert passwords.access_of("correct horsf") is Access.NONE
    assert "wsgateway password" not in caplog.text
    for _ in range(2):
        assert passwords.access_of("correct horse") is Access.FULL
    assert caplog.text.count("set it again: wsgateway password") == 1


def test_two_hashes_of_a_password_differ() -> None:
    assert hash_password("correct horse") != hash_password("correct horse")


@pytest.mark.parametrize(
    "hashed", ["", "scrypt", "scrypt:15:8:1:!:!", "md5:15:8:1:YQ==:YQ==", "scrypt:99:8:1:YQ==:YQ=="]
)
def test_what_is_no_hash_matches_nothing(hashed: str) -> None:
    assert not matches("correct horse", hashed)


@pytest.mark.parametrize("password", ["", "seven77", "x" * 1025])
def test_a_password_that_is_too_short_or_long_is_refused(password: str) -> None:
    with pytest.raises(ValueError, match="8 to 1024"):
        hash_password(password)


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    write_password(path, "correct horse", Access.FULL)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "correct" not in path.read_text()


def test_each_password_opens_what_it_is_for(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    passwords = passwords_in(path)
    assert not passwords.is_set()
    write_password(path, "may do all", Access.FULL)
    write_password(path, "may only look", Access.READ)
    assert passwords.is_set()
    assert passwords.access_of("may do all") is Access.FULL
    assert passwords.access_of("may only look") is Access.READ
    assert passwords.access_of("neither of them") is Access.NONE
    assert passwords.access_of("") is Access.NONE


def test_a_file_that_cannot_be_read_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    path.write_text("{")
    path.chmod(0o600)
    passwords = passwords_in(path)
    assert passwords.is_set()
    assert passwords.access_of("") is Access.NONE


def test_a_new_password_ends_every_session(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    write_password(path, "the old one", Access.FULL)
    logins = Logins(passwords_in(path).secret)
    cookie = logins.cookie_of(logins.begin(Access.FULL))
    assert logins.read(cookie) is not None
    write_password(path, "the new one", Access.FULL)
    assert logins.read(cookie) is None


def test_a_session_outlives_a_restart_of_the_server(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    write_password(path, "correct horse", Access.FULL)
    before, after = Logins(passwords_in(path).secret), Logins(passwords_in(path).secret)
    session = before.begin(Access.READ)
    assert after.read(before.cookie_of(session)) == session


def ended_with(passwords: Passwords, logins: Logins, session: Login) -> None:
    logins.end(session)
    passwords.keep_ended(session.nonce, now=NOW, until=NOW + 60)


def logins_of(passwords: Passwords) -> Logins:
    return Logins(passwords.secret, passwords.has_ended)


def test_a_session_that_was_ended_stays_so_after_a_restart_and_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    write_password(path, "correct horse", Access.FULL)
    here, elsewhere = passwords_in(path), passwords_in(path)
    logins, others = logins_of(here), logins_of(elsewhere)
    one, other = logins.begin(Access.FULL), logins.begin(Access.FULL)
    assert others.read(logins.cookie_of(one)) == one
    ended_with(here, logins, one)
    for known in (others, logins_of(passwords_in(path))):
        assert known.read(logins.cookie_of(one)) is None
        assert known.read(logins.cookie_of(other)) == other
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert here.access_of("correct horse") is Access.FULL


def test_without_a_file_every_session_ends_with_its_process() -> None:
    before, after = passwords_of(OLD_HASH), passwords_of(OLD_HASH)
    logins = logins_of(before)
    session = logins.begin(Access.FULL)
    ended_with(before, logins, session)
    assert logins.read(logins.cookie_of(session)) is None
    assert logins_of(after).read(logins.cookie_of(session)) is None


def test_the_file_keeps_few_of_the_sessions_that_were_ended(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    write_password(path, "correct horse", Access.FULL)
    kept = json.loads(path.read_text())
    kept["ended"] = {f"old {number}": time.time() - 1 for number in range(5)}
    kept["ended"] |= {f"valid {number}": time.time() + 60 for number in range(MAX_ENDED)}
    path.write_text(json.dumps(kept))
    passwords = passwords_in(path)
    passwords.keep_ended("newest", now=NOW, until=NOW + 60)
    found = json.loads(path.read_text())["ended"]
    assert len(found) == MAX_ENDED
    assert "newest" in found
    assert "valid 0" not in found
    assert "old 4" not in found


def test_nothing_is_lost_if_several_change_the_file_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    write_password(path, "the old one", Access.FULL)
    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            pool.submit(passwords_in(path).keep_ended, f"session {number}", now=NOW, until=NOW + 60)
        pool.submit(write_password, path, "may only look", Access.READ)
    passwords = passwords_in(path)
    assert all(passwords.has_ended(f"session {number}") for number in range(20))
    assert passwords.access_of("may only look") is Access.READ
    assert passwords.access_of("the old one") is Access.FULL


def test_a_file_that_cannot_be_changed_is_named_and_holds_nothing_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "passwords"
    write_password(path, "correct horse", Access.FULL)
    passwords = passwords_in(path)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another process has stopped while it changed the file
        passwords.keep_ended("x", now=NOW, until=NOW + 60)
        with pytest.raises(TimeoutError, match="locked by another process"):
            write_password(path, "the new one", Access.FULL)
    assert "valid again after a restart" in caplog.text
    passwords.keep_ended("y", now=NOW, until=NOW + 60)
    assert passwords.has_ended("y")


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    write_password(path, "correct horse", Access.FULL)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes().replace(b"\n", b"\r\n"))
    assert passwords_in(path).access_of("correct horse") is Access.FULL


@pytest.mark.parametrize(
    "text", ["[]", '{"full": 5}', '{"ended": []}', '{"ended": {"x": "soon"}}', '{"ended": {"x": true}}']
)
def test_a_file_of_another_kind_lets_nobody_in(tmp_path: Path, text: str) -> None:
    path = tmp_path / "passwords"
    path.write_text(text)
    passwords = passwords_in(path)
    assert passwords.is_set()
    assert not passwords.has_ended("x")
    assert passwords.access_of("correct horse") is Access.NONE


def test_the_command_sets_it_and_prints_a_hash(tmp_path: Path) -> None:
    done = processes.run("password", cwd=tmp_path, stdin="correct horse\n")
    assert done.returncode == 0, done.stderr
    assert "correct" not in done.stdout + done.stderr
    assert passwords_in(tmp_path / "wsgateway.password").access_of("correct horse") is Access.FULL
    printed = processes.run("password", "--hash", cwd=tmp_path, stdin="another one\n").stdout.strip()
    assert matches("another one", printed)
    assert passwords_in(tmp_path / "wsgateway.password").access_of("another one") is Access.NONE


def test_the_command_refuses_a_short_one(tmp_path: Path) -> None:
    done = processes.run("password", cwd=tmp_path, stdin="short\n")
    assert done.returncode == 1
    assert "8 to 1024 characters" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_byte_order_mark_in_the_file_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    write_password(path, "correct horse", Access.FULL)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert passwords_in(path).access_of("correct horse") is Access.FULL
    write_password(path, "may only look", Access.READ)
    assert passwords_in(path).access_of("may only look") is Access.READ


@pytest.mark.parametrize("data", [b"", b"{}", b'{"secret": "x"}', b'{"full": ""}', '{"full": "x"}'.encode("utf-16")])
def test_a_file_without_a_password_lets_nobody_in(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    path.write_bytes(data)
    path.chmod(0o600)
    passwords = passwords_in(path)
    assert passwords.is_set()
    assert passwords.access_of("") is Access.NONE


@pytest.mark.parametrize(
    "stdin", [b"correct horse\r\n", b"\xef\xbb\xbfcorrect horse\n", b"\xef\xbb\xbfcorrect horse\r\n"]
)
def test_the_command_reads_a_byte_order_mark_and_windows_line_endings(stdin: bytes, tmp_path: Path) -> None:
    argv = [*processes.COMMAND, "password", "--hash"]
    done = subprocess.run(argv, cwd=tmp_path, env=processes.environment(), input=stdin, capture_output=True, check=True)
    assert matches("correct horse", done.stdout.decode().strip())


@pytest.mark.parametrize("stdin", ["correct horse\n".encode("utf-16"), b"correct\xff horse\n"])
def test_a_password_that_is_not_utf_8_is_a_sentence(stdin: bytes, tmp_path: Path) -> None:
    argv = [*processes.COMMAND, "password"]
    done = subprocess.run(
        argv, cwd=tmp_path, env=processes.environment(), input=stdin, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"wsgateway: the input is not UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr
