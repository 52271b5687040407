"""The settings by topic, as forms and tables show them. Does not know what a setting is used for."""

from collections.abc import Mapping

from wsgateway.config.settings import SPECS
from wsgateway.config.values import Kind, kind_of

TOPICS: Mapping[str, tuple[str, ...]] = {
    "Gateway": (
        "id", "listener", "host", "port", "uds", "uds_mode", "startup", "echo_sender", "compression", "drain",
        "test_page",
    ),
    "Access": (
        "allowed_origins", "allowed_hosts", "api_key", "local_access", "protocols", "centrifuge_channel",
        "ssl_keyfile", "ssl_certfile",
    ),
    "Tokens of clients": (
        "token_secret", "token_public_key", "token_jwks", "token_algorithms", "token_issuer", "token_audience",
        "token_user_claim", "token_leeway", "token_cookie", "anonymous",
    ),
    "Channels": ("channels", "max_channels", "history_bytes"),
    "Several processes": ("workers", "broker", "broker_timeout"),
    "Slow and silent clients": (
        "ping_interval", "pong_timeout", "outbox_bytes", "outbox_messages", "send_timeout", "slow_policy",
    ),
    "Limits": (
        "max_connections", "max_connections_per_address", "max_message_size", "max_send_size", "message_rate",
        "message_burst", "connect_rate", "connect_burst", "send_rate", "send_burst", "handshake_timeout",
        "hook_timeout",
    ),
    "Log": ("verbose", "log_file"),
    "Names of hooks": tuple(name for name, spec in SPECS.items() if kind_of(spec) is Kind.HOOK),
}  # fmt: skip
"""Every setting of a gateway, in one topic each."""

ESSENTIALS = ("listener", "port", "host", "allowed_origins", "api_key", "max_connections")
"""The settings that are changed most often."""
