"""The one declaration of every setting.

Flags, variables, keys of the file, the table in the README, and the arguments of `Gateway(…)` derive from it. Does not
know what a setting is used for, nor where its value comes from.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import Field, dataclass, fields
from typing import Any, TypedDict

from wsgateway.config.addresses import is_loopback
from wsgateway.config.channels import ChannelOptions, ChannelSettings, history_fault, read_channels
from wsgateway.config.declaration import Declared, convert_fields, setting
from wsgateway.config.tokens import TOKEN_ALGORITHMS, fault_of_jwks, mistakes_of_algorithms
from wsgateway.config.values import Kind, Startup
from wsgateway.exceptions import ConfigError, Mistake
from wsgateway.limits import SlowPolicy
from wsgateway.text import did_you_mean

ENV = "WSGATEWAY_"
"""Prefix of the variable of each setting."""

CONFIG_FILE = "wsgateway.toml"

PROTOCOLS = ("plain", "v1", "sse", "centrifuge")
"""The protocols of clients. `sse` includes all streams of the gateway itself."""

USUAL_PROTOCOLS = PROTOCOLS[:3]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings(Declared):
    """The settings of one gateway. Times are in seconds, sizes in bytes. Raises `ConfigError` with every mistake.

    The `repr` masks secrets, so it can appear in a log or an error report.
    """

    id: str = setting("default", "name of the gateway, unique without regard to case", kind=Kind.ID)
    host: str = setting("127.0.0.1", "address to listen on", kind=Kind.BIND_HOST)
    port: int = setting(10125, "port to listen on; 0 means any free port", least=0, most=65535)
    uds: str | None = setting(None, "path of a Unix socket to listen on instead of a port", kind=Kind.PATH)
    uds_mode: str = setting(
        "660", "permissions of the Unix socket, in octal; they restrict which users may connect", kind=Kind.MODE
    )
    listener: object = setting(
        None, "`package.module:Name`, `package.module`, `path/file.py:Name`, or `path/file.py`", kind=Kind.LISTENER
    )
    on_start: str = setting(
        "on_start", "name of the hook for the start; an empty name turns the hook off", kind=Kind.HOOK
    )
    on_stop: str = setting("on_stop", "name of the hook for the stop", kind=Kind.HOOK)
    on_handshake: str = setting("on_handshake", "name of the hook for a handshake", kind=Kind.HOOK)
    on_client_open: str = setting("on_client_open", "name of the hook for a connection that has opened", kind=Kind.HOOK)
    on_message: str = setting(
        "on_message", "name of the hook for a message, from a client or from `/send`", kind=Kind.HOOK
    )
    on_client_close: str = setting(
        "on_client_close", "name of the hook for a connection that has closed", kind=Kind.HOOK
    )
    on_expire: str = setting("on_expire", "name of the hook for a connection whose token has expired", kind=Kind.HOOK)
    on_error: str = setting("on_error", "name of the hook for a hook that has raised", kind=Kind.HOOK)
    on_first_open: str = setting(
        "on_first_open", "name of the hook for the first connection of this process to open", kind=Kind.HOOK
    )
    on_last_close: str = setting(
        "on_last_close", "name of the hook for the last connection of this process to close", kind=Kind.HOOK
    )
    on_subscribe: str = setting("on_subscribe", "name of the hook for a client's request to subscribe", kind=Kind.HOOK)
    on_unsubscribe: str = setting(
        "on_unsubscribe", "name of the hook for a subscription that has ended", kind=Kind.HOOK
    )
    on_first_subscribe: str = setting(
        "on_first_subscribe",
        "name of the hook for the first subscription of this process to a channel",
        kind=Kind.HOOK,
    )
    on_last_unsubscribe: str = setting(
        "on_last_unsubscribe",
        "name of the hook for the last subscription of this process to a channel to end",
        kind=Kind.HOOK,
    )
    on_request: str = setting("on_request", "name of the hook for a client's request, which it answers", kind=Kind.HOOK)
    broker: str | None = setting(
        None,
        "URL of the broker between processes: `ipc://`, `redis://`, `rediss://`, `redis-sentinel://`, `unix://`, or "
        "`nats://`",
        kind=Kind.URL,
    )
    broker_timeout: float = setting(1.0, "seconds to wait for the answers of other processes", least=0.01)
    workers: int = setting(1, "with `wsgateway serve`: number of processes that share the port", least=1, most=256)
    startup: Startup = setting("automatic", "with `wsgateway serve`: automatic, manual, or disabled")
    hook_timeout: float = setting(10.0, "seconds a hook may take before it is cancelled and logged", least=0.001)
    echo_sender: bool = setting(True, "whether a client's own message is also sent back to it")
    allowed_origins: tuple[str, ...] = setting(
        (),
        "origins of other sites whose pages may connect; `*` allows all; while it is empty, a gateway on loopback "
        "accepts pages of every loopback origin",
        kind=Kind.ORIGINS,
    )
    allowed_hosts: tuple[str, ...] = setting(
        (), "host names that requests may ask for; empty allows all", kind=Kind.HOSTS
    )
    api_key: tuple[str, ...] = setting((), "keys for `/send`, `/api`, `/metrics`, and `/info`", secret=True)
    local_access: bool = setting(
        False,
        "whether callers on this host need no key while `api_key` is not set; by default, only while no setting shows "
        "that others are served",
    )
    token_secret: tuple[str, ...] = setting(
        (), "HMAC keys that tokens of clients are signed with", secret=True, guards=True
    )
    token_public_key: tuple[str, ...] = setting(
        (), "public keys that tokens are checked with, as PEM text or paths of PEM files: RSA, EC, Ed25519", guards=True
    )
    token_jwks: str | None = setting(
        None, "URL of the key set that tokens are checked with; `https://`, or loopback", kind=Kind.URL, guards=True
    )
    token_algorithms: tuple[str, ...] = setting(
        (),
        "algorithms of tokens, such as HS256 or RS256; empty allows those of the keys given",
        choices=TOKEN_ALGORITHMS,
    )
    token_issuer: tuple[str, ...] = setting((), "issuers of tokens (`iss`); empty allows all")
    token_audience: tuple[str, ...] = setting((), "audiences of tokens (`aud`); empty allows all")
    token_user_claim: str = setting("sub", "claim of a token that names the user", kind=Kind.CLAIM)
    token_leeway: float = setting(5.0, "seconds by which the clocks of the issuer and the gateway may differ", least=0)
    token_cookie: str | None = setting(None, "name of a cookie that contains the token", kind=Kind.COOKIE)
    anonymous: bool = setting(False, "whether clients without a token may connect where tokens are checked")
    ping_interval: float = setting(25.0, "seconds between pings", least=0.05)
    pong_timeout: float = setting(8.0, "seconds to wait for a pong before the connection is aborted", least=0.05)
    max_message_size: int = setting(
        65536, "maximum bytes of a client's message; a larger one closes the connection with 1009", least=1
    )
    max_send_size: int = setting(1048576, "maximum bytes of the body of `/send`; a larger one gets 413", least=1)
    outbox_bytes: int = setting(1048576, "bytes that may wait for one client", least=1)
    outbox_messages: int = setting(1000, "messages that may wait for one client", least=1)
    send_timeout: float = setting(5.0, "seconds without progress after which a client is too slow", least=0.05)
    slow_policy: SlowPolicy = setting(
        "disconnect", "what happens when an outbox is full: disconnect, drop_oldest, or drop_newest"
    )
    max_channels: int = setting(
        128, "maximum number of channels that one connection may subscribe to; more get 403", least=1
    )
    history_bytes: int = setting(
        67108864,
        "bytes of all histories in memory; more discard the records of the channel whose last publication is oldest",
        least=1,
    )
    protocols: tuple[str, ...] = setting(
        USUAL_PROTOCOLS,
        "protocols that clients may use: plain, v1, sse (which includes `/stream`), centrifuge",
        choices=PROTOCOLS,
    )
    centrifuge_channel: str | None = setting(
        None,
        "channel in which Centrifuge clients receive what is sent without a channel; if it is not set, it is the "
        "gateway's id, and if it is empty, they do not receive that",
        kind=Kind.CHANNEL_NAME,
    )
    max_connections: int = setting(
        0, "maximum number of clients; more get 503; 0 means the open-file limit minus 64", least=0
    )
    max_connections_per_address: int = setting(
        0, "maximum number of clients from one address; more get 429; 0 means no limit", least=0
    )
    connect_rate: float = setting(
        0.0, "new connections per second from one address; more get 429; 0 means no limit", least=0
    )
    connect_burst: int = setting(0, "burst size for `connect_rate`; 0 means one second's worth", least=0)
    message_rate: float = setting(
        0.0,
        "messages, fragments, and control frames per second from one client; more close the connection with 3013; 0 "
        "means no limit",
        least=0,
    )
    message_burst: int = setting(0, "burst size for `message_rate`; 0 means one second's worth", least=0)
    send_rate: float = setting(
        0.0, "requests to `/send` and `/api` per second with one key; more get 429; 0 means no limit", least=0
    )
    send_burst: int = setting(0, "burst size for `send_rate`; 0 means one second's worth", least=0)
    handshake_timeout: float = setting(
        10.0, "maximum seconds for the head of a request to arrive, and for `on_handshake`", least=0.05
    )
    drain: float = setting(30.0, "maximum seconds for connections and hooks to finish when the gateway stops", least=0)
    compression: bool = setting(False, "whether messages are compressed for clients that support it (RFC 7692)")
    test_page: bool = setting(True, "whether `GET /` answers with the test page")
    verbose: bool = setting(False, "whether every open, close, and message is logged")
    log_file: str | None = setting(
        None, "path of the log; `WebSocket.log` with `wsgateway serve`; empty means no file", kind=Kind.PATH
    )
    ssl_keyfile: str | None = setting(None, "path of the private key for TLS", kind=Kind.PATH)
    ssl_certfile: str | None = setting(None, "path of the certificate for TLS", kind=Kind.PATH)
    channels: Mapping[str, ChannelSettings] = setting(
        None,
        "namespaces of channels, with the settings of each; only in the settings file, as tables such as "
        '`[channels."room:*"]`, or in code; without any, clients may request every channel',
        kind=Kind.CHANNELS,
    )

    def __post_init__(self) -> None:
        mistakes = convert_fields(self)
        channels, of_channels = read_channels(self.channels)
        object.__setattr__(self, "channels", channels)
        if not mistakes and bool(self.ssl_keyfile) != bool(self.ssl_certfile):
            mistakes.append(Mistake("", "ssl_keyfile, ssl_certfile", "TLS needs both, only one is set"))
        if self.protocols == ():
            text = f"it is empty, write at least one of {', '.join(PROTOCOLS)}"
            mistakes.append(Mistake("protocols", "", text))
        mistakes.extend(self._mistakes_of_tokens({mistake.setting for mistake in mistakes}))
        mistakes.extend(of_channels)
        mistakes.extend(self._mistakes_of_history({mistake.setting for mistake in mistakes}))
        if mistakes:
            raise ConfigError(mistakes)

    def _mistakes_of_history(self, wrong: Set[str]) -> Iterator[Mistake]:
        """Yield a mistake if the broker cannot keep a history. `wrong` are settings with other mistakes."""
        if self.broker and "broker" not in wrong:
            fault = history_fault(self.broker, self.channels)
            if fault:
                yield Mistake("broker", "", fault)

    @property
    def checks_tokens(self) -> bool:
        """Whether a key is configured, so tokens are checked."""
        return bool(self.token_secret or self.token_public_key or self.token_jwks)

    def _mistakes_of_tokens(self, wrong: Set[str]) -> Iterator[Mistake]:
        """Yield the mistakes about tokens, except for the settings `wrong`, which have others."""
        if self.token_jwks and "token_jwks" not in wrong and (fault := fault_of_jwks(self.token_jwks)):
            yield Mistake("token_jwks", "", fault)
        if not wrong & {"token_secret", "token_public_key", "token_jwks", "token_algorithms"}:
            yield from mistakes_of_algorithms(
                self.token_algorithms,
                has_secret=bool(self.token_secret),
                has_public_key=bool(self.token_public_key or self.token_jwks),
            )

    @classmethod
    def no_such_setting(cls, name: str) -> str:
        return no_such_setting(name)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AdminSettings(Declared):
    """The settings of the admin interface: `[admin]` in the file. Raises `ConfigError` with every mistake."""

    enabled: bool = setting(True, "whether the admin interface is served")
    host: str = setting("127.0.0.1", "address that the admin interface listens on", kind=Kind.BIND_HOST)
    port: int = setting(10120, "port of the admin interface; 0 means any free port", least=0, most=65535)
    token: tuple[str, ...] = setting((), "tokens with full access", secret=True)
    read_token: tuple[str, ...] = setting((), "tokens with read-only access", secret=True)
    password_hash: str = setting("", "the panel's password as `wsgateway password --hash` prints it", secret=True)
    read_password_hash: str = setting("", "the same for a read-only password", secret=True)
    password_file: str = setting(
        "wsgateway.password",
        "file in which `wsgateway password` keeps passwords, next to the settings file",
        kind=Kind.PATH,
    )
    listeners: tuple[str, ...] = setting(
        (), "patterns of listeners that may be set remotely, besides those in the file"
    )
    allowed_hosts: tuple[str, ...] = setting(
        (), "host names that requests may ask for; empty allows all", kind=Kind.HOSTS
    )
    allowed_origins: tuple[str, ...] = setting(
        (), "origins of other sites whose pages may send requests", kind=Kind.ORIGINS
    )
    local_access: bool | None = setting(
        None,
        "whether callers on this host need no token while neither token nor password is set; unless you set it, it is "
        "false in the same cases as for a gateway",
    )

    def __post_init__(self) -> None:
        mistakes = convert_fields(self, "[admin]")
        if mistakes:
            raise ConfigError(mistakes)

    @classmethod
    def no_such_setting(cls, name: str) -> str:
        return no_such_setting(name, is_admin=True)


def serves_outside(settings: Settings | AdminSettings) -> str | None:
    """Return which setting shows that other machines are served, as a clause; None if no setting does."""
    if settings.allowed_origins:
        return "allowed_origins is set"
    if settings.allowed_hosts:
        return "allowed_hosts is set"
    return None if is_loopback(settings.host) else f"host is {settings.host}"


class Options(TypedDict, total=False):
    """The keyword arguments of `Gateway` besides `listener`, which are the fields of `Settings`.

    They are declared twice, because a type checker sees keyword arguments only here. A test compares the two.
    """

    id: str
    host: str
    port: int
    uds: str | None
    uds_mode: str
    on_start: str
    on_stop: str
    on_handshake: str
    on_client_open: str
    on_message: str
    on_client_close: str
    on_expire: str
    on_error: str
    on_first_open: str
    on_last_close: str
    on_subscribe: str
    on_unsubscribe: str
    on_first_subscribe: str
    on_last_unsubscribe: str
    on_request: str
    broker: str | None
    broker_timeout: float
    workers: int
    startup: Startup | str
    hook_timeout: float
    echo_sender: bool
    allowed_origins: str | Iterable[str]
    allowed_hosts: str | Iterable[str]
    api_key: str | Iterable[str]
    local_access: bool
    token_secret: str | Iterable[str]
    token_public_key: str | Iterable[str]
    token_jwks: str | None
    token_algorithms: str | Iterable[str]
    token_issuer: str | Iterable[str]
    token_audience: str | Iterable[str]
    token_user_claim: str
    token_leeway: float
    token_cookie: str | None
    anonymous: bool
    ping_interval: float
    pong_timeout: float
    max_message_size: int
    max_send_size: int
    outbox_bytes: int
    outbox_messages: int
    send_timeout: float
    slow_policy: SlowPolicy | str
    max_channels: int
    history_bytes: int
    protocols: str | Iterable[str]
    centrifuge_channel: str | None
    max_connections: int
    max_connections_per_address: int
    connect_rate: float
    connect_burst: int
    message_rate: float
    message_burst: int
    send_rate: float
    send_burst: int
    handshake_timeout: float
    drain: float
    compression: bool
    test_page: bool
    verbose: bool
    log_file: str | None
    ssl_keyfile: str | None
    ssl_certfile: str | None
    channels: Mapping[str, ChannelOptions]


SPECS: Mapping[str, Field[Any]] = {spec.name: spec for spec in fields(Settings)}

ADMIN_SPECS: Mapping[str, Field[Any]] = {f"admin_{spec.name}": spec for spec in fields(AdminSettings)}
"""The settings of `[admin]` by the name that flags and variables have for them. The file's key is `spec.name`."""


def flag(name: str) -> str:
    """Return the option of the command line for the setting `name`."""
    return "--" + name.replace("_", "-")


def no_such_setting(name: str, *, is_admin: bool = False) -> str:
    """Return what is wrong with `name`, which is not a setting of a gateway or, with `is_admin`, of `[admin]`."""
    gateway, admin = set(SPECS), {spec.name for spec in ADMIN_SPECS.values()}
    known, others = (admin, gateway) if is_admin else (gateway, admin)
    plain = name.lower().replace("-", "_")
    short = plain.removeprefix("admin_")
    hint = did_you_mean(short if is_admin else plain, known)
    if short not in others or plain in known or (is_admin and short in known):
        return f"there is no such setting{hint}"
    owner, place = ("a gateway", "at the top or below [gateways.ID]") if is_admin else ("[admin]", "below [admin]")
    return f"{short} is a setting of {owner}, write it {place}{hint}"
