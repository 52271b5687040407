"""Values that JSON does not have by itself, and what is said of those that cannot be sent."""

import dataclasses
import datetime as dt
import enum
import json
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import anyio
import msgspec
import pytest
from pydantic import BaseModel, Field

from wsgateway import Event, Gateway, MessageError
from wsgateway.messages import Kind, Message, encode
from wsgateway.testing import Client, serve

UTC = dt.UTC
NOON = dt.datetime(2026, 1, 2, 12, 0, 0, 5000, tzinfo=UTC)


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(str, enum.Enum):  # noqa: UP042  as many write it, besides StrEnum
    HI = "hi"


@dataclasses.dataclass
class Item:
    name: str
    price: Any


class Order(msgspec.Struct, rename="camel", tag=True, omit_defaults=True):
    order_id: UUID
    items: Any = None
    note: str = ""


class Product(BaseModel):
    added: dt.datetime
    unit_price: Any = Field(serialization_alias="unitPrice", default=None)


def text_of(message: object) -> str:
    frame = encode(message)
    assert frame is not None
    assert frame.kind is not Kind.BYTES
    return frame.payload.decode()


@pytest.mark.parametrize(
    "value",
    [
        NOON,
        dt.datetime(2026, 1, 2),  # noqa: DTZ001  without a zone too
        dt.datetime(2026, 1, 2, tzinfo=ZoneInfo("Asia/Kolkata")),
        dt.datetime(1800, 1, 2, tzinfo=ZoneInfo("Europe/Amsterdam")),
        dt.date(1, 2, 3),
        dt.time(1, 2, 3, 100),
        dt.time(1, 2, tzinfo=UTC),
        UUID(int=7),
        Decimal("10.50"),
        Decimal("1E+2"),
        Decimal("-0"),
        Color.RED,
        Level.HIGH,
        Order(UUID(int=1), items=[Item("tea", Decimal("1.5"))]),
    ],
    ids=repr,
)
def test_a_value_is_encoded_as_msgspec_does(value: Any) -> None:
    for message in (value, {"nested": [{"deep": value}]}):
        assert text_of(message) == msgspec.json.encode(message).decode()


class Moment(dt.datetime):
    pass


class Money(Decimal):
    pass


class Name(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "not what it holds"


STRUCT_AROUND_MODEL = (
    '{"s":{"type":"Order","orderId":"00000000-0000-0000-0000-000000000000",'
    '"items":{"added":"2026-01-02T12:00:00.005000Z","unit_price":null}}}'
)
KEYS = '{"2026-01-02":1,"00000000-0000-0000-0000-000000000000":2,"red":3,"1.5":4,"hi":5}'
OTHER_KEYS = '{"1":"2026-01-02","2.5":0,"false":1,"null":2,"3":3}'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Moment(2026, 1, 2, tzinfo=UTC), '"2026-01-02T00:00:00Z"'),
        (Money("1.50"), '"1.50"'),
        ([Name("ann")], '["ann"]'),
        ([Word.HI, Level.HIGH], '["hi",3]'),
        (Item("é", (1, None, True)), '{"name":"é","price":[1,null,true]}'),
        (Product(added=NOON, unit_price=Decimal("1.5")), '{"added":"2026-01-02T12:00:00.005000Z","unit_price":"1.5"}'),
        ({"s": Order(UUID(int=0), items=Product(added=NOON))}, STRUCT_AROUND_MODEL),
        ({NOON.date(): 1, UUID(int=0): 2, Color.RED: 3, Money("1.5"): 4, Word.HI: 5}, KEYS),
        ({1: NOON.date(), 2.5: 0, False: 1, None: 2, Level.HIGH: 3}, OTHER_KEYS),
    ],
    ids=repr,
)
def test_a_value_is_encoded_nested_and_as_a_key(value: Any, text: str) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize(
    "value",
    [
        {"b": 1, "a": [True, None, -0.0, 1e22, 0.1, 10**40], "é\u2028": "\x00\U0001f600/"},
        {1: 2, None: 3, 1.5: 4, False: 5},
        [],
        (1, (2,)),
        "as it stands",
    ],
)
def test_values_of_json_are_written_as_before(value: Any) -> None:
    expected = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert text_of(value) == (value if isinstance(value, str) else expected)
    assert text_of({"beside": value, "x": NOON.date()}) == text_of({"beside": value, "x": "2026-01-02"})


@pytest.mark.parametrize(("value", "text"), [(Name("ann"), "ann"), (Word.HI, "hi"), (Color.RED, '"red"')])
def test_text_of_a_subclass_is_sent_as_it_stands(value: Any, text: str) -> None:
    assert text_of(value) == text


class Priced(BaseModel):
    price: float


class Unknown:
    __slots__ = ()


class ReprRaises:
    def __repr__(self) -> str:
        raise LookupError


class Broken(BaseModel):
    def model_dump(self, **_: Any) -> Any:
        raise LookupError("no such table")


def in_itself() -> list[Any]:
    value: list[Any] = []
    value.append({"again": value})
    return value


def item_in_itself() -> Item:
    item = Item("a", None)
    item.price = [item]
    return item


def nested(depth: int) -> Any:
    value: Any = NOON
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "path", "problem"),
    [
        ({"order": {"items": [0, 1, {"price": float("nan")}]}}, "$.order.items[2].price", "is NaN"),
        ([float("-inf")], "$[0]", "is -Infinity"),
        (float("inf"), "$", "is Infinity"),
        ({"a": Decimal("NaN")}, "$.a", "is NaN"),
        ({"a": Item("tea", Decimal("-Infinity"))}, "$.a.price", "is -Infinity"),
        ([Priced(price=float("nan"))], "$[0].price", "is NaN"),
        (Order(UUID(int=0), items=[float("nan")]), "$.items[0]", "is NaN"),
        (Order(UUID(int=0), items={"by id": Unknown()}), '$.items["by id"]', "of type tests.test_encoding.Unknown"),
        (Order(UUID(int=0), items=b"x"), "$.items", "of type bytes"),
        ({"a": ["b", b"c"]}, "$.a[1]", "of type bytes"),
        ([bytearray(b"c")], "$[0]", "of type bytearray"),
        ({"é": Unknown()}, "$.é", "convert it to a str"),
        ({"a": {1, 2}}, "$.a", "of type set"),
        ({"a": dt.timedelta(1)}, "$.a", "of type datetime.timedelta"),
        ({"a": Item}, "$.a", "of type type"),
        ({"a": 1j}, "$.a", "of type complex"),
        ({"a": iter([])}, "$.a", "list_iterator"),
        ({"a": ["\ud800"]}, "$.a[0]", "a lone surrogate, '\\ud800'"),
        ({"a": {"\udfff": 1}}, "$.a", "has a key with a lone surrogate, '\\udfff'"),
        ({"\udfff": Unknown()}, '$["\\udfff"]', "Unknown"),
        ({"a": {(1, 2): 1}}, "$.a", "has the key (1, 2) of type tuple"),
        ({b"a": 1}, "$", "has the key b'a' of type bytes"),
        ({"a": {ReprRaises(): 1}}, "$.a", "of type ReprRaises"),
        ({"a": {float("nan"): 1}}, "$.a", "has a key that is NaN"),
        ({"a": [10**5000]}, "$.a[0]", "more digits"),
        ({"a": in_itself()}, "$.a[0].again", "contains itself"),
        (item_in_itself(), "$.price[0]", "contains itself"),
        ({"a": nested(5000)}, "$.a[0][0]", "is nested too deep"),
        ({"a": [Broken()]}, "$.a[0]", "model_dump raised LookupError: no such table"),
        ({"x" * 100: Unknown()}, f'$["{"x" * 40}\\u2026"]', "Unknown"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_path(value: Any, path: str, problem: str) -> None:
    with pytest.raises(MessageError) as caught:
        encode(value)
    text = str(caught.value)
    assert f"JSON: {path}" in text
    assert problem in text
    assert len(text) < 400


def test_an_error_shows_both_ends_of_a_long_path() -> None:
    value: Any = {"end": Unknown()}
    for _ in range(50):
        value = [value]
    with pytest.raises(MessageError) as caught:
        encode({"begin": value})
    assert "$.begin[0][0][0][0][0]…[0][0][0][0][0].end is of" in str(caught.value)


def test_text_with_a_lone_surrogate_says_where_it_is() -> None:
    with pytest.raises(MessageError, match=r"a lone surrogate, '\\ud800', at character 3"):
        encode("abc\ud800")


class Counted(BaseModel):
    def model_dump(self, **_: Any) -> Any:
        CALLS.append(1)
        return {"n": len(CALLS)}


CALLS: list[int] = []


async def test_a_message_is_converted_once_however_many_receive_it() -> None:
    CALLS.clear()
    gateway = Gateway()
    async with serve(gateway) as url, Client(url) as ann, Client(url) as bob:
        await ann.send("both are connected")
        assert await ann.receive() == await bob.receive()
        sent = await gateway.send({UUID(int=0): Counted()})
        assert sent.queued == 2
        expected = {"00000000-0000-0000-0000-000000000000": {"n": 1}}
        assert await ann.receive_json() == await bob.receive_json() == expected
    assert len(CALLS) == 1


async def test_a_hook_may_send_any_of_them_and_sees_what_was_given() -> None:
    seen: list[object] = []

    class Listener:
        async def on_message(self, event: Event) -> None:
            seen.append(event.message)
            if event.message == "order":
                event.message = Item("tea", Decimal("1.5"))

    item = Item("tea", 2)
    gateway = Gateway(listener=Listener)
    async with serve(gateway) as url, Client(url) as ann:
        await ann.send("order")
        assert await ann.receive_json() == {"name": "tea", "price": "1.5"}
        await gateway.send(item)
        assert await ann.receive_json() == {"name": "tea", "price": 2}
    assert seen == ["order", item]


async def test_a_message_that_the_hook_changes_in_place_is_sent_as_changed() -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            event.message["n"] += 1

    gateway = Gateway(listener=Listener)
    async with serve(gateway) as url, Client(url) as ann, Client(url) as bob:
        with anyio.fail_after(10):
            while len(gateway.connections) < 2:
                await anyio.sleep(0.01)  # this listener does not report new connections
        await gateway.send({"n": 1})
        assert await ann.receive_json() == await bob.receive_json() == {"n": 2}


def test_a_frame_keeps_plain_text() -> None:
    frame = encode(Name("ann"))
    assert isinstance(frame, Message)
    assert frame.kind is Kind.TEXT
