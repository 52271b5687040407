"""What the environment and a server's command line say of clients outside this machine."""

import os

import pytest

from wsgateway.config.exposure import outside_of_command, outside_of_environment, own_uid, worker_count


@pytest.mark.parametrize("value", ["127.0.0.1", "10.0.0.0/8", "*"])
def test_a_named_proxy_speaks_of_the_outside(value: str) -> None:
    assert outside_of_environment({"FORWARDED_ALLOW_IPS": value}) == "FORWARDED_ALLOW_IPS is set"


def test_an_empty_variable_and_none_say_nothing() -> None:
    assert outside_of_environment({"FORWARDED_ALLOW_IPS": " "}) is None
    assert outside_of_environment({}) is None


@pytest.mark.parametrize(
    "line",
    [
        "/usr/bin/uvicorn chat:app --host 0.0.0.0",
        "/venv/lib/uvicorn/__main__.py chat:app --host=::",
        "uvicorn chat:app --forwarded-allow-ips=*",
        "gunicorn -b 0.0.0.0:8000 chat:app",
        "gunicorn --bind=:8000 chat:app",
        "hypercorn chat:app --bind [::]:8000",
        "fastapi run chat.py",
    ],
)
def test_a_server_that_others_reach(line: str) -> None:
    assert outside_of_command(line.split(), {}) is not None


@pytest.mark.parametrize(
    "line",
    [
        "",
        "uvicorn chat:app --port 8000",
        "uvicorn chat:app --host 127.0.0.1",
        "uvicorn chat:app --host ::1",
        "gunicorn -b 127.0.0.1:8000 chat:app",
        "gunicorn -b unix:/run/chat chat:app",
        "hypercorn --bind [::1]:8000 chat:app",
        "fastapi dev chat.py",
        "fastapi run chat.py --host 127.0.0.1",
        "wsgateway serve --host 0.0.0.0",
        "pytest --host 0.0.0.0",
    ],
)
def test_a_server_for_this_machine_only_and_what_is_no_server(line: str) -> None:
    assert outside_of_command(line.split(), {}) is None


def test_the_variables_of_uvicorn_are_read_too() -> None:
    assert outside_of_command(["uvicorn"], {"UVICORN_HOST": "0.0.0.0"}) == "UVICORN_HOST is 0.0.0.0"
    assert outside_of_command(["uvicorn"], {"UVICORN_FORWARDED_ALLOW_IPS": "*"}) is not None
    assert outside_of_command(["uvicorn"], {"UVICORN_HOST": "localhost"}) is None
    assert outside_of_command(["python"], {"UVICORN_HOST": "0.0.0.0"}) is None


def test_the_user_of_this_process() -> None:
    assert own_uid() == os.geteuid()


@pytest.mark.parametrize(
    ("argv", "environ", "count"),
    [
        (["uvicorn", "app:app"], {}, 1),
        (["uvicorn", "--workers", "4", "app:app"], {}, 4),
        (["uvicorn", "--workers=3"], {"WEB_CONCURRENCY": "2"}, 3),
        (["gunicorn", "-w", "8"], {}, 8),
        (["uvicorn"], {"WEB_CONCURRENCY": "2"}, 2),
        (["uvicorn", "--workers"], {"WEB_CONCURRENCY": "many"}, 1),
    ],
)
def test_how_many_workers_a_command_line_says(argv: list[str], environ: dict[str, str], count: int) -> None:
    assert worker_count(argv, environ) == count
