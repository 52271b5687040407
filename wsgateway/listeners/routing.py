"""Chooses the recipients of a message after `on_message` has run. Sends nothing, no I/O."""

from wsgateway.exceptions import Refusal, Refused
from wsgateway.hub.target import Everybody, Recipients, Target, check_recipients
from wsgateway.listeners.event import MessageEvent
from wsgateway.text import short

NO_RECIPIENTS = Refusal(
    403, "no_recipients", "the message of a client has no recipients; publish it to a channel", "no-recipients"
)


def target_of_event(event: MessageEvent, *, is_closed: bool) -> Target:
    """Return the target of the message of `event`. It has recipients of at most one kind.

    A recipient that the hook has set replaces the one that the client or the caller has named. If `is_closed`, a
    client's message without either has no recipients. Raise `Refused` then, `ValueError` if the hook has set an empty
    channel or user, or recipients of more than one kind, and `TypeError` for a value of a wrong type.
    """
    target = event._target or Target()
    connections: Recipients = event.connections
    chosen: list[str] = [name for name in ("channel", "user") if name in target.chosen]
    if connections is not None and connections is not target.connections:
        chosen.append("connections")
    if len(chosen) > 1:
        names = " and ".join(_shown_name(name) for name in chosen)
        raise ValueError(f"on_message has set {names}, which name different recipients: set one of them")
    for name in target.chosen & {"channel", "user"}:
        value = getattr(target, name)
        if value is None or value == "":
            raise ValueError(
                f"on_message has set {_shown_name(name)} to {value!r}, which is not a {name}; set "
                f"event.message = None to send nothing"
            )
        if not isinstance(value, str):
            raise TypeError(f"on_message has set {_shown_name(name)} to {short(value)}, use a str")
    if chosen:
        target.channel = target.channel if chosen == ["channel"] else ""
        target.user = target.user if chosen == ["user"] else ""
        connections = connections if chosen == ["connections"] else None
    elif not (target.channel or target.user or connections is not None) and event.conn is not None and is_closed:
        raise Refused.of(NO_RECIPIENTS)
    elif target.channel or target.user:
        connections = None
    if connections is not None:
        check_recipients("event.connections", connections)
    target.connections = None if isinstance(connections, Everybody) else connections
    if target.chosen:
        target.check()
    return target


def _shown_name(name: str) -> str:
    return "event.to_user" if name == "user" else f"event.{name}"
