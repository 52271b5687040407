"""Who may connect and who may send (DESIGN: closed by default, open by naming). No I/O: headers in, a refusal or
None out. A refusal says what happened, which setting would allow it, and where the documentation explains it."""

import enum
import hmac
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from wsgateway.addresses import is_loopback
from wsgateway.config import AdminSettings, Settings, normalized_origin

DOCS = "docs/troubleshooting.md"

RawHeaders = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer other than 200: `kind` is its label in the metrics, `help` the part of the documentation."""

    status: int
    kind: str
    detail: str
    help: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.detail} ({DOCS}#{self.help})" if self.help else self.detail


class Rules:
    """The rules of one gateway. `bound_host` is the address it listens on, where the gateway knows it."""

    def __init__(self, settings: Settings, *, bound_host: str | None = None) -> None:
        self._hosts = settings.allowed_hosts
        self._origins = frozenset(settings.allowed_origins)
        self._keys = tuple(key.encode() for key in settings.api_key)
        self._local_access = settings.local_access
        self._bound_host = bound_host

    def openings(self) -> Iterator[str]:
        """What is open because nothing was configured, a line for each, for the log."""
        if self._local_access and not self._keys:
            yield "no api_key is set: /send, /metrics and /info answer local callers only"
        if not self._origins and (self._bound_host is None or is_loopback(self._bound_host)):
            yield "allowed_origins is not set: on loopback, pages of any loopback origin may connect"

    def check_host(self, scope: Mapping[str, Any]) -> Refusal | None:
        """400 unless `Host` is on `allowed_hosts`, where that is set."""
        if not self._hosts or "*" in self._hosts:
            return None
        name = _host_name(_one(scope["headers"], b"host") or "")
        if any(name == host or (host.startswith("*.") and name.endswith(host[1:])) for host in self._hosts):
            return None
        detail = f"the host {name[:100]!r} is not on allowed_hosts; add it there if clients may use it"
        return Refusal(400, "host", detail, "unknown-host")

    def check_origin(self, scope: Mapping[str, Any]) -> Refusal | None:
        """403 if a page of another site wants in (RFC 6455 10.2). A client without `Origin` is no browser."""
        origins = _values(scope["headers"], b"origin")
        if not origins:
            return None
        if len(origins) > 1:
            return Refusal(403, "origin", "the request has more than one Origin, a browser sends one", "foreign-origin")
        origin = origins[0]
        if "*" in self._origins or origin in self._origins or origin == _own_origin(scope):
            return None
        if not self._origins and self._loopback(scope) and _LOOPBACK_ORIGIN.fullmatch(origin):
            return None
        detail = f"pages from {origin[:100]!r} may not connect; add that origin to allowed_origins if they may"
        return Refusal(403, "origin", detail, "foreign-origin")

    def check_caller(self, scope: Mapping[str, Any]) -> Refusal | None:
        """401 or 403 unless the caller has a key or, where none is set, is local."""
        if self._keys:
            return None if self.has_key(scope["headers"]) else _UNAUTHORIZED
        if not self._local_access:
            detail = "this gateway takes no calls: give it an api_key, or local_access = true for callers on its host"
            return Refusal(403, "no_key_set", detail, "no-key-set")
        foreign = self._why_not_local(scope)
        if foreign:
            detail = f"without an api_key only local callers are answered, and {foreign}; set api_key to allow others"
            return Refusal(403, "not_local", detail, "not-local")
        return None

    def has_key(self, headers: RawHeaders) -> bool:
        """Whether a request with `headers` carries one of the keys."""
        return self.key_of(headers) is not None

    def key_of(self, headers: RawHeaders) -> bytes | None:
        """Which of the keys a request with `headers` carries. Each is compared in constant time."""
        given = [value for name, value in headers if name == b"authorization"]
        scheme, _, key = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        key = key.strip()
        matches = [hmac.compare_digest(key, known) for known in self._keys]  # all of them, whichever fits
        return key if scheme.lower() == b"bearer" and any(matches) else None

    def is_local(self, scope: Mapping[str, Any]) -> bool:
        """Whether the caller runs on this host, and no proxy or foreign page speaks through it."""
        return self._why_not_local(scope) is None

    def _why_not_local(self, scope: Mapping[str, Any]) -> str | None:
        client = scope.get("client")
        if not client or not is_loopback(client[0]):
            return "this one is not on loopback"
        forwarded = next((name for name, _ in scope["headers"] if _FORWARDED.fullmatch(name)), None)
        if forwarded or scope.get("http_version") == "1.0":
            return f"a proxy has forwarded this one ({(forwarded or b'HTTP/1.0').decode('latin-1')})"
        host = _host_name(_one(scope["headers"], b"host") or "")
        if not is_loopback(host):
            return f"this one asks for the host {host[:100]!r}"
        if self.check_origin(scope):
            return "this one comes from a page of another origin"
        return None

    def _loopback(self, scope: Mapping[str, Any]) -> bool:
        server = scope.get("server")
        host = self._bound_host or (server[0] if server else None)
        return bool(host) and is_loopback(str(host))


class Access(enum.IntEnum):
    """What somebody may do with the gateways of a supervisor."""

    NONE = 0
    READ = 1
    FULL = 2


class AdminRules:
    """Who may steer the gateways of a supervisor: rules for tokens, and for local callers where nothing is set."""

    def __init__(self, admin: AdminSettings, *, bound_host: str | None = None) -> None:
        common: dict[str, Any] = {
            "allowed_hosts": admin.allowed_hosts,
            "allowed_origins": admin.allowed_origins,
            "local_access": True,
        }
        full = admin.token
        self.has_token = bool(full or admin.read_token)
        self._nobody_writes = bool(admin.read_token and not full)  # else local callers would, with a read-only token
        self._full = Rules(Settings(**common, api_key=full), bound_host=bound_host)
        self._reading = Rules(Settings(**common, api_key=(*full, *admin.read_token)), bound_host=bound_host)

    def check(self, scope: Mapping[str, Any], *, writes: bool, has_password: bool = False) -> Refusal | None:
        """None for a caller that may; 400, 401 or 403 with the reason for any other."""
        refusal = self.check_page(scope)
        if refusal is None and has_password and not self.has_token:
            detail = "the panel has a password, so that this needs a token: set one as [admin] token"
            refusal = Refusal(401, "key", detail, "wrong-key", (("www-authenticate", "Bearer"),))
        refusal = refusal or self._reading.check_caller(scope)
        if refusal is None and writes and self._nobody_writes:
            refusal = Refusal(403, "read_only", "this token may only look, and no api_key is set that may do more")
        elif refusal is None and writes:
            refusal = self._full.check_caller(scope)
            if refusal is not None and refusal.status == 401:
                refusal = Refusal(403, "read_only", "this token may only look", "wrong-key")
        if refusal is not None:  # the rules speak of a gateway's keys
            refusal = replace(refusal, detail=refusal.detail.replace("api_key", "[admin] token"))
        return refusal

    def check_page(self, scope: Mapping[str, Any]) -> Refusal | None:
        """400 or 403 for a host name that is not allowed, or a page of another site."""
        return self._reading.check_host(scope) or self._reading.check_origin(scope)

    def is_local(self, scope: Mapping[str, Any]) -> bool:
        """Whether the caller runs on this host, and no proxy or foreign page speaks through it."""
        return self._reading.is_local(scope)

    def access_of(self, password: str) -> Access:
        """What somebody may do who gives a token as a password."""
        headers = [(b"authorization", b"Bearer " + password.encode())]
        if self._full.has_key(headers):
            return Access.FULL
        return Access.READ if self._reading.has_key(headers) else Access.NONE


_UNAUTHORIZED = Refusal(
    401,
    "key",
    "the call needs `Authorization: Bearer` and one of the keys in api_key",
    "wrong-key",
    (("www-authenticate", "Bearer"),),
)

_FORWARDED = re.compile(rb"forwarded|x-forwarded-.*|x-real-ip|via")
_LOOPBACK_ORIGIN = re.compile(r"https?://(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?")
_SCHEMES = {"ws": "http", "wss": "https"}


def _own_origin(scope: Mapping[str, Any]) -> str | None:
    host = _one(scope["headers"], b"host")
    return _origin_at(scope.get("scheme", "http"), host) if host and len(host) < MAX_HOST else None


MAX_HOST = 300
"""Characters of a host name with its port; a name has 253 (RFC 1035 2.3.4)."""


@lru_cache(maxsize=256)
def _origin_at(scheme: str, host: str) -> str | None:
    try:
        return normalized_origin(f"{_SCHEMES.get(scheme, scheme)}://{host}")
    except ValueError:
        return None


def _values(headers: RawHeaders, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key == name]


def _one(headers: RawHeaders, name: bytes) -> str | None:
    values = _values(headers, name)
    return values[0] if len(values) == 1 else None


def _host_name(host: str) -> str:
    """The name in a `Host` header, without the port, in lower case."""
    name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
    return name.lower()
