"""Decides which clients may connect and which callers may send. Access is closed until a setting opens it. No I/O.

A check takes the scope of a request and returns a refusal or None. A refusal contains what happened, the setting that
would allow it, and the part of the documentation that explains it.
"""

import hmac
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from wsgateway.auth.forwarding import forwarded_header, sign_of_proxy
from wsgateway.auth.headers import HeaderPairs, first_value, single_value, text_of, values_of
from wsgateway.config.addresses import is_loopback, remote_end_of
from wsgateway.config.origins import MAX_ORIGIN, normalized_origin
from wsgateway.config.settings import Settings
from wsgateway.exceptions import DOCS, Refusal

MAX_NAMED = 100
"""Characters of a request's text that a refusal quotes."""

_LOOPBACK_ORIGIN = re.compile(r"https?://(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?")

_KEY_SCHEMES = frozenset({b"bearer", b"apikey"})
"""The schemes of `Authorization` that carry a key, in lower case. Clients of the Centrifugo API use `apikey`."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A line for the log about access that is open by default. It is a warning if `is_loud`."""

    text: str
    is_loud: bool = False


class Rules:
    """The rules of one gateway.

    `bound_host` is the address that the gateway listens on, if it is known. `uid` is the user of this process, whose
    other processes are local callers on a Unix socket. With `loopback_origins`, pages of every loopback origin may
    connect to a gateway on loopback that names no origin. `owner` and `key_setting` are the names that refusals use for
    the gateway and for the setting with its keys.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        bound_host: str | None = None,
        uid: int | None = None,
        loopback_origins: bool = True,
        owner: str = "gateway",
        key_setting: str = "api_key",
    ) -> None:
        self._hosts = settings.allowed_hosts
        self._origins = frozenset(settings.allowed_origins)
        self._keys = tuple(key.encode() for key in settings.api_key)
        self._local_access = settings.local_access
        self._bound_host = bound_host
        self._uid = uid
        self._loopback_origins = loopback_origins and not settings.allowed_origins
        self._owner = owner
        self._key_setting = key_setting

    def openings(self, outside: str | None) -> Iterator[Opening]:
        """Yield lines for the log about access that is open, or closed, because it is not configured.

        `outside` names the setting that makes the gateway reachable from other hosts, or is None.
        """
        if not self._keys and self._local_access and outside is not None:
            yield Opening(
                f"local_access is true although {outside}: /send, /api, /metrics and /info answer callers on this "
                "host without a key, and every client of a proxy on this host that adds no forwarded header counts as "
                "one; "
                f"set api_key ({DOCS}#not-local)",
                is_loud=True,
            )
        elif not self._keys and self._local_access:
            yield Opening("no api_key is set: /send, /api, /metrics and /info answer local callers only (local_access)")
        elif not self._keys:
            because = "" if outside is None else f", because {outside}"
            yield Opening(
                f"no api_key is set: /send, /api, /metrics and /info refuse every caller{because}; "
                "set api_key, or local_access = true for callers on this host"
            )
        if self._loopback_origins and (self._bound_host is None or is_loopback(self._bound_host)):
            yield Opening("allowed_origins is not set: on loopback, pages of any loopback origin may connect")

    def check_host(self, scope: Mapping[str, Any]) -> Refusal | None:
        """Return a 400 unless `Host` is in `allowed_hosts`, or `allowed_hosts` is not set."""
        if not self._hosts or "*" in self._hosts:
            return None
        name = _host_name(scope)
        if any(name == host or (host.startswith("*.") and name.endswith(host[1:])) for host in self._hosts):
            return None
        detail = f"the host {name[:MAX_NAMED]!r} is not on allowed_hosts; add it there if clients may use it"
        return Refusal(400, "host", detail, "unknown-host")

    def check_origin(self, scope: Mapping[str, Any]) -> Refusal | None:
        """Return a 403 if the request comes from another site's page (RFC 6455 10.2). Programs send no `Origin`."""
        origins = values_of(scope["headers"], b"origin")
        if not origins:
            return None
        if len(origins) > 1:
            return Refusal(
                403, "origin", "the request has more than one Origin, but a browser sends only one", "cross-origin-page"
            )
        origin = text_of(origins[0])
        if self._names(origin):
            return None
        normal = _normalized(origin)
        if normal is not None and normal == _own_origin(scope):
            return self._check_own_name(scope, origin)
        takes_loopback = self._loopback_origins and self._is_on_loopback(scope)
        if takes_loopback and normal is not None and _LOOPBACK_ORIGIN.fullmatch(normal):
            return None
        detail = f"pages from {origin[:MAX_NAMED]!r} may not connect; add that origin to allowed_origins if they may"
        if normal is not None and normal == _own_origin(scope, is_secure=True):
            detail += (
                ". The request arrived as http: if a proxy ends TLS, let it set X-Forwarded-Proto, and let the server "
                "trust it (FORWARDED_ALLOW_IPS)"
            )
        return Refusal(403, "origin", detail, "cross-origin-page")

    def names_origin(self, scope: Mapping[str, Any]) -> bool:
        """Return whether the request has one `Origin`, and `allowed_origins` contains it or `*`."""
        origin = single_value(scope["headers"], b"origin")
        return origin is not None and self._names(text_of(origin))

    def _names(self, origin: str) -> bool:
        if not self._origins:
            return False
        return "*" in self._origins or origin in self._origins or _normalized(origin) in self._origins

    def _check_own_name(self, scope: Mapping[str, Any], origin: str = "") -> Refusal | None:
        """Return a 403 for a page of the gateway's own address if its name may have been rebound to loopback."""
        name = _host_name(scope)
        if self._hosts or not self._is_on_loopback(scope) or is_loopback(name) or forwarded_header(scope["headers"]):
            return None
        if not _names_port(scope):
            return None
        page = f"the page from {origin[:MAX_NAMED]!r}" if origin else "the request"
        detail = (
            f"{page} reached a loopback address by the name {name[:MAX_NAMED]!r}, as a page whose name was rebound "
            "does; add the name to allowed_hosts if it is the gateway's"
        )
        return Refusal(403, "origin", detail, "another-name")

    # Streams and their sessions, which pages reach by HTTP

    def check_page(self, scope: Mapping[str, Any]) -> Refusal | None:
        """Return a 403 if an HTTP request comes from another site's page.

        A browser sends no `Origin` with a GET of the same origin, so `Host` and `Sec-Fetch-Site` are checked then.
        """
        if values_of(scope["headers"], b"origin"):
            return self.check_origin(scope)
        site = first_value(scope["headers"], b"sec-fetch-site").lower()
        if site in (b"cross-site", b"same-site"):
            detail = (
                f"the request comes from another site's page (Sec-Fetch-Site: {site.decode()}) and has no Origin; "
                "open the stream with EventSource or fetch, from a page whose origin is in allowed_origins"
            )
            return Refusal(403, "origin", detail, "cross-origin-page")
        return self._check_own_name(scope)

    def cors_headers(self, scope: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
        """Return the headers that let a page of an accepted origin read the response (WHATWG Fetch 3.3).

        Empty for any other origin, for a page of the gateway's own origin, and without `Origin`.
        """
        origin = single_value(scope["headers"], b"origin")
        if origin is None or self.check_origin(scope) is not None:
            return []
        text = text_of(origin)
        if "*" in self._origins and text not in self._origins and _normalized(text) not in self._origins:
            return [(b"access-control-allow-origin", b"*")]
        if not self._names(text) and _normalized(text) == _own_origin(scope):
            return []
        return [
            (b"access-control-allow-origin", origin),
            (b"vary", b"origin"),
            (b"access-control-allow-credentials", b"true"),
        ]

    def check_caller(self, scope: Mapping[str, Any]) -> Refusal | None:
        """Return a 401 or 403 unless the caller has a key or, if no key is set, is local."""
        setting = self._key_setting
        if self._keys:
            if self.has_key(scope["headers"]):
                return None
            detail = f"the key of this request is not one of the keys in {setting}"
            if not _carries_key(scope["headers"]):
                detail = (
                    f"the request has no key; send one of the keys in {setting}, as `Authorization: Bearer KEY` or "
                    "`X-API-Key: KEY`"
                )
            return Refusal(401, "key", detail, "wrong-key", (("www-authenticate", "Bearer"),))
        if not self._local_access:
            detail = (
                f"this {self._owner} refuses every caller, because no {setting} is set and local_access is false; "
                f"set {setting}, or local_access = true for callers on the same host"
            )
            return Refusal(403, "no_key_set", detail, "no-key-set")
        reason = self.why_not_local(scope)
        if reason is None:
            return None
        detail = f"without an {setting} only local callers are answered (local_access), and {reason}; "
        return Refusal(403, "not_local", f"{detail}set {setting} to allow others", "not-local")

    def has_key(self, headers: HeaderPairs) -> bool:
        """Return whether a request with `headers` carries one of the keys."""
        return self.key_of(headers) is not None

    def key_of(self, headers: HeaderPairs) -> bytes | None:
        """Return the key that a request with `headers` carries. Each key is compared in constant time.

        It is in `X-API-Key`, or in `Authorization` with the scheme `Bearer` or `apikey`. A repeated header has none.
        """
        scheme, _, key = (single_value(headers, b"authorization") or b"").partition(b" ")
        key = key.strip()
        matches = [hmac.compare_digest(key, known) for known in self._keys]  # all of them, whichever matches
        if scheme.lower() in _KEY_SCHEMES and any(matches):
            return key
        key = (single_value(headers, b"x-api-key") or b"").strip()  # on its own, because a proxy may add the other one
        matches = [hmac.compare_digest(key, known) for known in self._keys]
        return key if any(matches) else None

    def why_not_local(self, scope: Mapping[str, Any]) -> str | None:
        """Return why the caller is not local; None for a program on this host or a page of a loopback origin."""
        remote_end = remote_end_of(scope)
        if remote_end.host and not is_loopback(remote_end.host):
            return "this one is not on loopback"
        if not remote_end.host and (remote_end.uid is None or remote_end.uid not in (self._uid, 0)):
            return "this one is not on loopback, nor a process of the gateway's user or of root on its Unix socket"
        sign = sign_of_proxy(scope)
        if sign is not None:
            return f"a proxy has forwarded this one ({sign[:MAX_NAMED]})"
        name = _host_name(scope)
        if not is_loopback(name):
            return f"this one asks for the host {name[:MAX_NAMED]!r}"
        if self.check_origin(scope):
            return "this one comes from another site's page"
        return None

    def _is_on_loopback(self, scope: Mapping[str, Any]) -> bool:
        server = scope.get("server")
        host = self._bound_host or (server[0] if server else None)
        return bool(host) and is_loopback(str(host))


def _carries_key(headers: HeaderPairs) -> bool:
    """Return whether a request has a key where `Rules.key_of` looks for it."""
    scheme, _, key = (single_value(headers, b"authorization") or b"").partition(b" ")
    return bool(
        (scheme.lower() in _KEY_SCHEMES and key.strip()) or (single_value(headers, b"x-api-key") or b"").strip()
    )


def _own_origin(scope: Mapping[str, Any], *, is_secure: bool = False) -> str | None:
    """Return the origin of the gateway, as the request names it; with `is_secure`, the one if a proxy ends TLS."""
    host = single_value(scope["headers"], b"host")
    scheme = "https" if is_secure else scope.get("scheme", "http")
    return _normalized(f"{scheme}://{text_of(host)}") if host and b"/" not in host else None


def _normalized(origin: str) -> str | None:
    return _cached(origin) if len(origin) <= MAX_ORIGIN else None


@lru_cache(maxsize=256)
def _cached(origin: str) -> str | None:
    try:
        return normalized_origin(origin)
    except ValueError:
        return None


def _host_name(scope: Mapping[str, Any]) -> str:
    """Return the name in `Host`, without the port, in lower case; empty if the header is missing or repeated."""
    host = _host(scope)
    name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
    return name[:MAX_ORIGIN].lower()


def _names_port(scope: Mapping[str, Any]) -> bool:
    """Return whether `Host` names a port, or the server listens on the scheme's default port.

    A page whose name was rebound to this server names its port, unless that is the default port. A host without a port
    shows that a proxy or a forwarder is in between.
    """
    server = scope.get("server")
    host = _host(scope)
    if ":" in host[host.rfind("]") + 1 :] or not server or server[1] is None:
        return True
    return bool(server[1] == (443 if scope.get("scheme") in ("https", "wss") else 80))


def _host(scope: Mapping[str, Any]) -> str:
    return (single_value(scope["headers"], b"host") or b"").decode("latin-1")
