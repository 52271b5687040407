"""The panel's passwords and sessions."""

import stat
import subprocess
from pathlib import Path

import pytest

from tests import processes
from wsgateway.admin.passwords import Passwords, hash_password, matches, write_password
from wsgateway.admin.sessions import TRIES, TRIES_PER_SECOND, Sessions
from wsgateway.auth import Access
from wsgateway.limits import Rates


def test_a_hash_matches_its_password_only() -> None:
    hashed = hash_password("correct horse")
    assert matches("correct horse", hashed)
    assert not matches("correct horsf", hashed)
    assert "correct" not in hashed


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
    passwords = Passwords(path=path)
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
    passwords = Passwords(path=path)
    assert passwords.is_set()
    assert passwords.access_of("") is Access.NONE


def test_a_new_password_ends_every_session(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    write_password(path, "the old one", Access.FULL)
    sessions = Sessions(Passwords(path=path).secret)
    cookie = sessions.cookie_of(sessions.begin(Access.FULL))
    assert sessions.read(cookie) is not None
    write_password(path, "the new one", Access.FULL)
    assert sessions.read(cookie) is None


def test_a_session_outlives_a_restart_of_the_server(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    write_password(path, "correct horse", Access.FULL)
    before, after = Sessions(Passwords(path=path).secret), Sessions(Passwords(path=path).secret)
    session = before.begin(Access.READ)
    assert after.read(before.cookie_of(session)) == session


def test_a_session_that_was_ended_or_forged_is_none() -> None:
    sessions = Sessions(lambda: "secret")
    session = sessions.begin(Access.FULL)
    cookie = sessions.cookie_of(session)
    assert Sessions(lambda: "another").read(cookie) is None
    assert sessions.read(cookie[:-1]) is None
    sessions.end(session)
    assert sessions.read(cookie) is None


def test_a_form_belongs_to_one_session() -> None:
    sessions = Sessions(lambda: "secret")
    one, other = sessions.begin(), sessions.begin()
    assert sessions.is_own_form(one, sessions.csrf_of(one))
    assert not sessions.is_own_form(other, sessions.csrf_of(one))
    assert not sessions.is_own_form(one, "")
    assert not sessions.is_own_form(one, "é")


def test_tries_are_limited_for_each_address_and_come_back() -> None:
    tries = Rates(TRIES_PER_SECOND, TRIES)
    assert [tries.allows("a", 0.0) for _ in range(TRIES + 1)] == [True] * TRIES + [False]
    assert tries.allows("b", 0.0)
    assert tries.allows("a", 6.0)


def test_the_command_sets_it_and_prints_a_hash(tmp_path: Path) -> None:
    done = processes.run("password", cwd=tmp_path, stdin="correct horse\n")
    assert done.returncode == 0, done.stderr
    assert "correct" not in done.stdout + done.stderr
    assert Passwords(path=tmp_path / "wsgateway.password").access_of("correct horse") is Access.FULL
    printed = processes.run("password", "--hash", cwd=tmp_path, stdin="another one\n").stdout.strip()
    assert matches("another one", printed)
    assert Passwords(path=tmp_path / "wsgateway.password").access_of("another one") is Access.NONE


def test_the_command_refuses_a_short_one(tmp_path: Path) -> None:
    done = processes.run("password", cwd=tmp_path, stdin="short\n")
    assert done.returncode == 1
    assert "8 to 1024 characters" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_byte_order_mark_in_the_file_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    write_password(path, "correct horse", Access.FULL)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert Passwords(path=path).access_of("correct horse") is Access.FULL
    write_password(path, "may only look", Access.READ)
    assert Passwords(path=path).access_of("may only look") is Access.READ


@pytest.mark.parametrize("data", [b"", b"{}", b'{"secret": "x"}', b'{"full": ""}', '{"full": "x"}'.encode("utf-16")])
def test_a_file_without_a_password_lets_nobody_in(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    path.write_bytes(data)
    path.chmod(0o600)
    passwords = Passwords(path=path)
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
