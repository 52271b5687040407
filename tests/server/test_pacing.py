"""The order in which the sockets of a server are served."""

from wsgateway.server.pacing import IdleSockets


def test_the_address_with_the_most_idle_sockets_loses_its_oldest() -> None:
    idle = IdleSockets[str]()
    for number in range(3):
        idle.add(f"a{number}", "a")
    for number in range(5):
        idle.add(f"b{number}", "b")
    idle.discard("b0", "b")
    idle.add("b1", "b")  # it has had a request meanwhile
    assert [idle.take_oldest("c") for _ in range(3)] == ["b2", "a0", "b3"]
    assert idle.take_oldest("a") is None
    assert {idle.take_oldest("c") for _ in range(4)} == {"a1", "a2", "b4", "b1"}
    assert idle.take_oldest("c") is None
    idle.discard("a0", "a")
