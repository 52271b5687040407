"""The time limits of a shutdown. Knows nothing of who keeps to them."""

from wsgateway.config.settings import Settings

HANDSHAKE_GRACE = 0.5
"""Seconds that clients who have just connected have for their request, once nobody new is taken."""

POOL_GRACE = 4.0
"""Seconds that proxies have to drop the connections that they keep open for later requests, before a node stops. The
documented configurations drop an idle one after 3 s."""

BROKER_GRACE = 1.0
"""Seconds that what waits for the broker has to go out at the end, and again the link to close."""

HTTP_GRACE = 5
"""Seconds that HTTP requests have left once the gateway has stopped."""

LINGER = 2.0
"""Seconds between a close frame to a client that does not read, or goes on sending, and the end of its socket."""


def seconds_to_stop(settings: Settings) -> float:
    """Seconds after which a process that was told to end has ended: new clients, proxies, `drain`, stuck ones,
    `on_stop`, the broker, requests."""
    has_peers = settings.broker is not None or settings.workers > 1
    clients = HANDSHAKE_GRACE + (POOL_GRACE if has_peers else 0) + settings.drain + LINGER
    return clients + settings.hook_timeout + 2 * BROKER_GRACE + HTTP_GRACE
