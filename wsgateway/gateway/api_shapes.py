"""The results of the server API, with the names of the Centrifuge protocol. Knows nothing of requests.

A field that is not set is left out.
"""

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from wsgateway.encoding import ENCODER
from wsgateway.frames import Member, Position, Publication
from wsgateway.messages import Kind

Count = Annotated[int, Meta(ge=0)]


class ApiError(Struct, frozen=True):
    """Why a method has failed: a code of the Centrifuge protocol, and its text."""

    code: int
    message: str


class EmptyResult(Struct, frozen=True):
    """The result of a method that returns nothing."""


class PublishResult(Struct, frozen=True):
    """The position of a publication. Both fields are left out if it is in no history."""

    offset: Count | UnsetType = UNSET
    epoch: str | UnsetType = UNSET


class PublishResponse(Struct, frozen=True):
    """The result for one channel of a broadcast, or why it has failed."""

    result: PublishResult | UnsetType = UNSET
    error: ApiError | UnsetType = UNSET


class BroadcastResult(Struct, frozen=True):
    """The results of a broadcast, in the order of its channels."""

    responses: list[PublishResponse]


class ClientInfo(Struct, frozen=True):
    """A connection in a channel. `conn_info` is from its token; `chan_info` is what `on_subscribe` has set."""

    user: str
    client: str
    conn_info: Any = UNSET
    chan_info: Any = UNSET


class PresenceResult(Struct, frozen=True):
    """The members of a channel, by the ids of their connections."""

    presence: dict[str, ClientInfo]


class PresenceStatsResult(Struct, frozen=True):
    """The number of connections in a channel, and of their users. All connections without a user are one user."""

    num_clients: Count
    num_users: Count


class ApiPublication(Struct, frozen=True):
    """A publication in a history. `info` is the member that has sent it, in a channel with presence."""

    data: Any
    offset: Count
    info: ClientInfo | UnsetType = UNSET
    tags: dict[str, str] | UnsetType = UNSET


class HistoryResult(Struct, frozen=True):
    """Publications of a channel, and the position of its newest one."""

    publications: list[ApiPublication]
    offset: Count
    epoch: str


class ChannelResult(Struct, frozen=True):
    """The number of connections in a channel."""

    num_clients: Count


class ChannelsResult(Struct, frozen=True):
    """The channels that have subscribers."""

    channels: dict[str, ChannelResult]


class NodeResult(Struct, frozen=True, kw_only=True):
    """A node of the gateway. `uptime` is in seconds."""

    uid: str
    name: str
    version: str
    num_clients: Count
    num_users: Count
    num_subs: Count
    num_channels: Count
    uptime: Count


class InfoResult(Struct, frozen=True):
    """The nodes of the gateway."""

    nodes: list[NodeResult]


class BatchResult(Struct, frozen=True):
    """The results of the commands of a batch, each under the name of its method, or as `error`."""

    replies: Annotated[list[Any], Meta(extra_json_schema={"items": {"type": "object"}})]


class ApiAnswer(Struct, frozen=True):
    """The answer of a method: its result, or why it has failed."""

    result: Any = UNSET
    error: ApiError | UnsetType = UNSET


def publish_result(at: str | None) -> PublishResult:
    """Return the result for a publication at the position `at`."""
    position = None if at is None else Position.parse(at)
    return PublishResult() if position is None else PublishResult(position.offset, position.epoch)


def client_info(member: Member) -> ClientInfo:
    """Return a member of a channel."""
    return ClientInfo(member.user, member.id, _raw(member.conn_info), _raw(member.info))


def api_publication(publication: Publication) -> ApiPublication | None:
    """Return a publication in a history; None if it is binary, because it has no place in JSON."""
    match publication.kind:
        case Kind.JSON:
            data: Any = msgspec.Raw(publication.payload)
        case Kind.TEXT:
            data = publication.payload.decode()
        case Kind.BYTES:
            return None
    tags = dict(publication.tags or {})
    if publication.name:
        tags["name"] = publication.name
    sender, position = publication.sender, publication.position
    return ApiPublication(
        data,
        0 if position is None else position.offset,
        UNSET if sender is None else client_info(sender),
        tags or UNSET,
    )


def first_of(publications: Iterable[Publication], space: int) -> list[ApiPublication]:
    """Return the first of `publications`, of at most `space` bytes, or the first one, whatever its size.

    A client that recovers receives no more, either. Binary ones are left out.
    """
    first: list[ApiPublication] = []
    for publication in publications:
        space -= len(publication.payload)
        if space < 0 and first:
            break
        shown = api_publication(publication)
        if shown is not None:
            first.append(shown)
    return first


def _raw(info: object) -> Any:
    """Return `info` as JSON text, because integers in it may have any size, or unset for None."""
    return UNSET if info is None else msgspec.Raw(ENCODER.encode(info).encode())
