"""What the pages of one panel share: the supervisor, the logins, and how a page finds the gateway that it shows."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from starlette.responses import Response

from wsgateway.admin.authentication import Authentication
from wsgateway.admin.logins import Tries
from wsgateway.admin.rates import MessageRates
from wsgateway.admin.visit import Visit
from wsgateway.auth.admin import Access
from wsgateway.config.values import Startup
from wsgateway.exceptions import GatewayNotFound, Refusal, Refused, StartError
from wsgateway.gateway.registry import GatewayState
from wsgateway.logs import Log
from wsgateway.supervisor.instance import Embedded, Instance
from wsgateway.supervisor.supervisor import Supervisor

WAIT = 2.0
"""Seconds to wait for an action, so its page can show why it is refused. Later, the states show the outcome."""

LABELS = {
    "start": "Start",
    "stop": "Stop",
    "restart": "Restart",
    "delete": "Delete",
    "roll": "Roll workers",
    "reload": "Reload configuration",
}
"""The buttons of actions on gateways, by action."""

ASKING = ("stop", "restart", "delete")
"""Actions that ask for confirmation, because they close every connection at the same time."""

PATH = "/gateways/{gateway_id}"
"""The path of a gateway's first page. Those of its other pages begin with it."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page or action: its route, the function that answers, and the access that it requires."""

    method: str
    path: str
    view: "Callable[[Site, Visit], Awaitable[Response]]"
    access: Access


class Site:
    """The supervisor of one panel, and the state that its pages share."""

    def __init__(self, supervisor: Supervisor, authentication: Authentication) -> None:
        self.supervisor = supervisor
        self.authentication = authentication
        self.rates = MessageRates()
        self.tries = Tries()
        self.log = Log()
        self.actions: dict[str, Callable[[str], Coroutine[Any, Any, None]]] = {
            "start": supervisor.start,
            "stop": supervisor.stop,
            "restart": supervisor.restart,
            "delete": supervisor.delete,
            "roll": supervisor.roll,
        }
        """What can be done with a gateway, by the name of the action."""

    def find(self, gateway_id: str) -> Instance | Embedded:
        """Return the gateway with that id. Raise `Refused`."""
        try:
            return self.supervisor.find(gateway_id)
        except GatewayNotFound as exc:
            raise refused(404, str(exc)) from exc

    def find_here(self, visit: Visit) -> Instance | Embedded:
        """Return the gateway in the path of the page. Raise `Refused`."""
        return self.find(visit.request.path_params["gateway_id"])

    def find_editable(self, visit: Visit) -> Instance:
        """Return the gateway in the path of the page. Raise `Refused` also if it was created in code."""
        supervised = self.find_here(visit)
        if isinstance(supervised, Embedded):
            raise refused(409, f"Gateway [{supervised.id}] is created in code, and can only be changed there.")
        return supervised

    async def run(self, actions: Iterable[Coroutine[Any, Any, None]]) -> list[str]:
        """Begin all `actions`, wait for them at most `WAIT` seconds, and return why those that have failed did.

        A start that fails is not among them, because the state of the gateway shows it.
        """
        tasks = [self.supervisor.begin(action) for action in actions]
        await asyncio.wait(tasks, timeout=WAIT)
        errors = [task.exception() for task in tasks if task.done()]
        return [str(error) for error in errors if error is not None and not isinstance(error, StartError)]


def offered_actions(supervised: Instance | Embedded) -> list[str]:
    """Return the actions that change something in the present state of the gateway, in the order of their buttons."""
    match supervised.state:
        case GatewayState.RUNNING | GatewayState.STARTING:
            actions = ["restart", "stop"]
        case GatewayState.STOPPED | GatewayState.FAILED:
            may_start = isinstance(supervised, Embedded) or supervised.settings.startup is not Startup.DISABLED
            actions = ["start"] if may_start else []
        case GatewayState.STOPPING:
            actions = []
        case _:
            assert_never(supervised.state)
    return [*actions, "delete"] if supervised.is_editable else actions


async def confirmation(
    visit: Visit,
    name: str,
    gateways: Sequence[Instance | Embedded],
    *,
    path: str,
    fields: Sequence[tuple[str, str]] = (),
) -> Response | None:
    """Return the page that asks whether to run an action; None if that needs no confirmation, or has it.

    The form is sent to `path`, with `fields`.
    """
    if name not in ASKING or visit.field("sure") == "yes":
        return None
    totals = [await supervised.gateway.inspector.totals() for supervised in gateways]
    count = sum(int(counts["connections"]) for counts in totals)
    if not count and name == "restart":
        return None
    return visit.page(
        "ask.html",
        title=f"{LABELS[name]} {', '.join(supervised.id for supervised in gateways)}?",
        text=f"{closing(count)} {'The settings are removed from the file.' if name == 'delete' else ''}",
        action=path,
        fields=[("sure", "yes"), *fields],
        button=("action", name, LABELS[name]),
        back=path,
    )


def closing(count: int) -> str:
    """Return what happens to `count` connections, as a sentence."""
    if not count:
        return "No connection is open."
    return f"{count} connection{'' if count == 1 else 's'} will be closed. Clients may reconnect."


def refused(status: int, text: str) -> Refused:
    """Return the error whose page shows `text`."""
    return Refused.of(Refusal(status, "page", text))
