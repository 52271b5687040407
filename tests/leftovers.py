"""What a gateway may still remember once all clients have gone: nothing of them."""

from wsgateway import Gateway


def assert_nothing_is_left(gateway: Gateway) -> None:
    """Fail if the gateway remembers anything of a connection, or a channel in which no one is."""
    parts = gateway._parts
    channels, hub = parts.channels, parts.hub
    assert len(gateway.connections) == 0
    assert dict(channels.by_name) == {}
    assert channels._returning == {}
    assert hub._users == {}
    assert hub.everybody.is_empty
    assert gateway.metrics.channels == gateway.metrics.subscriptions == 0
    running = gateway._running
    if running is not None:
        assert not running.dispatcher._inboxes
        assert running.dispatcher._count == 0
        assert running.drain.count == 0
