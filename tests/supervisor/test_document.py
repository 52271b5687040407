"""The text of a settings file, edited in place."""

from pathlib import Path

import pytest

from wsgateway import ConfigError
from wsgateway.supervisor.document import Document

PATH = Path("wsgateway.toml")


def test_a_key_is_added_before_the_comment_of_the_next_table() -> None:
    document = Document("[gateways.a]\nport = 0\n\n# the second\n[gateways.b]\nport = 0\n", PATH)
    document.change_gateway("a", {"drain": 2})
    assert document.dump()[0] == "[gateways.a]\nport = 0\ndrain = 2\n\n# the second\n[gateways.b]\nport = 0\n"


def test_only_an_explicit_step_describes_the_gateway_of_top_level_keys_in_a_table() -> None:
    document = Document("port = 1\n", PATH)
    assert not document.has_gateways
    assert document.dump()[0] == "port = 1\n"
    document.add_gateways("default", {})
    assert document.dump()[1] == {"port": 1, "gateways": {"default": {}}}


def test_gateways_that_are_not_tables_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"gateways \(wsgateway.toml\): each gateway is a table \[gateways.ID\]"):
        Document("[gateways]\na = 1\n", PATH)
