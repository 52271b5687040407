"""The keys of tokens in the settings: read at the start, which fails with advice if one cannot be used."""

import importlib.metadata
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.keys import SECRET
from wsgateway import Gateway, Settings, StartError
from wsgateway.gateway.keys import read_keys, warnings_of

PEM = (
    ec.generate_private_key(ec.SECP256R1())
    .public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    .decode()
)


async def failure(**options: Any) -> str:
    gateway = Gateway(**options)
    with pytest.raises(StartError) as error:
        await gateway.start()
    assert gateway.failure
    return str(error.value)


def test_keys_of_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "public key, newest.pem"
    path.write_text(PEM)
    one_line = PEM.replace("\n", "\\n")
    keys = read_keys(Settings(token_secret=(SECRET,), token_public_key=(PEM, str(path), one_line)))
    assert [sorted(key.algorithms)[0] for key in keys] == ["HS256", "ES256", "ES256", "ES256"]


async def test_a_key_that_cannot_be_used_fails_the_start(tmp_path: Path) -> None:
    missing, other = str(tmp_path / "missing.pem"), tmp_path / "other.pem"
    other.write_text("no key")
    assert f"token_public_key '{missing}': the file cannot be read" in await failure(token_public_key=missing)
    assert "is not a public key in PEM" in await failure(token_public_key=str(other))
    assert "is not a public key in PEM" in await failure(token_public_key="-----BEGIN PUBLIC KEY-----")
    assert "token_public_key or token_jwks" in await failure(token_secret=[" ".join(PEM.split("\n")).strip()])
    text = await failure(token_public_key=PEM, token_algorithms=["RS256"])
    assert "its algorithm is not in token_algorithms, add ES256" in text


@pytest.mark.parametrize(
    ("options", "missing", "works"),
    [
        ({"token_secret": SECRET}, "PyJWT", False),
        ({"token_public_key": PEM}, "cryptography", False),
        ({"token_secret": SECRET}, "cryptography", True),
        ({}, "PyJWT", True),
    ],
)
async def test_without_the_packages_the_start_fails_with_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], missing: str, works: bool
) -> None:
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name == missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("wsgateway.gateway.keys.version", without)
    if works:
        gateway = Gateway(**options)
        await gateway.start()
        await gateway.stop()
    else:
        assert f"requires {missing}: pip install 'wsgateway[jwt]'" in await failure(**options)


@pytest.mark.parametrize("old", ["2.12.1", "1.7.1", "2.9"])
async def test_an_old_version_fails_the_start(monkeypatch: pytest.MonkeyPatch, old: str) -> None:
    monkeypatch.setattr("wsgateway.gateway.keys.version", lambda _: old)
    assert f"PyJWT {old} has security holes: pip install 'PyJWT>=2.13'" in await failure(token_secret=SECRET)


def test_without_a_key_the_packages_are_not_imported(tmp_path: Path) -> None:
    code = "import sys, wsgateway.testing; wsgateway.Gateway(); print({'jwt', 'cryptography'} & sys.modules.keys())"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True).stdout.strip()
        == "set()"
    )


async def test_a_short_secret_causes_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    gateway = Gateway(token_secret=["hush", "hush hush", SECRET])
    await gateway.start()
    await gateway.stop()
    lines = [record.getMessage() for record in caplog.records if "token_secret" in record.getMessage()]
    assert len(lines) == 1
    assert "less than 32 bytes" in lines[0]
    assert "hush" not in caplog.text


def test_settings_without_effect_are_named() -> None:
    (text,) = warnings_of(Settings(token_issuer=("me",), anonymous=True))
    assert text.startswith("token_issuer, anonymous are set, but no token is checked")
    assert not list(warnings_of(Settings(token_secret=(SECRET,), token_issuer=("me",), anonymous=True)))
    assert not list(warnings_of(Settings(token_cookie="session", token_user_claim="uid")))
