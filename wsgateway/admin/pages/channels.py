"""The channels of a gateway, and one of them: its members, its history, and what can be done with it.

Knows no more of channels than the inspector, which REST uses, too.
"""

import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.responses import Response

from wsgateway.admin.pages.pager import Pager
from wsgateway.admin.pages.sending import NOTHING, Draft, Outcome, message_of, send_draft
from wsgateway.admin.site import PATH, Page, Site, refused
from wsgateway.admin.visit import Visit
from wsgateway.auth.admin import Access
from wsgateway.exceptions import ChannelError, HistoryError, NodeError
from wsgateway.gateway.answers import MAX_OFFSET
from wsgateway.gateway.channels import ChannelInspector
from wsgateway.gateway.http.problems import query_int
from wsgateway.gateway.shapes import ChannelInfo, HistoryAnswer, PublicationInfo
from wsgateway.logs import logger
from wsgateway.text import cut

ROWS = 50
"""Channels on one page, members of a channel on one page, and publications that are shown."""

MAX_LISTED = 10_000
"""Members of a channel whose list is shown. The list of a larger one takes too long to put in order."""

MAX_SHOWN = 1000
"""Characters of a publication that are shown."""

LATEST = 2**32
"""The latest time that is shown, in seconds since the epoch."""

MAX_NAME = 255
"""Characters of a prefix that are read."""


class _Publication(PublicationInfo, frozen=True, kw_only=True):
    """A publication in JSON. Its message stays JSON text, because integers in it may have any size."""

    message: msgspec.Raw = msgspec.Raw()


async def show_all(site: Site, visit: Visit) -> Response:
    """Show a page of the channels of all processes whose names begin with a prefix."""
    supervised = site.find_here(visit)
    offset = query_int(visit.request, "offset", 0, 0, MAX_OFFSET)
    prefix = visit.request.query_params.get("prefix", "")[:MAX_NAME]
    listed = await supervised.gateway.inspector.channels.page(prefix, offset, ROWS)
    return visit.page(
        "channels.html",
        tab="channels",
        supervised=supervised,
        rows=listed.channels,
        pager=Pager(offset, ROWS, listed.total),
        prefix=prefix,
        max_name=MAX_NAME,
    )


async def show_one(site: Site, visit: Visit, *, outcome: Outcome = NOTHING, message: str = "") -> Response:
    """Show one channel, a page of its members, and its newest publications."""
    supervised, name = site.find_here(visit), _name_of(visit)
    channels, problems = supervised.gateway.inspector.channels, list(outcome.problems)
    offset = query_int(visit.request, "offset", 0, 0, MAX_OFFSET)
    info = await _describe(channels, name)
    members, texts = None, {}
    if info.subscribers <= MAX_LISTED:
        members = await channels.presence(name, offset, ROWS)
        texts = {member.id: _json_text(member.info).removeprefix("null") for member in members.members}
    publications: Sequence[dict[str, Any]] = ()
    if info.settings["history"]:
        try:
            publications = _rows_of(await channels.history(name, limit=ROWS, since=None, reverse=True))
        except (HistoryError, NodeError) as exc:
            problems.append(f"The history cannot be read: {exc}.")
    return visit.page(
        "channel.html",
        status=outcome.status,
        tab="channels",
        supervised=supervised,
        info=info,
        members=members,
        texts=texts,
        pager=Pager(offset, ROWS, 0 if members is None else members.total),
        publications=publications,
        report=outcome.report,
        problems=problems,
        message=message,
    )


def _name_of(visit: Visit) -> str:
    """Return the name of the channel in the form or in the query. Raise `Refused` if it is missing."""
    name = visit.field("channel") or visit.request.query_params.get("name", "")
    if not name:
        raise refused(422, "name: use the name of a channel.")
    return name


async def _describe(channels: ChannelInspector, name: str) -> ChannelInfo:
    try:
        return await channels.describe(name)
    except ChannelError as exc:
        raise refused(404, f"{exc}.") from exc


def _rows_of(history: HistoryAnswer) -> list[dict[str, Any]]:
    """Return what the page shows of publications. A long message is cut before it is encoded, which takes time."""
    return [_row_of(one) for one in history.publications]


def _row_of(one: PublicationInfo | msgspec.Raw) -> dict[str, Any]:
    # a publication of another process is JSON
    info = one if isinstance(one, PublicationInfo) else msgspec.json.decode(one, type=_Publication)
    is_binary = isinstance(info.base64, str)
    return {
        "at": info.at,
        "time": info.time,
        "time_text": _time_of(info.time),
        "kind": "base64" if is_binary else "JSON",
        "message": cut(info.base64, MAX_SHOWN) if isinstance(info.base64, str) else _json_text(info.message),
        "name": info.name or "",
        "key": info.key or "",
        "sender": info.sender or None,
    }


def _time_of(at: float) -> str:
    """Return a time, which another process may have written, as text. A script replaces it by the viewer's time."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(min(max(at, 0), LATEST)))


def _json_text(value: object) -> str:
    """Return the beginning of a message, or of the info of a member, as JSON text."""
    if isinstance(value, msgspec.Raw):
        text = bytes(memoryview(value)[: 4 * MAX_SHOWN]).decode(errors="ignore")
    else:
        text = msgspec.json.encode(value[:MAX_SHOWN] if isinstance(value, str) else value).decode()
    return cut(text, MAX_SHOWN)


async def publish(site: Site, visit: Visit) -> Response:
    """Send a message to the channel, through the listener."""
    draft = Draft(message=message_of(visit), to="channel", channel=_name_of(visit))
    outcome = await send_draft(site.find_here(visit).gateway, draft, is_json=visit.field("as") == "json")
    return await show_one(site, visit, outcome=outcome, message=draft.message if outcome.problems else "")


async def forget(site: Site, visit: Visit) -> Response:
    """Drop the history of the channel. Ask for confirmation first."""
    supervised, name = site.find_here(visit), _name_of(visit)
    channels = supervised.gateway.inspector.channels
    if visit.field("sure") != "yes":
        await _describe(channels, name)
        return visit.page(
            "ask.html",
            title=f"Drop the history of {name}?",
            text="Clients that reconnect cannot receive the publications in it any more. No connection is closed.",
            action=f"/gateways/{supervised.id}/channel/forget",
            fields=[("sure", "yes"), ("channel", name)],
            button=("", "", "Drop history"),
            back=_address_of(supervised.id, name),
        )
    try:
        await channels.forget(name)
    except ChannelError as exc:
        raise refused(404, f"{exc}.") from exc
    except (HistoryError, NodeError) as exc:
        return await show_one(
            site, visit, outcome=Outcome(problems=[f"The history was not dropped: {exc}."], status=503)
        )
    logger.info("[%s] the history of %s was dropped in the panel", supervised.id, name)
    return visit.redirect(_address_of(supervised.id, name))


def _address_of(gateway_id: str, name: str) -> str:
    return f"/gateways/{gateway_id}/channel?{urlencode({'name': name})}"


PAGES = (
    Page("GET", PATH + "/channels", show_all, Access.READ),
    Page("GET", PATH + "/channel", show_one, Access.READ),
    Page("POST", PATH + "/channel/publish", publish, Access.FULL),
    Page("POST", PATH + "/channel/forget", forget, Access.FULL),
)
