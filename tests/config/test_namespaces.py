"""The namespace of a channel, compared with a slow matcher."""

import pickle
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from wsgateway.config.channels import ChannelSettings, fault_of_pattern
from wsgateway.config.namespaces import MAX_REMEMBERED, Namespaces, check_name, warnings_of
from wsgateway.exceptions import ChannelError


def namespaces(*patterns: str) -> Namespaces:
    return Namespaces({pattern: ChannelSettings(history=number) for number, pattern in enumerate(patterns)})


def test_without_namespaces_every_name_has_the_default_settings() -> None:
    found = Namespaces({})
    assert not found.is_declared
    assert found.find("anything:1") == ChannelSettings()
    assert found.namespace_of("anything:1") == ""


def test_an_exact_name_beats_all_and_the_longest_prefix_beats_shorter_ones() -> None:
    found = namespaces("*", "room:*", "room:vip:*", "room:vip:1")
    assert found.is_declared
    names = ("x", "room:", "room:1", "room:vip", "room:vip:", "room:vip:1", "room:vip:12", "Room:1")
    assert [found.namespace_of(name) for name in names] == [
        "*", "room:*", "room:*", "room:*", "room:vip:*", "room:vip:1", "room:vip:*", "*",
    ]  # fmt: skip
    assert [found.find(name).history for name in names] == [0, 1, 1, 1, 2, 3, 2, 0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rom:1", 'there is no channel "rom:1", did you mean "room:*"?'),
        ("rooom:" + "1" * 200, 'did you mean "room:*"?'),
        ("news", 'there is no channel "news", did you mean "new"?'),
        ("zzzzzz", 'there is no channel "zzzzzz"'),
        ("", "the channel name is empty"),
        ("a b", 'the channel name "a b" contains a space'),
        ("room:*", 'the channel name "room:*" contains `*`'),
        ("a\nb", r'the channel name "a\nb" contains a space or a character that is not printable'),
        ("a\u2028b", r"a\u2028b"),
        ("\ud800", r"\ud800"),
        ("\u00a0", "not printable"),
        ("\u202e", "not printable"),
        ("x" * 256, "has more than 255 bytes in UTF-8"),
        ("é" * 128, "has more than 255 bytes in UTF-8"),
        ("x" * 1_000_000, "has more than 255 bytes in UTF-8"),
        (5, "the channel name is int, use a str"),
        (None, "the channel name is NoneType, use a str"),
        (["room:1"], "the channel name is list, use a str"),
    ],
)
def test_a_channel_that_cannot_exist_is_an_error_that_says_why(name: object, said: str) -> None:
    found = namespaces("room:*", "new")
    for ask in (found.find, found.namespace_of):
        with pytest.raises(ChannelError) as caught:
            ask(name)  # type: ignore[arg-type]  # names as a client may send them
        assert said in str(caught.value)
        assert len(str(caught.value)) < 400
        assert str(caught.value).isprintable()


def test_the_reason_for_a_client_names_no_namespace() -> None:
    with pytest.raises(ChannelError) as caught:
        namespaces("admin:*").find("admn:1")
    assert caught.value.reason == 'there is no channel "admn:1"'
    assert str(caught.value) == 'there is no channel "admn:1", did you mean "admin:*"?'
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.name, again.known) == (str(caught.value), "admn:1", ("admin:*",))


def test_the_longest_names_are_taken() -> None:
    check_name("x" * 255)
    check_name("é" * 127 + "x")
    assert namespaces("x" * 254 + "*").find("x" * 255)


def test_a_flood_of_names_is_not_remembered() -> None:
    found = namespaces("room:*", "*")
    for number in range(3 * MAX_REMEMBERED):
        assert found.namespace_of(f"room:{number}") == "room:*"
        assert len(found._remembered) <= MAX_REMEMBERED
    assert found.namespace_of("x") == "*"


NAMES = st.text("ab:é", max_size=5)


@given(st.sets(st.builds(str.__add__, NAMES, st.sampled_from(["", "*"]))), NAMES.filter(bool))
def test_the_namespace_is_that_of_a_slow_matcher(patterns: set[str], name: str) -> None:
    patterns = {pattern for pattern in patterns if not fault_of_pattern(pattern)}
    matching = [one for one in patterns if one == name or (one.endswith("*") and name.startswith(one[:-1]))]
    best = name if name in matching else max(matching, key=len, default=None)
    found = namespaces(*sorted(patterns))
    if not patterns:
        assert found.namespace_of(name) == ""
    elif best is None:
        with pytest.raises(ChannelError, match="there is no channel"):
            found.find(name)
    else:
        assert found.namespace_of(name) == best
        assert found.find(name).history == sorted(patterns).index(best)


@given(st.text(max_size=300))
def test_a_name_is_what_the_rules_say_and_survives_a_url(name: str) -> None:
    data = name.encode(errors="surrogatepass")
    try:
        check_name(name)
    except ChannelError:
        assert not 1 <= len(data) <= 255 or not name.isprintable() or " " in name or "*" in name
    else:
        assert 1 <= len(data) <= 255
        assert name.isprintable()
        assert not set(name) & set(" *")
        query = QueryParams(f"channel={quote(name, safe='')}&channel={quote(name)}")
        assert query.getlist("channel") == [name, name]


def test_a_public_star_beside_on_subscribe_is_a_warning_that_names_the_rest() -> None:
    public, private = ChannelSettings(public=True), ChannelSettings()
    (line,) = warnings_of({"*": public, "room:*": private}, has_on_subscribe=True)
    assert line == (
        '[channels."*"] is public, so every client may subscribe, and on_subscribe is called for no channel '
        'except those of "room:*"; set public = false if on_subscribe is to decide'
    )
    (line,) = warnings_of({"*": public, "room:*": public}, has_on_subscribe=True)
    assert "is called for no channel; set public = false" in line


@pytest.mark.parametrize("pattern", ["*", "room:*"])
@pytest.mark.parametrize("public", [False, True])
@pytest.mark.parametrize("has_on_subscribe", [False, True])
def test_other_combinations_are_no_warning(pattern: str, public: bool, has_on_subscribe: bool) -> None:
    lines = list(warnings_of({pattern: ChannelSettings(public=public)}, has_on_subscribe=has_on_subscribe))
    assert bool(lines) is (pattern == "*" and public and has_on_subscribe)
