"""Addresses compare the same however a server spells them."""

import pytest

from wsgateway.config.addresses import MAX_ADDRESS, is_loopback, plain_address, url_host


@pytest.mark.parametrize(
    ("spelled", "plain"),
    [
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::FFFF:203.0.113.7", "203.0.113.7"),
        ("::ffff:7f00:1", "127.0.0.1"),
        ("0:0:0:0:0:ffff:192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("2001:db8::ffff", "2001:db8::ffff"),
        ("::ffff:not.an.address", "::ffff:not.an.address"),
        ("example.com", "example.com"),
        ("", ""),
    ],
)
def test_a_mapped_address_is_the_ipv4_address(spelled: str, plain: str) -> None:
    assert plain_address(spelled) == plain


@pytest.mark.parametrize("claimed", ["x" * 30_000, "::ffff:" + "1" * 30_000, "1.2.3.4:" + "5" * 30_000])
def test_an_address_has_a_bounded_length(claimed: str) -> None:
    assert plain_address(claimed) == claimed[:MAX_ADDRESS]
    assert not is_loopback(claimed)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "::ffff:127.0.0.1"])
def test_a_loopback_address_in_any_spelling(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "example.com", "10.0.0.1", "::ffff:10.0.0.1", "localhost.example.com", "::", "[::]"]
)
def test_no_other_host_is_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("[::]", "[::1]"),
        ("::1", "[::1]"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("127.0.0.1", "127.0.0.1"),
        ("example.com", "example.com"),
    ],
)
def test_a_url_names_a_host_that_can_be_connected_to(host: str, named: str) -> None:
    assert url_host(host) == named
