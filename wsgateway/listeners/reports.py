"""Counts and logs the failures and refusals of hooks. Knows nothing of how a hook is run."""

from wsgateway.exceptions import Refused
from wsgateway.listeners.inbox import Call
from wsgateway.listeners.routing import NO_RECIPIENTS
from wsgateway.logs import GatewayLog
from wsgateway.metrics import Metrics

ERROR_LINES = 10
"""Errors at one line of a hook that are logged per second. A client may cause any number."""

_WITHOUT_CONNECTION = {
    "on_message": " for a message without a connection, from /send or gateway.send (event.conn is None; if the hook "
    "needs one, check first: `if event.conn is None: …`)",
    "on_error": " for an event without a connection (event.conn is None; if the hook needs one, check first: "
    "`if event.conn is None: …`)",
}
"""Addition to the log line of a hook that failed, by hook, if its event has no connection."""


_WITHOUT_SESSION = (
    ", because the scope of the request has no session (is SessionMiddleware missing in the application around the "
    "gateway?)"
)
"""Addition to the log line if `on_handshake` has read `event.scope["session"]` in vain."""


class Reports:
    """Reports how the hooks of one gateway have ended."""

    def __init__(self, metrics: Metrics, log: GatewayLog) -> None:
        self._metrics = metrics
        self._log = log

    def refused(self, call: Call, refused: Refused) -> None:
        """Report that a hook has refused a message, a request, or a subscription."""
        self._metrics.refusals[call.hook] += 1
        extra = {} if call.event.conn is None else {"conn": call.event.conn.id}
        log = self._log.limited((call.hook, refused.status))
        if refused.refusal is NO_RECIPIENTS:
            log.warning(
                "%s, or set event.channel, event.to_user, or event.connections in on_message",
                refused.refusal.detail,
                extra=extra,
            )
        else:
            log.info("%s refused: %s", call.hook, refused, extra=extra)

    def failed(self, call: Call, error: BaseException) -> None:
        """Report that a hook has raised, or has set a value that cannot be sent."""
        self._metrics.hook_errors[call.hook] += 1
        log = self._log.limited((call.hook, type(error), _line_of(error)), burst=ERROR_LINES)
        extra = {} if call.event.conn is None else {"conn": call.event.conn.id}
        where = _WITHOUT_CONNECTION.get(call.hook, "") if call.event.conn is None else ""
        if call.hook == "on_handshake" and isinstance(error, KeyError) and error.args == ("session",):
            where = _WITHOUT_SESSION
        log.error("%s failed%s: %r", call.hook, where, error, exc_info=error, extra=extra)


def _line_of(error: BaseException) -> int:
    """Return the line number of the innermost frame of the traceback."""
    line = 0
    traceback = error.__traceback__
    while traceback is not None:
        line, traceback = traceback.tb_lineno, traceback.tb_next
    return line
