"""The server API, `POST /api/METHOD`, in the form of Centrifugo's: backends use it through the libraries for that API.

One table of methods over the gateway. Errors have the codes and texts of the Centrifuge protocol.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from wsgateway.closing import DISCONNECTED
from wsgateway.config.channels import ChannelSettings
from wsgateway.config.namespaces import check_name
from wsgateway.exceptions import ChannelError, GatewayError, MessageError, Refused
from wsgateway.gateway.api_shapes import (
    ApiAnswer,
    ApiError,
    BatchResult,
    BroadcastResult,
    ChannelResult,
    ChannelsResult,
    ClientInfo,
    EmptyResult,
    HistoryResult,
    InfoResult,
    PresenceResult,
    PresenceStatsResult,
    PublishResponse,
    PublishResult,
    client_info,
    first_of,
    publish_result,
)
from wsgateway.gateway.http.api_fields import ApiFailure, Fields, PublicationFields, bad
from wsgateway.gateway.messaging import Messaging
from wsgateway.gateway.parts import Parts
from wsgateway.hub.target import TargetOptions
from wsgateway.messages import encode
from wsgateway.protocols.centrifuge.codes import CONNECTION_EXPIRED, ErrorCode, code_of, error_result
from wsgateway.protocols.centrifuge.queries import read_history

T = TypeVar("T")

CONCURRENT = 100
"""Publications of a broadcast, or commands of a parallel batch, that run at the same time."""

SLICE = 2_000
"""Members that are converted in one iteration of the event loop."""

MAX_PATTERN = 1_000
"""Characters of a pattern. The name of a channel has at most 255."""

MAX_REPLIES = 32 * 2**20
"""Bytes of the replies of a batch. Once there are more, its further commands are not run."""

UNSUBSCRIBED = 2000
"""The code of a subscription that the server API has ended. The client does not subscribe again."""

ITERATION = 0.02
"""Seconds for which the commands of a batch run in one iteration of the event loop."""

_CLOSE_REASONS = {DISCONNECTED: "force disconnect", CONNECTION_EXPIRED: "connection expired"}

Charge = Callable[[], None]
"""Counts one command of the caller. Raises `Refused` if it exceeds `send_rate`."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method: the function that runs it, its description, the type of its result, and its fields."""

    run: Callable[["ServerApi", Fields, Charge], Awaitable[Struct]]
    summary: str
    result: type[Struct]
    fields: tuple[str, ...] = ()
    required: tuple[str, ...] = ()


class ServerApi:
    """The methods of one gateway. `call` never raises, except for a caller that is cancelled."""

    def __init__(self, gateway: Messaging, parts: Parts) -> None:
        self._gateway = gateway
        self._parts = parts
        self._channels = parts.inspector.channels
        self._log = parts.log

    async def call(self, name: str, fields: dict[str, Any], charge: Charge) -> Struct:
        """Run the method `name`, and return its answer. `charge` is called for each command after the first."""
        result = await self._run(name, fields, charge)
        match result:
            case ApiError():
                return ApiAnswer(error=result)
            case BatchResult():
                return result
            case _:
                return ApiAnswer(result)

    async def _run(self, name: str, fields: object, charge: Charge, *, is_charged: bool = False) -> Struct:
        """Run a method, and return its result, or an `ApiError`."""
        try:
            if is_charged:
                charge()
            method = METHODS.get(name)
            if method is None:
                raise ApiFailure(ErrorCode.METHOD_NOT_FOUND, "there is no such method")
            if not isinstance(fields, dict):
                raise bad("the fields of a command are an object")
            return await method.run(self, Fields(fields), charge)
        except Exception as exc:
            return self._report(name, exc)

    def _report(self, name: str, error: Exception) -> ApiError:
        """Log why a method has failed, and return it for the answer, which has the text of the code only."""
        match error:
            case ApiFailure():
                code, detail = error.code, error.detail
            case Refused():
                code, detail = code_of(error), error.refusal.detail
            case GatewayError():
                code, detail = ErrorCode.INTERNAL, str(error)
            case _:
                code, detail = ErrorCode.INTERNAL, repr(error)
                self._log.limited("api failed").error("server API: %s failed: %r", name[:60], error, exc_info=error)
        self._log.limited(f"api {code.name}").info("server API: %s: error %d, %s", name[:60], code, detail)
        return ApiError(int(code), str(error_result(code)["message"]))

    # Publications

    async def publish(self, fields: Fields, charge: Charge) -> PublishResult:
        """Send a message to the subscribers of a channel, through `on_message`."""
        del charge
        return await self._publish(fields.text("channel"), fields.publication())

    async def broadcast(self, fields: Fields, charge: Charge) -> BroadcastResult:
        """Send a message to the subscribers of each of several channels."""
        names, publication = fields.texts("channels"), fields.publication()
        if not names:
            raise bad("channels: use a list of channels")

        async def publish(number: int) -> PublishResponse:
            try:
                if number:
                    charge()
                return PublishResponse(await self._publish(names[number], publication))
            except Exception as exc:
                return PublishResponse(error=self._report("broadcast", exc))

        return BroadcastResult(await _each(len(names), publish, most=CONCURRENT))

    async def _publish(self, name: str, publication: PublicationFields) -> PublishResult:
        is_stored = self._settings_of(name).history > 0 and not publication.skip_history
        if "idempotency_key" in publication.target and not is_stored:
            raise bad("idempotency_key: only a publication that is added to a history has one")
        to: TargetOptions = {**publication.target, "channel": name}
        try:
            sent = await self._gateway.send(publication.message, skip_history=publication.skip_history, **to)
        except MessageError as exc:
            raise bad(str(exc)) from exc
        except ChannelError as exc:  # the hook has chosen a channel that does not exist
            raise ApiFailure(ErrorCode.UNKNOWN_CHANNEL, str(exc)) from exc
        return publish_result(sent.at)

    # Connections

    async def subscribe(self, fields: Fields, _: Charge) -> EmptyResult:
        """Subscribe the connections of a user to a channel, without `on_subscribe`."""
        name, info, reply = self._channel(fields), fields.json("info"), encode(fields.payload("data"))
        position = fields.position("recover_since")
        since = None if position is None else "{}:{}".format(*position)
        ids, user = await self._choose(fields)
        try:
            await self._channels.subscribe(name, ids, user, info, reply=reply, since=since)
        except ChannelError as exc:
            raise ApiFailure(ErrorCode.LIMIT_EXCEEDED, exc.reason) from exc
        return EmptyResult()

    async def unsubscribe(self, fields: Fields, _: Charge) -> EmptyResult:
        """End the subscriptions of a user's connections to a channel."""
        name = self._channel(fields)
        ids, user = await self._choose(fields)
        await self._channels.unsubscribe(name, ids, user, UNSUBSCRIBED, "")
        return EmptyResult()

    async def disconnect(self, fields: Fields, _: Charge) -> EmptyResult:
        """Close the connections of a user, except those in `whitelist`."""
        kept, close = frozenset(fields.texts("whitelist")), fields.inner("disconnect") or Fields({})
        code, reason = close.whole("code") or DISCONNECTED, close.text("reason")
        await self._close(fields, code, reason, kept)
        return EmptyResult()

    async def refresh(self, fields: Fields, _: Charge) -> EmptyResult:
        """Close the connections of a user as expired, or change the time at which they expire."""
        expires_at = fields.time("expire_at") or None
        if fields.flag("expired"):
            await self._close(fields, CONNECTION_EXPIRED, "", frozenset())
        else:
            ids, user = await self._choose(fields)
            await self._parts.choosing.refresh(ids, user, expires_at)
        return EmptyResult()

    async def _close(self, fields: Fields, code: int, reason: str, kept: frozenset[str]) -> None:
        ids, user = await self._choose(fields, is_narrowed=bool(kept))
        if ids is not None:
            ids = [conn_id for conn_id in ids if conn_id not in kept]
        try:
            await self._parts.inspector.close(ids, code, reason or _CLOSE_REASONS.get(code, ""), user=user)
        except ValueError as exc:
            raise bad(f"disconnect: {exc}") from exc

    async def _choose(self, fields: Fields, *, is_narrowed: bool = False) -> tuple[list[str] | None, str]:
        """Return the ids of the chosen connections, or None and the user whose connections are all chosen."""
        user, client, session = fields.text("user"), fields.text("client"), fields.text("session")
        if not user and not client:
            raise bad("user: use text that is not empty")
        if user and not (client or session or is_narrowed):
            return None, user
        return await self._parts.choosing.choose(user, client, session), ""

    # Channels

    async def presence(self, fields: Fields, _: Charge) -> PresenceResult:
        """Return the connections that are subscribed to a channel."""
        members = (await self._gateway.presence(self._channel(fields))).members
        clients: dict[str, ClientInfo] = {}
        for start in range(0, len(members), SLICE):
            clients.update((member.id, client_info(member)) for member in members[start : start + SLICE])
            await asyncio.sleep(0)  # serves others between two slices
        return PresenceResult(clients)

    async def presence_stats(self, fields: Fields, _: Charge) -> PresenceStatsResult:
        """Count the connections that are subscribed to a channel, and their users."""
        counts = await self._gateway.presence_counts(self._channel(fields))
        return PresenceStatsResult(counts.connections, counts.users)

    async def history(self, fields: Fields, _: Charge) -> HistoryResult:
        """Return publications in the history of a channel, and its position."""
        name = self._channel(fields)
        publications, at = await read_history(
            self._gateway.history,
            name,
            self._settings_of(name),
            limit=fields.whole("limit"),
            since=fields.position("since"),
            is_backward=fields.flag("reverse"),
        )
        return HistoryResult(first_of(publications, self._parts.settings.outbox_bytes), at.offset, at.epoch)

    async def history_remove(self, fields: Fields, _: Charge) -> EmptyResult:
        """Drop the history of a channel."""
        await self._gateway.forget(self._channel(fields))
        return EmptyResult()

    async def channels(self, fields: Fields, _: Charge) -> ChannelsResult:
        """Return the channels that have subscribers, and how many."""
        pattern = fields.text("pattern")
        if len(pattern) > MAX_PATTERN:
            raise bad(f"pattern: use at most {MAX_PATTERN} characters")
        counts = await self._parts.overview.channels(pattern)
        return ChannelsResult({name: ChannelResult(count) for name, count in counts.items()})

    def _channel(self, fields: Fields) -> str:
        name = fields.text("channel")
        self._settings_of(name)
        return name

    def _settings_of(self, name: str) -> ChannelSettings:
        """Return the settings of a channel. Raise `ApiFailure` if there can be no such channel."""
        try:
            check_name(name)
        except ChannelError as exc:
            raise bad(exc.reason) from exc
        try:
            return self._parts.channels.namespaces.find(name)
        except ChannelError as exc:
            raise ApiFailure(ErrorCode.UNKNOWN_CHANNEL, str(exc)) from exc

    # The gateway

    async def info(self, _: Fields, __: Charge) -> InfoResult:
        """Return the nodes of the gateway."""
        return InfoResult(await self._parts.overview.nodes())

    async def batch(self, fields: Fields, charge: Charge) -> BatchResult:
        """Run several commands, one after the other, or at the same time with `parallel`."""
        commands, is_parallel = fields.value("commands"), fields.flag("parallel")
        if not isinstance(commands, list):
            raise bad("commands: use a list of objects")

        space = MAX_REPLIES

        async def run(number: int) -> Raw:
            nonlocal space
            reply = await self._run_command(commands[number], charge, is_charged=number > 0, is_full=space <= 0)
            encoded = msgspec.json.encode(reply)  # now, because its size counts
            space -= len(encoded)
            return Raw(encoded)

        return BatchResult(await _each(len(commands), run, most=CONCURRENT if is_parallel else 1))

    async def _run_command(self, command: object, charge: Charge, *, is_charged: bool, is_full: bool) -> dict[str, Any]:
        """Run one command of a batch, and return its reply. Do not run it if the batch `is_full`."""
        if is_full:
            return {"error": self._report("batch", ApiFailure(ErrorCode.LIMIT_EXCEEDED, "the replies are too large"))}
        commands = command if isinstance(command, dict) else {}
        names = [name for name in commands if name in METHODS] or list(commands)
        name = names[0] if len(names) == 1 else ""
        if not name:
            return {"error": self._report("batch", bad("commands: use objects with the name of one method"))}
        result = await self._run("" if name == "batch" else name, commands[name], charge, is_charged=is_charged)
        return {"error": result} if isinstance(result, ApiError) else {name: result}


async def _each(count: int, run: Callable[[int], Awaitable[T]], *, most: int) -> list[T]:
    """Return what `run` returns for each number below `count`. At most `most` of them run at the same time."""
    results: list[T] = []
    began = time.monotonic()
    for start in range(0, count, most):
        if most == 1:
            results.append(await run(start))
        else:
            results += await asyncio.gather(*map(run, range(start, min(start + most, count))))
        if time.monotonic() - began > ITERATION:
            await asyncio.sleep(0)  # serves others between two commands
            began = time.monotonic()
    return results


_CHOICE = ("user", "client", "session")
_PUBLICATION = ("data", "b64data", "tags", "idempotency_key", "skip_history")

METHODS = {
    "publish": Method(
        ServerApi.publish, "Publish to a channel", PublishResult, ("channel", *_PUBLICATION), ("channel",)
    ),
    "broadcast": Method(
        ServerApi.broadcast, "Publish to several channels", BroadcastResult, ("channels", *_PUBLICATION), ("channels",)
    ),
    "subscribe": Method(
        ServerApi.subscribe,
        "Subscribe the connections of a user to a channel",
        EmptyResult,
        ("channel", *_CHOICE, "info", "b64info", "data", "b64data", "recover_since"),
        ("channel",),
    ),
    "unsubscribe": Method(
        ServerApi.unsubscribe, "End subscriptions of a user", EmptyResult, ("channel", *_CHOICE), ("channel",)
    ),
    "disconnect": Method(
        ServerApi.disconnect, "Close the connections of a user", EmptyResult, (*_CHOICE, "whitelist", "disconnect")
    ),
    "refresh": Method(
        ServerApi.refresh, "Change when connections of a user expire", EmptyResult, (*_CHOICE, "expired", "expire_at")
    ),
    "presence": Method(ServerApi.presence, "The members of a channel", PresenceResult, ("channel",), ("channel",)),
    "presence_stats": Method(
        ServerApi.presence_stats, "The number of members and users", PresenceStatsResult, ("channel",), ("channel",)
    ),
    "history": Method(
        ServerApi.history,
        "Publications in the history of a channel, and its position",
        HistoryResult,
        ("channel", "limit", "since", "reverse"),
        ("channel",),
    ),
    "history_remove": Method(
        ServerApi.history_remove, "Drop the history of a channel", EmptyResult, ("channel",), ("channel",)
    ),
    "channels": Method(ServerApi.channels, "The channels that have subscribers", ChannelsResult, ("pattern",)),
    "info": Method(ServerApi.info, "The nodes of the gateway", InfoResult),
    "batch": Method(ServerApi.batch, "Several commands", BatchResult, ("commands", "parallel"), ("commands",)),
}
"""The methods by name. Each has the route `/api/NAME`."""
