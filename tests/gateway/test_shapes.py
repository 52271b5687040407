"""The JSON objects: their keys, and the schemas that are made of the same declaration."""

import json

from wsgateway.cluster.questions import ConnectionInfo, Queue
from wsgateway.gateway.shapes import GatewayList, NodeList, SendAnswer, encoded, schemas_of


def test_an_answer_has_its_keys_in_the_declared_order() -> None:
    answer = SendAnswer(id="chat", recipients=2, queued=1, dropped=1, at=None, is_new=True)
    assert encoded(answer) == b'{"id":"chat","recipients":2,"queued":1,"dropped":1,"at":null,"is_new":true}'


def test_what_is_unset_is_left_out_and_null_is_not() -> None:
    conn = ConnectionInfo(
        "a",
        "::1",
        "/ws",
        "websocket",
        1.5,
        Queue(0, 0),
        user=None,
        messages_in=1,
        messages_out=2,
        dropped=0,
        query=["a=1"],
    )
    assert list(json.loads(encoded(conn))) == [
        *(
            "id",
            "address",
            "path",
            "transport",
            "age",
            "queue",
            "protocol",
            "client",
            "expires_at",
            "user",
            "messages_in",
            "messages_out",
            "dropped",
        ),
        "query",
    ]


def test_a_schema_names_what_is_required_and_refers_to_its_parts() -> None:
    schemas = schemas_of([GatewayList, NodeList])
    assert schemas["GatewayList"]["properties"]["gateways"]["items"] == {"$ref": "#/components/schemas/GatewayInfo"}
    assert "settings" not in schemas["GatewayInfo"]["required"]
    assert "failure" in schemas["GatewayInfo"]["required"]


def test_the_state_of_a_node_is_the_gateways_or_its_own() -> None:
    states = schemas_of([NodeList])["NodeInfo"]["properties"]["state"]["enum"]
    assert states == ["starting", "running", "stopping", "stopped", "failed", "lost", "left"]


def test_a_lone_surrogate_in_a_user_becomes_a_question_mark() -> None:
    conn = ConnectionInfo(
        "a", "::1", "/ws", "websocket", 1.5, Queue(0, 0), user="ann\ud800", messages_in=1, messages_out=2, dropped=0
    )
    shown = json.loads(encoded(conn))
    assert shown["user"] == "ann?"
    assert "query" not in shown
