"""The time limits of a shutdown. Does not know the code that applies them."""

from wsgateway.config.settings import Settings

HANDSHAKE_GRACE = 0.5
"""Seconds that clients that have just connected have to send their request, once no new connections are accepted."""

POOL_GRACE = 4.0
"""Seconds that proxies have to close the connections that they keep open for later requests, before a node stops. The
documented configurations close an idle one after 3 s."""

BROKER_GRACE = 1.0
"""Seconds to send the envelopes that wait for the broker at the end, and again to close the link."""

HTTP_GRACE = 5
"""Seconds that running HTTP requests have to finish once the gateway has stopped."""

LINGER = 2.0
"""Seconds between a close frame and the end of the socket, if a client does not read or continues to send."""


def seconds_to_stop(settings: Settings) -> float:
    """Return the seconds within which a process ends after SIGTERM.

    It is the sum of the limits for new clients, proxies, `drain`, clients that do not read, `on_stop`, the broker, and
    requests.
    """
    has_peers = settings.broker is not None or settings.workers > 1
    clients = HANDSHAKE_GRACE + (POOL_GRACE if has_peers else 0) + settings.drain + LINGER
    return clients + settings.hook_timeout + 2 * BROKER_GRACE + HTTP_GRACE
