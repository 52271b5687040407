from typing import Any

import pytest

from wsgateway.auth.admin import AdminRules
from wsgateway.auth.rules import Rules
from wsgateway.config.addresses import REMOTE_END, RemoteEnd
from wsgateway.config.settings import AdminSettings, Settings


def scope(
    *headers: tuple[str, str], scheme: str = "ws", client: str | None = "203.0.113.9", server: str = "203.0.113.1"
) -> dict[str, Any]:
    return {
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        "scheme": scheme,
        "client": (client, 1) if client else None,
        "server": (server, 80),
        "http_version": "1.1",
    }


@pytest.mark.parametrize(
    ("scheme", "host", "origin"),
    [
        ("ws", "good.com", "http://good.com"),
        ("wss", "good.com", "https://good.com"),
        ("wss", "good.com:443", "https://good.com"),
        ("ws", "good.com:8000", "http://good.com:8000"),
        ("ws", "Good.com", "http://good.com"),
        ("ws", "[2001:db8::1]:8000", "http://[2001:DB8:0::1]:8000"),
        ("wss", "good.com", "https://GOOD.com"),
        ("wss", "good.com", "HTTPS://good.com"),
        ("wss", "good.com", "https://good.com/"),
        ("wss", "good.com", "https://good.com:443"),
        ("wss", "good.com", "wss://good.com"),
        ("ws", "good.com:80", "ws://good.com/"),
        ("ws", "xn--fa-hia.example", "http://faß.example"),
        ("ws", "faß.example", "http://xn--fa-hia.example"),
        ("ws", "xn--fa-hia.example", "http://FAẞ.example"),
        ("ws", "xn--fa-hia.example", "http://fa%C3%9F.example"),
        ("ws", "xn--ls8h.example", "http://💩.example"),
        ("ws", "my_service", "http://my_service"),
    ],
)
def test_the_same_origin_passes_in_any_spelling(scheme: str, host: str, origin: str) -> None:
    asked = scope(("host", host), ("origin", origin), scheme=scheme)
    assert Rules(Settings()).check_origin(asked) is None


@pytest.mark.parametrize(
    "origin",
    [
        "https://good.com.evil.com",
        "https://evilgood.com",
        "http://good.com",
        "https://good.com:8443",
        "null",
        "ws://good.com",
        "https://good.com.",
        "https://good.com./",
        "https://good.com//",
        "https://good.com/path",
        "https://good.com?",
        "https://good.com/?query",
        "https://good.com#",
        "https://user@good.com",
        "https://@good.com",
        "https://good.com\\",
        "https://good.com%2f",
        "https://good.com:444",
        "https://good.com:65979",
        "https://go od.com",
        "https://go\tod.com",
        "app://good.com",
        "https://" + "good.com" * 100,
        "good.com",
        "",
        "https://",
        "*",
        "https://good.com, https://good.com",
        "http://localhost",
    ],
)
def test_any_other_origin_is_refused_with_the_setting(origin: str) -> None:
    refusal = Rules(Settings()).check_origin(scope(("host", "good.com"), ("origin", origin), scheme="wss"))
    assert refusal is not None
    assert refusal.status == 403
    assert "allowed_origins" in refusal.detail


def test_a_refusal_says_that_the_scheme_alone_differs() -> None:
    asked = scope(("host", "good.com"), ("origin", "https://good.com"), scheme="ws")
    refusal = Rules(Settings()).check_origin(asked)
    assert refusal is not None
    assert "The request arrived as http" in refusal.detail


def test_two_origins_are_refused_and_none_passes() -> None:
    rules = Rules(Settings(allowed_origins=("*",)))
    assert rules.check_origin(scope(("origin", "http://a"), ("origin", "http://a"))) is not None
    assert rules.check_origin(scope(("host", "good.com"))) is None


def test_named_origins_pass_and_a_star_allows_all() -> None:
    asked = scope(("host", "good.com"), ("origin", "https://shop.example"))
    assert Rules(Settings(allowed_origins=("https://SHOP.example:443",))).check_origin(asked) is None
    assert Rules(Settings(allowed_origins=("https://other.example",))).check_origin(asked) is not None
    assert Rules(Settings(allowed_origins=("*",))).check_origin(asked) is None


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "https://127.0.0.1", "http://127.9.9.9:1", "http://[::1]:5"]
)
def test_loopback_origins_pass_only_where_it_is_bound_to_loopback_and_nothing_is_configured(origin: str) -> None:
    asked = scope(("host", "localhost:10125"), ("origin", origin), server="127.0.0.1")
    assert Rules(Settings()).check_origin(asked) is None
    assert Rules(Settings(), bound_host="0.0.0.0").check_origin(asked) is not None
    assert Rules(Settings(allowed_origins=("https://a.example",))).check_origin(asked) is not None
    for trick in (origin + ".evil.com", origin + "@evil.com", origin + "//"):
        asked = scope(("host", "localhost:10125"), ("origin", trick), server="127.0.0.1")
        assert Rules(Settings()).check_origin(asked) is not None
    for spelling in (origin.upper(), origin + "/"):
        asked = scope(("host", "localhost:10125"), ("origin", spelling), server="127.0.0.1")
        assert Rules(Settings()).check_origin(asked) is None


def test_a_key_may_be_any_text_and_each_of_several_opens() -> None:
    rules = Rules(Settings(api_key=("one", "zwei ünd €")))
    for key in ("one", "zwei ünd €"):
        assert rules.check_caller(scope(("authorization", "bearer " + key))) is None
    for value in ("Bearer On", "Bearer onee", "one", "Bearer", "Basic one", ""):
        refusal = rules.check_caller(scope(("authorization", value)))
        assert refusal is not None
        assert refusal.status == 401


def test_a_key_stands_in_one_of_two_headers_each_given_once() -> None:
    rules = Rules(Settings(api_key=("one", "two")))
    assert rules.key_of([(b"x-api-key", b"two")]) == b"two"
    assert rules.key_of([(b"authorization", b"ApiKey two")]) == b"two"
    assert rules.key_of([(b"authorization", b"Bearer one"), (b"x-api-key", b"of a proxy")]) == b"one"
    assert rules.key_of([(b"authorization", b"Bearer of a proxy"), (b"x-api-key", b"two")]) == b"two"
    for name, value in ((b"x-api-key", b"one"), (b"authorization", b"Bearer one")):
        assert rules.key_of([(name, value), (name, value)]) is None
    for value in (b"", b"on", b"onee", b"Bearer one"):
        assert rules.key_of([(b"x-api-key", value)]) is None
    assert Rules(Settings()).key_of([(b"x-api-key", b"")]) is None


@pytest.mark.parametrize(
    "origin",
    [
        "file://",
        "app://.",
        "capacitor://localhost",
        "tauri://localhost",
        "chrome-extension://knipolnnllmklapflnccelgolnpehhpl",
        "null",
    ],
)
def test_every_scheme_can_be_allowed_by_name(origin: str) -> None:
    asked = scope(("host", "localhost:10125"), ("origin", origin), server="127.0.0.1")
    assert Rules(Settings()).check_origin(asked) is not None
    assert Rules(Settings(allowed_origins=(origin,))).check_origin(asked) is None
    assert Rules(Settings(allowed_origins=("app://other",))).check_origin(asked) is not None


@pytest.mark.parametrize("host", ["evil.example:10125", "localhost.:10125", "localhost.evil.example", "10.0.0.1"])
def test_on_loopback_an_own_origin_counts_for_loopback_names_only(host: str) -> None:
    asked = [("host", host), ("origin", f"http://{host}")]
    refusal = Rules(Settings()).check_origin(scope(*asked, server="127.0.0.1"))
    assert refusal is not None
    assert (refusal.status, "allowed_hosts" in refusal.detail) == (403, True)
    for rules in (
        Rules(Settings(), bound_host="0.0.0.0"),
        Rules(Settings(allowed_hosts=(host.partition(":")[0],))),
        Rules(Settings(allowed_origins=(f"http://{host}",))),
    ):
        assert rules.check_origin(scope(*asked, server="127.0.0.1")) is None
    forwarded = scope(*asked, ("x-forwarded-for", "203.0.113.9"), server="127.0.0.1")
    assert Rules(Settings()).check_origin(forwarded) is None
    assert Rules(Settings(), bound_host="::1").check_origin(scope(*asked)) is not None


def test_a_host_without_the_port_of_the_server_came_through_something_in_front() -> None:
    for host, port, is_refused in (
        ("a.example", 10125, False),
        ("a.example:10125", 10125, True),
        ("a.example", 80, True),
    ):
        asked = {**scope(("host", host), ("origin", f"http://{host}")), "server": ("127.0.0.1", port)}
        assert (Rules(Settings()).check_origin(asked) is not None) is is_refused


@pytest.mark.parametrize("host", ["localhost:10125", "LOCALHOST", "127.0.0.1", "127.8.8.8:1", "[::1]:10125"])
def test_on_loopback_an_own_origin_by_a_loopback_name_passes(host: str) -> None:
    rules = Rules(Settings(allowed_origins=("https://a.example",)))
    assert rules.check_origin(scope(("host", host), ("origin", f"http://{host}"), server="127.0.0.1")) is None


def test_allowed_hosts_are_compared_in_punycode() -> None:
    rules = Rules(Settings(allowed_hosts=("Faß.example", "*.BÜCHER.example")))
    for host in ("xn--fa-hia.example", "a.xn--bcher-kva.example:443"):
        assert rules.check_host(scope(("host", host))) is None
    assert rules.check_host(scope(("host", "fass.example"))) is not None


@pytest.mark.parametrize("client", ["127.0.0.1", "127.5.5.5", "::1", "::ffff:127.0.0.1"])
def test_every_loopback_address_is_local(client: str) -> None:
    assert Rules(Settings(local_access=True)).check_caller(scope(("host", "localhost"), client=client)) is None


@pytest.mark.parametrize("client", ["10.0.0.1", "::ffff:10.0.0.1", "::2", "", None])
def test_no_other_address_is_local(client: str | None) -> None:
    asked = scope(("host", "localhost"), client=client)
    assert Rules(Settings(local_access=True), uid=1000).check_caller(asked) is not None


@pytest.mark.parametrize(("uid", "is_local"), [(1000, True), (0, True), (1001, False), (None, False)])
def test_on_a_unix_socket_the_user_decides(uid: int | None, is_local: bool) -> None:
    rules = Rules(Settings(local_access=True), uid=1000)
    asked = {**scope(("host", "localhost"), client="127.0.0.1"), "extensions": {REMOTE_END: RemoteEnd("", uid)}}
    assert (rules.check_caller(asked) is None) is is_local
    forwarded = {**asked, "headers": [*asked["headers"], (b"x-forwarded-for", b"127.0.0.1")]}
    assert rules.check_caller(forwarded) is not None


def test_the_socket_counts_and_not_what_forwarded_headers_say() -> None:
    asked = {**scope(("host", "localhost"), client="127.0.0.1"), "extensions": {REMOTE_END: RemoteEnd("203.0.113.9")}}
    assert Rules(Settings(local_access=True)).check_caller(asked) is not None


def test_a_refusal_names_the_sign_and_the_settings() -> None:
    asked = scope(("host", "localhost"), ("x-envoy-internal", "true"), client="127.0.0.1")
    refusal = Rules(Settings(local_access=True)).check_caller(asked)
    assert refusal is not None
    for text in ("x-envoy-internal", "local_access", "api_key"):
        assert text in refusal.detail


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ([], "the request has no key; send one of the keys in api_key, as `Authorization: Bearer KEY`"),
        ([("authorization", "Basic a")], "the request has no key"),
        ([("authorization", "Bearer ")], "the request has no key"),
        ([("x-api-key", "a"), ("x-api-key", "k")], "the request has no key"),
        ([("authorization", "Bearer a")], "the key of this request is not one of the keys in api_key"),
        ([("authorization", "apikey a")], "the key of this request is not one"),
        ([("authorization", "Basic a"), ("x-api-key", "a")], "the key of this request is not one"),
    ],
)
def test_a_key_is_needed_where_one_is_set_even_locally(headers: list[tuple[str, str]], text: str) -> None:
    rules = Rules(Settings(local_access=True, api_key=("k",)))
    refusal = rules.check_caller(scope(("host", "localhost"), *headers, client="127.0.0.1"))
    assert refusal is not None
    assert refusal.status == 401
    assert refusal.detail.startswith(text)


OPEN = AdminSettings()
CLOSED = [
    AdminSettings(allowed_origins=("https://a.example",)),
    AdminSettings(allowed_hosts=("a.example", "localhost")),
    AdminSettings(host="0.0.0.0"),
    AdminSettings(local_access=False),
]


def test_the_admin_interface_is_open_to_local_callers_while_nothing_speaks_of_the_outside() -> None:
    asked = scope(("host", "localhost"), client="127.0.0.1", scheme="http")
    assert AdminRules(OPEN).check(asked, writes=True) is None
    for rules in (*map(AdminRules, CLOSED), AdminRules(OPEN, outside="x"), AdminRules(OPEN, bound_host="0.0.0.0")):
        refusal = rules.check(asked, writes=False)
        assert refusal is not None
        assert "local_access" in refusal.detail
        assert rules.why_not_local(asked) is not None
    written = AdminSettings(host="0.0.0.0", allowed_hosts=("localhost",), local_access=True)
    assert AdminRules(written, outside="x").check(asked, writes=True) is None


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ([], True),
        ([("origin", "http://localhost:10120")], True),
        ([("origin", "http://localhost:10120"), ("sec-fetch-site", "same-origin")], True),
        ([("sec-fetch-site", "none")], True),
        ([("sec-fetch-site", "cross-site"), ("content-type", "application/json; charset=utf-8")], True),
        ([("origin", "http://localhost:3000")], False),
        ([("origin", "http://127.0.0.1:10120")], False),
        ([("origin", "null")], False),
        ([("sec-fetch-site", "same-site")], False),
        ([("sec-fetch-site", "cross-site")], False),
        ([("sec-fetch-site", "cross-site"), ("content-type", "text/plain")], False),
        ([("sec-fetch-site", "cross-site"), ("content-type", "text/plain; x=application/json")], False),
        ([("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], False),
    ],
)
def test_a_page_of_another_port_manages_nothing(headers: list[tuple[str, str]], passes: bool) -> None:
    asked = scope(("host", "localhost:10120"), *headers, client="127.0.0.1", server="127.0.0.1", scheme="http")
    assert (AdminRules(OPEN).check(asked, writes=True) is None) is passes


def test_a_page_that_is_allowed_by_name_manages() -> None:
    rules = AdminRules(AdminSettings(allowed_origins=("https://a.example",), token=("t",)))
    headers = [("origin", "https://a.example"), ("sec-fetch-site", "cross-site"), ("authorization", "Bearer t")]
    asked = scope(("host", "localhost:10120"), *headers, client="127.0.0.1", scheme="http")
    assert rules.check(asked, writes=True) is None
