"""The errors of the package, and the refusals that some of them carry. Knows nothing of the rest of the package.

GatewayError
├── ConfigError          settings that cannot be used, with every mistake
│   ├── SettingForbidden settings that may not be changed remotely
│   └── UnknownSetting   arguments that are not settings (also a TypeError)
├── ListenerError        a listener that cannot be found, loaded, or made, or that has no hook
├── StartError           a gateway that could not start (on_start raised)
│   └── ListenError      an address that cannot be listened on (the port is taken)
├── Refused              a client or a request that is refused; on_handshake raises it to refuse a handshake
├── GatewayNotFound      no started gateway has that id
├── GatewayNotRunning    the gateway is starting, stopped, or failed
│   └── GatewayStopping  the gateway is shutting down
├── GatewayConflict      a request that does not fit the state of a gateway: it exists, is disabled, or is read-only
├── HookError            a hook raised, exceeded its time limit, or set a value that cannot be sent
├── SendError            an HTTP response to `wsgateway.client.send` other than 200
├── BrokerError          a broker that cannot be reached, or whose connection was lost
├── EnvelopeError        bytes from a broker, or for one, that are not a valid envelope
├── NodeError            another node did not do what it was asked
│   └── NodeLate         another node did not answer in time; it may still act on the request
├── ChannelError         a channel that does not exist, or that cannot be subscribed to (also a ValueError)
│   └── TooManyChannels  more channels than a connection may have
├── RequestRefused       a client has refused a request
├── ConnectionClosed     a connection that closed before its client answered a request
├── HistoryError         a history that cannot be read or written; with `is_late`, it may still be written
├── MessageError         a message that cannot be encoded or decoded (also a ValueError)
└── TokenRefused         a token that is not valid, or has expired
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from typing import Self

from wsgateway.closing import check_close
from wsgateway.text import cut

MIN_LIKENESS = 0.6
"""How similar a namespace must be to be suggested; 1 means the same."""

MAX_COMPARED = 50
"""Namespaces that a name is compared with, because a comparison takes up to 0.1 ms."""


class GatewayError(Exception):
    """The base of all errors of this package."""


class Mistake(str):
    """One sentence about settings that cannot be used, with its parts as attributes.

    `setting` is the name of the setting, empty if the mistake is not about a single one. `source` is how the setting
    is written where its value comes from, such as `--port`, `WSGATEWAY_PORT`, or `port (wsgateway.toml)`; empty in
    code. `text` is the mistake itself.
    """

    __slots__ = ("setting", "source", "text")

    setting: str
    source: str
    text: str

    def __new__(cls, setting: str, source: str, text: str) -> Self:
        label = source or setting
        mistake = super().__new__(cls, f"{label}: {text}" if label else text)
        mistake.setting, mistake.source, mistake.text = setting, source, text
        return mistake

    def __reduce__(self) -> tuple[type[Self], tuple[str, str, str]]:
        return type(self), (self.setting, self.source, self.text)


class ConfigError(GatewayError):
    """Settings that cannot be used. `mistakes` holds one sentence for each mistake.

    A plain `str` becomes a `Mistake` that is not about a single setting.
    """

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(
            mistake if isinstance(mistake, Mistake) else Mistake("", "", mistake) for mistake in mistakes
        )
        super().__init__(self.mistakes)

    def __str__(self) -> str:
        return "\n".join(self.mistakes)


class SettingForbidden(ConfigError):  # noqa: N818  named as the answer 403 is
    """Settings that may be changed only in the settings file, not through REST or the panel."""


class UnknownSetting(ConfigError, TypeError):  # noqa: N818  named after what is unknown
    """Keyword arguments that are not settings, each with the nearest setting.

    `Gateway(lister=…)` raises it, with every other mistake. It is also a `TypeError`, as for any unknown argument.
    """


class ListenerError(GatewayError):
    """A listener that cannot be found, loaded, or made, or that has no hook."""


class StartError(GatewayError):
    """A gateway that could not start; the message contains the reason and what to do."""


class ListenError(StartError):
    """A host and port that cannot be listened on. `flag` is the option of the command line that sets the port."""

    def __init__(self, address: str, reason: str, flag: str = "--port") -> None:
        super().__init__(address, reason, flag)
        self.address = address
        self.reason = reason
        self.flag = flag

    def __str__(self) -> str:
        advice = f"is another server running there? stop it, or choose another port with {self.flag}"
        return f"cannot listen on {self.address}: {self.reason}; {advice}"


DOCS = "docs/troubleshooting.md"
"""The part of the documentation that explains refusals."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a client or a request is refused, and with which HTTP status.

    `kind` labels the metric, `detail` is the sentence for the reader, `help` the heading of `DOCS` that explains it.
    """

    status: int
    kind: str
    detail: str
    help: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.detail} ({DOCS}#{self.help})" if self.help else self.detail


class Refused(GatewayError):  # noqa: N818  reads well in a listener: raise Refused(401, "log in first")
    """Raised by `on_handshake` to refuse a handshake.

    `status` is any 4xx or 5xx; `reason` becomes the body of the response. Browsers hide both from the page. With
    `close`, the connection is accepted and closed immediately with that code and `reason` instead. A page can read both
    in its `close` event. Codes 3500 to 3999 and 4500 to 4999 ask clients not to reconnect. With 4000 to 4499, such as
    4403, they reconnect and are refused again, without end.
    Raise `ValueError` for a status, reason, or code that cannot be sent.
    """

    refusal: Refusal

    def __init__(self, status: int = 403, reason: str = "", *, close: int | None = None) -> None:
        if not isinstance(status, int) or not 400 <= status <= 599:
            example = f", as in Refused(403, {status!r})" if isinstance(status, str) else ""
            raise ValueError(f"the status of a refusal is {status!r}, use an int from 400 to 599{example}")
        if not isinstance(reason, str):
            raise ValueError(f"the reason of a refusal is {reason!r}, use a str")
        if close is not None:
            check_close(close, reason)
        super().__init__(status, reason)
        self.refusal = Refusal(status, "handshake", reason)
        self.close = close

    @classmethod
    def of(cls, refusal: Refusal) -> Self:
        """Return an error that carries `refusal`. Its `reason` names the documentation, too."""
        error = cls(refusal.status, str(refusal))
        error.refusal = refusal
        return error

    @property
    def status(self) -> int:
        return self.refusal.status

    @property
    def reason(self) -> str:
        return str(self.refusal)

    def __str__(self) -> str:
        return f"{self.status} {self.reason}".rstrip()


class GatewayNotFound(GatewayError):  # noqa: N818  named as the answer 404 is
    """No started gateway of this process has that id."""

    def __init__(self, gateway_id: str, available: Iterable[str]) -> None:
        super().__init__(gateway_id)
        self.gateway_id = gateway_id
        self.available = tuple(sorted(available))

    def __str__(self) -> str:
        close = get_close_matches(self.gateway_id[:64], self.available, n=1)
        hint = f", did you mean [{close[0]}]?" if close else ","
        available = ", ".join(self.available)
        return f"there is no gateway with id [{cut(self.gateway_id, 100)}]{hint} available are [{available}]"


class GatewayNotRunning(GatewayError):  # noqa: N818
    """The gateway is starting, stopped, or failed."""

    def __init__(self, gateway_id: str, advice: str = "") -> None:
        super().__init__(gateway_id, advice)
        self.gateway_id = gateway_id
        self.advice = advice

    def __str__(self) -> str:
        return f"gateway [{self.gateway_id}] is not running" + (f": {self.advice}" if self.advice else "")


class GatewayStopping(GatewayNotRunning):
    """The gateway is shutting down."""

    def __str__(self) -> str:
        return f"gateway [{self.gateway_id}] is shutting down"


class GatewayConflict(GatewayError):  # noqa: N818  named as the answer 409 is
    """A request that does not fit the state of a gateway; the message contains the reason and what to do."""


class HookError(GatewayError):
    """A hook raised, exceeded its time limit, or set a value that cannot be sent. The cause is `__cause__`."""

    def __init__(self, hook: str) -> None:
        super().__init__(hook)
        self.hook = hook

    def __str__(self) -> str:
        if self.hook != "on_message":
            return f"the listener failed in {self.hook}; the log has the reason"
        return (
            "the listener failed in on_message for a message without a connection (event.conn is None), so the message "
            "was not sent; the log has the reason"
        )


class SendError(GatewayError):
    """The gateway answered `POST /send` with `status`, which is not 200. `problem` is the JSON object in the body."""

    def __init__(self, status: int, problem: dict[str, object]) -> None:
        super().__init__(status, problem)
        self.status = status
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.status} {self.problem.get('title', '')}: {self.problem.get('detail', '')}"


class BrokerError(GatewayError):
    """A broker that cannot be reached, or whose connection was lost; the message contains the reason."""


class EnvelopeError(GatewayError):
    """Bytes that are not a valid envelope. `reason` labels the metric."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class NodeError(GatewayError):
    """Another node of the gateway did not do what it was asked, or did not answer in time."""


class NodeLate(NodeError):  # noqa: N818  it may still act on the request
    """The node did not answer in time. It may still act on the request."""


class ChannelError(GatewayError, ValueError):
    """A channel that does not exist or cannot be subscribed to, or a name that a channel cannot have.

    `reason` is the text for a client. For developers, `str` also suggests the namespace in `known` that is
    nearest to `name`. A client does not receive it, because it takes longer to find and may be confidential.
    """

    def __init__(self, reason: str, *, name: str = "", known: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.name = name
        self.known = known

    def __str__(self) -> str:
        close = _nearest_namespace(self.name, self.known)
        return f'{self.reason}, did you mean "{close}"?' if close else self.reason


class TooManyChannels(ChannelError):  # noqa: N818  named as the limit is
    """A connection would have more than `max_channels` channels."""


def _nearest_namespace(name: str, known: Sequence[str]) -> str:
    """Return the namespace in `known` that is most similar to the beginning of `name`; empty if none is similar."""
    close, likeness = "", MIN_LIKENESS
    for pattern in known[:MAX_COMPARED]:
        compared = f"{name[: len(pattern) - 1]}*" if pattern.endswith("*") else name
        matcher = SequenceMatcher(None, pattern, compared)
        # each is an upper bound of the next, and faster
        if matcher.real_quick_ratio() > likeness and matcher.quick_ratio() > likeness and matcher.ratio() > likeness:
            close, likeness = pattern, matcher.ratio()
    return close


class RequestRefused(GatewayError):  # noqa: N818  as `Refused`, in the other direction
    """A client has refused a request, with the `code` and `reason` that it chose.

    The code is 429 if the gateway has refused it, because too many requests to the client are open.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code} {self.reason}".rstrip()


class ConnectionClosed(GatewayError):  # noqa: N818  named after what has happened
    """The connection has closed, so its client does not answer. It may still have received the request."""

    def __init__(self, conn_id: str) -> None:
        super().__init__(conn_id)
        self.conn_id = conn_id

    def __str__(self) -> str:
        return f"connection {self.conn_id} has closed, so its client does not answer"


class HistoryError(GatewayError):
    """A history that cannot be read or written; the message contains the reason.

    With `is_late`, the history store did not answer in time, so it may still write the publication.
    """

    def __init__(self, text: str, *, is_late: bool = False) -> None:
        super().__init__(text)
        self.is_late = is_late


class MessageError(GatewayError, ValueError):
    """A message that cannot be encoded or decoded: a lone surrogate, NaN, nesting too deep, or not a JSON value."""


class TokenRefused(GatewayError):  # noqa: N818  named as `Refused` is
    """A token that is not accepted. Neither the message nor an attribute contains any part of the token.

    `reason` is the text for a client: `invalid token` or `token expired`. `detail` is the reason for the log. With
    `is_expired`, its `exp` has passed, and with `is_over`, its `expire_at`. With `is_foreign`, it is a valid token of
    another channel, user, or client.
    """

    def __init__(
        self, detail: str, *, is_expired: bool = False, is_over: bool = False, is_foreign: bool = False
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.is_expired = is_expired
        self.is_over = is_over
        self.is_foreign = is_foreign

    @property
    def reason(self) -> str:
        return "token expired" if self.is_expired or self.is_over else "invalid token"

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
