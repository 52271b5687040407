"""The requests about channels, written once for the gateway's own port and REST: reads and checks them, and answers.

Knows no more of a gateway than its inspector of channels.
"""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from wsgateway.config.channels import MAX_HISTORY
from wsgateway.exceptions import HistoryError, NodeError, Refusal, Refused
from wsgateway.gateway.answers import MAX_OFFSET, MAX_PAGE
from wsgateway.gateway.channels import ChannelInspector
from wsgateway.gateway.http.paths import unescaped
from wsgateway.gateway.http.problems import answer, channel_refusal, query_flag, query_int

Answer = Callable[[ChannelInspector, Request], Awaitable[Response]]
"""Answers a request about channels. Raises `Refused`."""


def channel_of(request: Request) -> str:
    """Return the name of the channel in the path, which `escaped_path` has escaped."""
    return unescaped(request.path_params["channel"])


async def list_channels(channels: ChannelInspector, request: Request) -> Response:
    """Answer with a page (`offset`, `limit`) of the channels whose name begins with `prefix`."""
    offset = query_int(request, "offset", 0, 0, MAX_OFFSET)
    limit = query_int(request, "limit", 100, 1, MAX_PAGE)
    return answer(await channels.page(request.query_params.get("prefix", ""), offset, limit))


async def show_channel(channels: ChannelInspector, request: Request) -> Response:
    """Answer with one channel and its settings."""
    try:
        return answer(await channels.describe(channel_of(request)))
    except ValueError as exc:
        raise Refused.of(channel_refusal(exc)) from exc


async def show_history(channels: ChannelInspector, request: Request) -> Response:
    """Answer with publications of a channel: at most `limit`, after `since`, with `reverse` the newest first."""
    limit = query_int(request, "limit", 100, 0, MAX_HISTORY)
    since, reverse = request.query_params.get("since"), query_flag(request, "reverse")
    try:
        return answer(await channels.history(channel_of(request), limit=limit, since=since, reverse=reverse))
    except ValueError as exc:
        raise Refused.of(channel_refusal(exc)) from exc
    except (HistoryError, NodeError) as exc:
        raise Refused.of(Refusal(503, "history", str(exc), "history", (("retry-after", "5"),))) from exc


async def show_presence(channels: ChannelInspector, request: Request) -> Response:
    """Answer with a page (`offset`, `limit`) of the members of a channel."""
    offset = query_int(request, "offset", 0, 0, MAX_OFFSET)
    limit = query_int(request, "limit", 100, 1, MAX_PAGE)
    try:
        return answer(await channels.presence(channel_of(request), offset, limit))
    except ValueError as exc:
        raise Refused.of(channel_refusal(exc)) from exc
