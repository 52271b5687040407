"""The recipients of a message, and what an application may name them by."""

from typing import Any
from uuid import UUID

import pytest

from wsgateway.hub.target import target_of

KEY = UUID(int=7)


@pytest.mark.parametrize(("user", "text"), [("ann", "ann"), (7, "7"), (KEY, str(KEY))])
def test_a_user_is_named_as_in_conn_user(user: object, text: str) -> None:
    target = target_of(user=user)
    assert target is not None
    assert target.user == text


def test_an_object_of_another_type_is_refused_without_reading_it() -> None:
    def query(*arguments: object) -> Any:
        raise LookupError("a query on the event loop")

    lazy = type("Lazy", (), {"__class__": property(query), "__eq__": query, "__repr__": query, "__bool__": query})
    sentence = "user is of type Lazy, use a str, an int, or a UUID, such as the primary key of the user"
    with pytest.raises(TypeError, match=sentence):
        target_of(user=lazy())  # such as Django's `request.user`
    with pytest.raises(TypeError, match="user is True, use a str"):
        target_of(user=True)
