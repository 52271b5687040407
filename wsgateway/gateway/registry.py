"""The gateways of this process, by id."""

import enum


class GatewayState(enum.StrEnum):
    """What a gateway is doing. A new one is stopped."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
