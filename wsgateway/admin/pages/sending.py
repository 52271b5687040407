"""The page that sends a message: to all connections, to those of a user, to a channel, or to selected ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from wsgateway.admin.site import PATH, Page, Site
from wsgateway.admin.visit import Visit
from wsgateway.auth.admin import Access
from wsgateway.exceptions import MessageError, Refused
from wsgateway.gateway.http.send import SendGateway, read_request, send_request
from wsgateway.gateway.shapes import SendAnswer, fields_of
from wsgateway.messages import decode_json

MAX_IDS = 1000
"""Connections that one message may name."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A message as the form has it, which is shown again if it cannot be sent.

    `to` is the kind of recipients: all, user, channel, or connections.
    """

    message: str = ""
    to: str = "all"
    user: str = ""
    channel: str = ""
    connections: tuple[str, ...] = ()

    @classmethod
    def of(cls, visit: Visit) -> "Draft":
        """Return the draft that was submitted. Ids of connections are separated by white space."""
        ids = [conn_id for text in visit.form.get("connection", []) for conn_id in text.split()]
        return cls(
            message=message_of(visit),
            to=visit.field("to") or "all",
            user=visit.field("user").strip(),
            channel=visit.field("channel").strip(),
            connections=tuple(dict.fromkeys(ids)),
        )

    def mistake(self) -> str:
        """Return why the recipients are not clear; empty if they are."""
        match self.to:
            case "all" if self.user or self.channel or self.connections:
                return "All connections are selected, but other recipients are entered. Select them, or clear them."
            case "user" if not self.user:
                return "Enter the user."
            case "channel" if not self.channel:
                return "Enter the channel."
            case "connections" if not self.connections:
                return "Enter the ids of the connections, or select the connections in their list."
            case "connections" if len(self.connections) > MAX_IDS:
                return f"{len(self.connections)} connections are named, {MAX_IDS} are allowed."
            case "all" | "user" | "channel" | "connections":
                return ""
            case _:
                return "Select the recipients."

    def fields(self) -> dict[str, Any]:
        """Return the recipients as `POST /send` has them."""
        match self.to:
            case "user":
                return {"user": self.user}
            case "channel":
                return {"channel": self.channel}
            case "connections":
                return {"connections": list(self.connections)}
            case _:
                return {}


def message_of(visit: Visit) -> str:
    """Return the submitted message. A browser ends each of its lines with CR LF."""
    return visit.field("message").replace("\r\n", "\n")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of a message: a report for the reader, or the problems."""

    report: str = ""
    problems: Sequence[str] = ()
    status: int = 200


NOTHING = Outcome()
"""Nothing has been sent yet."""


async def send_draft(gateway: SendGateway, draft: Draft, *, is_json: bool) -> Outcome:
    """Send the message through the listener, as `POST /send` does."""
    mistake = draft.mistake() or ("" if draft.message else "Enter a message.")
    if mistake:
        return Outcome(problems=[mistake], status=422)
    try:
        message = decode_json(draft.message.encode()) if is_json else draft.message
        sent = await send_request(gateway, read_request({"message": message, **draft.fields()}))
    except MessageError as exc:
        return Outcome(problems=[f"The message cannot be sent: {exc}."], status=422)
    except Refused as exc:
        return Outcome(problems=[f"{exc.refusal.detail}."], status=exc.status)
    return Outcome(report_of(sent))


def report_of(sent: SendAnswer) -> str:
    """Return how many connections a message was sent to, as sentences."""
    counts = fields_of(sent)
    queued = int(counts["queued"])
    if not counts["recipients"]:
        sentences = ["No connection received the message."]
    else:
        sentences = [f"Sent to {queued} connection{'' if queued == 1 else 's'}."]
    if counts["dropped"]:
        dropped = int(counts["dropped"])
        which = "connection, because its outbox is" if dropped == 1 else "connections, because their outboxes are"
        sentences.append(f"The message was dropped for {dropped} {which} full.")
    if counts["at"]:
        sentences.append(f"Its position is {counts['at']}.")
    if not counts.get("complete", True):
        sentences.append("Not every process answered, so there may be more recipients.")
    return " ".join(sentences)


async def compose(site: Site, visit: Visit) -> Response:
    """Show the form of a message."""
    query = visit.request.query_params
    to = query.get("to", "all")
    draft = Draft(
        to=to if to in ("user", "channel") else "all", user=query.get("user", ""), channel=query.get("channel", "")
    )
    return _page(site, visit, draft, NOTHING)


async def send(site: Site, visit: Visit) -> Response:
    """Send the submitted message, or begin one to the connections that were selected in their list."""
    draft = Draft.of(visit)
    if visit.field("compose"):
        draft = Draft(to="connections" if draft.connections else "all", connections=draft.connections)
        is_missing = not draft.connections
        outcome = Outcome(problems=["Select the connections first."], status=422) if is_missing else NOTHING
        return _page(site, visit, draft, outcome)
    outcome = await send_draft(site.find_here(visit).gateway, draft, is_json=visit.field("as") == "json")
    return _page(site, visit, draft, outcome)


def _page(site: Site, visit: Visit, draft: Draft, outcome: Outcome) -> Response:
    return visit.page(
        "send.html",
        status=outcome.status,
        tab="send",
        supervised=site.find_here(visit),
        draft=draft,
        report=outcome.report,
        problems=outcome.problems,
    )


PAGES = (
    Page("GET", PATH + "/send", compose, Access.FULL),
    Page("POST", PATH + "/send", send, Access.FULL),
)
