"""The rates of the connections that a page shows."""

from wsgateway.admin.rates import MAX_CONNECTIONS, MessageRates
from wsgateway.cluster.questions import ConnectionInfo, Queue


def info(conn_id: str = "a", *, age: float = 0.0, received: int = 0, sent: int = 0) -> ConnectionInfo:
    return ConnectionInfo(
        conn_id,
        "127.0.0.1",
        "/ws",
        "websocket",
        age,
        Queue(0, 0),
        user=None,
        messages_in=received,
        messages_out=sent,
        dropped=0,
    )


def test_the_first_rates_are_those_since_the_connection_was_opened() -> None:
    row = MessageRates().row_of(info(age=10.0, received=20, sent=5))
    assert (round(row["in_rate"], 1), round(row["out_rate"], 1)) == (2.0, 0.5)
    assert (row["id"], row["messages_in"]) == ("a", 20)


def test_a_connection_that_has_just_opened_has_no_huge_rate() -> None:
    assert MessageRates().row_of(info(received=3))["in_rate"] == 3.0


def test_a_page_that_is_shown_again_immediately_shows_what_has_arrived_since() -> None:
    rates = MessageRates()
    rates.row_of(info(age=10.0, received=20))
    assert rates.row_of(info(age=10.0, received=22))["in_rate"] == 2.0


def test_few_connections_are_remembered() -> None:
    rates = MessageRates()
    for number in range(MAX_CONNECTIONS + 1):
        rates.row_of(info(str(number), age=10.0, received=20))
    assert rates.row_of(info("0", age=10.0, received=20))["in_rate"] > 1.9  # forgotten, so since it was opened
    assert rates.row_of(info(str(MAX_CONNECTIONS), age=10.0, received=20))["in_rate"] == 0.0
