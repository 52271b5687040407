"""Origins in the one spelling in which browsers compare them."""

import pytest

from wsgateway.config.origins import ascii_host, normalized_origin


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("wss://Example.com:443/", "https://example.com"),
        ("ws://example.com:8080", "http://example.com:8080"),
        ("https://example.com:", "https://example.com"),
        ("https://example.com:0443", "https://example.com"),
        ("http://faß.example", "http://xn--fa-hia.example"),
        ("http://FASS.example", "http://fass.example"),
        ("http://ÄRGER.example", "http://xn--rger-koa.example"),
        ("http://\uff45xample.com", "http://example.com"),
        ("http://example。com", "http://example.com"),
        ("http://%C3%A4rger.example", "http://xn--rger-koa.example"),
        ("http://ex%61mple.com", "http://example.com"),
        ("http://[0:0::1]:80", "http://[::1]"),
        ("http://example.com.", "http://example.com."),
        ("file://", "file://"),
        ("file:///", "file://"),
        ("app://.", "app://."),
        ("Capacitor://LocalHost", "capacitor://localhost"),
        ("tauri://localhost/", "tauri://localhost"),
        ("vscode-webview://0abc:443", "vscode-webview://0abc:443"),
        ("safari-web-extension://AB-12", "safari-web-extension://ab-12"),
    ],
)
def test_every_spelling_becomes_the_browsers(text: str, origin: str) -> None:
    assert normalized_origin(text) == origin
    assert normalized_origin(origin) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com",
        "localhost:3000",
        "//example.com",
        "http:example.com",
        "http://",
        "http:///",
        "https://:443",
        "http://a/b",
        "http://a//",
        "http://a?",
        "http://a#",
        "http://u@a",
        "http://@a",
        "http://a\\",
        "http://a b",
        "http://a\tb",
        "http://a\n",
        "http://a\u3000b",
        "http://a%2fb",
        "http://a%00",
        "http://a%ff",
        "http://a%",
        "http://a:x",
        "http://a:65536",
        "http://a:999999",
        "http://a:\u0661",
        "http://[::1",
        "http://[1.2.3.4]",
        "http://[fe80::1%25eth0]",
        "http://a]b",
        "\u017fcheme://a",
        "app://a b",
        "app://a/b",
        "NULL",
    ],
)
def test_what_is_not_an_origin_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an origin; one looks like https://example\.com"):
        normalized_origin(text)


def test_a_wildcard_inside_an_origin_is_explained() -> None:
    with pytest.raises(ValueError, match="an origin cannot have a wildcard"):
        normalized_origin("https://*.example.com")


def test_a_name_that_is_ascii_is_only_lowered() -> None:
    assert ascii_host("*.My_Host.example") == "*.my_host.example"
