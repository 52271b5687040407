"""The handlers of the REST interface. `rest` lists them, with the access that each requires."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

from msgspec import UNSET, Struct
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from wsgateway.config.values import Startup
from wsgateway.exceptions import NodeError, Refusal, Refused, StartError
from wsgateway.gateway.answers import MAX_OFFSET, MAX_PAGE
from wsgateway.gateway.channels import ChannelInspector
from wsgateway.gateway.http import channels
from wsgateway.gateway.http.paths import unescaped
from wsgateway.gateway.http.problems import answer, channel_refusal, query_int, read_fields
from wsgateway.gateway.http.send import read_request, send_request
from wsgateway.gateway.shapes import (
    ConnectionList,
    Drained,
    GatewayInfo,
    GatewayList,
    LogLines,
    NodeList,
    RollInfo,
    encoded,
)
from wsgateway.logs import LEVELS, tail
from wsgateway.supervisor.instance import Embedded, Instance
from wsgateway.supervisor.supervisor import Supervisor

MAX_BODY = 1048576
"""Bytes of a body."""

MAX_WAIT = 60.0
"""Seconds that a request may wait for the action that it begins."""

AT_ONCE = 0.05
"""Seconds that every request waits, so a mistake is reported even without `wait`."""

RATE_INTERVAL = 1.0
"""Seconds between two events of the stream."""


MAX_LINES = 1000
"""Lines of the log in one answer."""

NO_CONNECTION = Refusal(404, "unknown_connection", "no connection with that id is open", "wrong-path")


class Handlers:
    """The operations, over one supervisor."""

    def __init__(self, supervisor: Supervisor, describe: Callable[[], dict[str, Any]]) -> None:
        """`describe` returns the OpenAPI document."""
        self._supervisor = supervisor
        self._describe = describe

    # Gateways

    async def list_gateways(self, _: Request) -> Response:
        return answer(await self._list())

    async def show_gateway(self, request: Request) -> Response:
        return answer(await gateway_info(self._find(request), has_settings=True))

    async def create_gateway(self, request: Request) -> Response:
        fields = await read_fields(request, MAX_BODY)
        gateway_id = fields.pop("id", None)
        if not isinstance(gateway_id, str):
            raise Refused.of(Refusal(422, "body", "id: use a string, the id of the new gateway", "bad-body"))
        self._supervisor.check_remote_changes(fields)
        _seconds_to_wait(request)  # raises before anything is created
        settings = {name: value for name, value in fields.items() if value is not None}
        created = await self._supervisor.create(gateway_id.strip(), settings)
        is_done = True
        if created.settings.startup is Startup.AUTOMATIC:
            try:
                is_done = await self._run_action(request, self._supervisor.start(created.id))
            except StartError:
                pass  # it is created; its state and failure show why it does not run
        info = await gateway_info(self._supervisor.find(created.id), has_settings=True)
        return answer_action(request, info, is_done=is_done, status=201)

    async def edit_gateway(self, request: Request) -> Response:
        edited = self._find(request)
        changes = await read_fields(request, MAX_BODY)
        self._supervisor.check_remote_changes(changes, before=edited)
        return await self._change(request, self._supervisor.edit(edited.id, changes))

    async def delete_gateway(self, request: Request) -> Response:
        deleted = self._find(request)
        if await self._run_action(request, self._supervisor.delete(deleted.id)):
            return Response(status_code=204)
        return answer_action(request, await gateway_info(deleted), is_done=False)

    async def start_gateway(self, request: Request) -> Response:
        return await self._change(request, self._supervisor.start(self._find(request).id))

    async def stop_gateway(self, request: Request) -> Response:
        return await self._change(request, self._supervisor.stop(self._find(request).id))

    async def restart_gateway(self, request: Request) -> Response:
        return await self._change(request, self._supervisor.restart(self._find(request).id))

    async def roll_gateway(self, request: Request) -> Response:
        return await self._change(request, self._supervisor.roll(self._find(request).id))

    async def reload(self, request: Request) -> Response:
        is_done = await self._run_action(request, self._supervisor.reload())
        return answer_action(request, await self._list(), is_done=is_done)

    async def drain(self, request: Request) -> Response:
        before = await self._count_connections()
        is_done = await self._run_action(request, self._supervisor.drain())
        closed = max(0, before - await self._count_connections())
        return answer_action(request, Drained(closed, (await self._list()).gateways), is_done=is_done)

    def _find(self, request: Request) -> Instance | Embedded:
        return self._supervisor.find(unescaped(request.path_params["gateway_id"]))

    async def _list(self) -> GatewayList:
        return GatewayList([await gateway_info(supervised) for supervised in self._supervisor.all()])

    async def _count_connections(self) -> int:
        totals = [await supervised.gateway.inspector.totals() for supervised in self._supervisor.all()]
        return int(sum(counts["connections"] for counts in totals))

    async def _change(self, request: Request, action: Coroutine[Any, Any, None]) -> Response:
        """Run `action`, and answer with the gateway as it is afterwards."""
        is_done = await self._run_action(request, action)
        return answer_action(request, await gateway_info(self._find(request), has_settings=True), is_done=is_done)

    async def _run_action(self, request: Request, action: Coroutine[Any, Any, None]) -> bool:
        """Begin `action`, wait for it for the seconds in `?wait=`, and return whether it is done.

        Re-raise its error. Wait at least `AT_ONCE` seconds, so an unknown id or a wrong setting is reported even
        without `wait`.
        """
        try:
            seconds = _seconds_to_wait(request)
        except Refused:
            action.close()
            raise
        task = self._supervisor.begin(action)
        await asyncio.wait({task}, timeout=max(seconds, AT_ONCE))
        if task.done():
            task.result()
        return task.done()

    # Nodes and connections

    async def list_nodes(self, request: Request) -> Response:
        return answer(NodeList(await self._find(request).gateway.inspector.nodes()))

    async def list_connections(self, request: Request) -> Response:
        inspector = self._find(request).gateway.inspector
        offset = query_int(request, "offset", 0, 0, MAX_OFFSET)
        limit = query_int(request, "limit", 100, 1, MAX_PAGE)
        total, page = await inspector.page(request.query_params.get("search", ""), offset, limit)
        return answer(ConnectionList(total, offset, limit, page))

    async def show_connection(self, request: Request) -> Response:
        info = await self._find(request).gateway.inspector.describe(request.path_params["connection_id"])
        if info is None:
            raise Refused.of(NO_CONNECTION)
        return answer(info)

    async def close_connection(self, request: Request) -> Response:
        conn_id = request.path_params["connection_id"]
        answered = await self._find(request).gateway.inspector.close([conn_id], 1000, "")
        if not answered.complete:
            raise NodeError(f"the node of the connection {conn_id} has not answered in time")
        if not answered.closed:
            raise Refused.of(NO_CONNECTION)
        return Response(status_code=204)

    async def close_connections(self, request: Request) -> Response:
        inspector = self._find(request).gateway.inspector
        ids, user, code, reason = _read_whom(await read_fields(request, MAX_BODY), 1000)
        try:
            return answer(await inspector.close(ids, code, reason, user=user))
        except ValueError as exc:
            raise Refused.of(Refusal(422, "body", str(exc), "bad-body")) from exc

    async def send(self, request: Request) -> Response:
        gateway = self._find(request).gateway
        return answer(await send_request(gateway, read_request(await read_fields(request, MAX_BODY))))

    # Channels

    async def list_channels(self, request: Request) -> Response:
        return await channels.list_channels(self._channels(request), request)

    async def show_channel(self, request: Request) -> Response:
        return await channels.show_channel(self._channels(request), request)

    async def show_history(self, request: Request) -> Response:
        return await channels.show_history(self._channels(request), request)

    async def forget_history(self, request: Request) -> Response:
        await self._channels(request).forget(channels.channel_of(request))
        return Response(status_code=204)

    async def show_presence(self, request: Request) -> Response:
        return await channels.show_presence(self._channels(request), request)

    async def unsubscribe(self, request: Request) -> Response:
        found = self._channels(request)
        ids, user, code, reason = _read_whom(await read_fields(request, MAX_BODY), 2000)
        try:
            return answer(await found.unsubscribe(channels.channel_of(request), ids, user, code, reason))
        except ValueError as exc:
            raise Refused.of(channel_refusal(exc)) from exc

    def _channels(self, request: Request) -> ChannelInspector:
        return self._find(request).gateway.inspector.channels

    # The log and the stream

    async def show_log(self, request: Request) -> Response:
        count = query_int(request, "lines", 100, 1, MAX_LINES)
        gateway_id = request.query_params.get("gateway")
        level = request.query_params.get("level", "INFO").upper()
        if level not in LEVELS:
            raise Refused.of(Refusal(422, "query", f"level: use one of {', '.join(LEVELS)}", "bad-body"))
        return answer(LogLines(await asyncio.to_thread(tail, count, gateway=gateway_id, level=level)))

    async def events(self, _: Request) -> Response:
        return StreamingResponse(self._stream(), media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def _stream(self) -> AsyncIterator[str]:
        while not self._supervisor.closing.is_set():
            yield f"event: gateways\ndata: {encoded(await self._list()).decode()}\n\n"
            await self._supervisor.changed(RATE_INTERVAL)

    async def description(self, _: Request) -> Response:
        return JSONResponse(self._describe())


def answer_action(request: Request, shape: Struct, *, is_done: bool, status: int = 200) -> Response:
    """Return `shape` with `status`, or with 202 and the path to watch if the action is not done yet."""
    if is_done:
        return answer(shape, status)
    return answer(shape, 202, headers=(("location", request.url.path),))


async def gateway_info(supervised: Instance | Embedded, *, has_settings: bool = False) -> GatewayInfo:
    """Return the state and totals of the gateway, and with `has_settings` its settings without secrets."""
    gateway, settings = supervised.gateway, supervised.settings
    totals = await gateway.inspector.totals()
    return GatewayInfo(
        id=gateway.id,
        state=supervised.state,
        failure=gateway.failure or None,
        url=supervised.url or None,
        port=settings.port,
        startup=settings.startup,
        editable=supervised.is_editable,
        connections=int(totals["connections"]),
        messages_in=int(totals["in"]),
        messages_out=int(totals["out"]),
        dropped=int(totals["dropped"]),
        settings=settings.shown() if has_settings else UNSET,
        roll=_roll_info(supervised) if has_settings else UNSET,
    )


def _roll_info(supervised: Instance | Embedded) -> RollInfo | None:
    """Return the latest roll of the gateway, None if there was none."""
    if isinstance(supervised, Embedded) or (roll := supervised.last_roll) is None:
        return None
    return RollInfo(roll.workers, roll.replaced, supervised.is_rolling, roll.failure or None)


def _read_whom(fields: Mapping[str, Any], default: int) -> tuple[list[str] | None, str, int, str]:
    """Return ids, user, code, and reason of the connections to act on. Without ids and user, all. Raise `Refused`."""
    ids, user, is_all = fields.get("connections"), fields.get("user"), fields.get("all", False)
    given = (isinstance(ids, list), isinstance(user, str) and user != "", is_all is True)
    if sum(given) != 1 or (ids is not None) + (user is not None) + (is_all is not False) != 1:
        detail = 'use one of {"user": "…"}, {"connections": [ids]}, and {"all": true}'
        raise Refused.of(Refusal(422, "body", detail, "bad-body"))
    return None if ids is None else [str(item) for item in ids], user or "", *_read_code(fields, default)


def _read_code(fields: Mapping[str, Any], default: int) -> tuple[int, str]:
    code, reason = fields.get("code", default), fields.get("reason", "")
    if not isinstance(code, int) or isinstance(code, bool) or not isinstance(reason, str):
        raise Refused.of(Refusal(422, "body", "use a number as code, and a string as reason", "bad-body"))
    return code, reason


def _seconds_to_wait(request: Request) -> float:
    text = request.query_params.get("wait", "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT:
        raise Refused.of(Refusal(422, "query", f"wait: use seconds, from 0 to {MAX_WAIT:g}", "bad-body"))
    return seconds
