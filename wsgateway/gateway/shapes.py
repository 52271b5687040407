"""The JSON objects of `/info`, `/send`, `/channels`, and REST. Answers and their schemas derive from one declaration.

Knows nothing of requests.
"""

import json
from base64 import b64encode
from collections.abc import Iterable
from typing import Annotated, Any, assert_never, cast

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from wsgateway.cluster.nodes import NodeState
from wsgateway.cluster.questions import ConnectionInfo, ListedChannel, ListedConnection
from wsgateway.cluster.records import row_of
from wsgateway.config.values import Startup
from wsgateway.frames import Publication
from wsgateway.gateway.registry import GatewayState
from wsgateway.messages import Kind

Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
NodeStatus = Annotated[str, Meta(extra_json_schema={"enum": [*GatewayState, NodeState.LOST, NodeState.LEFT]})]
"""The state of the gateway in a node that is alive, else the state of the node."""


class NodeInfo(Struct, frozen=True, kw_only=True):
    """A node of a gateway. `age` is seconds since its process began, `silent` seconds since its last heartbeat."""

    id: str
    state: NodeStatus
    host: str
    pid: Count
    version: str
    age: Seconds
    silent: Seconds
    connections: Count
    messages_in: Count
    messages_out: Count
    dropped: Count
    slow: Count
    hook_errors: Count


class Caller(Struct, frozen=True):
    """The caller of `/info`, as the gateway sees it."""

    address: str
    local: bool


class InfoAnswer(Struct, frozen=True, kw_only=True):
    """The answer of `/info`. Without a broker, `node` and `nodes` are missing."""

    id: str
    version: str
    state: GatewayState
    settings: dict[str, Any]
    caller: Caller
    total: Count
    offset: Count
    limit: Count
    connections: list[ListedConnection]
    node: str | UnsetType = UNSET
    nodes: list[NodeInfo] | UnsetType = UNSET


class ReadyAnswer(Struct, frozen=True):
    """The answer of `/ready` while the gateway accepts clients."""

    id: str
    state: GatewayState


class SendAnswer(Struct, frozen=True, kw_only=True):
    """The counts of a message: recipients = queued + dropped. With a broker, `nodes` is how many nodes have counted,
    and `complete` is whether all have.

    `at` is the position of the message, null if it is in no history. `is_new` is false if its idempotency key was used
    before; then nothing was sent, and `at` is the position of the first message."""

    id: str
    recipients: Count
    queued: Count
    dropped: Count
    nodes: Count | UnsetType = UNSET
    complete: bool | UnsetType = UNSET
    at: str | None
    is_new: bool


class PostedAnswer(Struct, frozen=True):
    """The answer to a message that a client posted to the session of its stream. `at` is its position."""

    at: str


class ChannelList(Struct, frozen=True):
    """A page of the channels whose names begin with a prefix, in alphabetical order.

    With a broker, a channel of several nodes is listed once, but `total` may count it once for each node.
    """

    total: Count
    offset: Count
    limit: Count
    channels: list[ListedChannel]


class MemberInfo(Struct, frozen=True):
    """A connection in a channel, as other members see it.

    `info` is what `on_subscribe` has set, or null. `conn_info` is the claim `info` of its token, if it has one.
    """

    id: str
    user: str
    info: Any
    conn_info: Any = UNSET


class PresenceAnswer(Struct, frozen=True):
    """A page of the members of a channel. `complete` is whether every node has answered."""

    channel: str
    total: Count
    offset: Count
    limit: Count
    members: list[MemberInfo]
    complete: bool


class PublicationInfo(Struct, frozen=True, kw_only=True):
    """A publication in a history. Bytes are `base64` instead of `message`. `time` is in seconds since the epoch.

    `from` is the member that has sent it, in a channel with presence. `name`, `key`, and `tags` are missing if empty.
    """

    channel: str
    message: Any = UNSET
    base64: str | UnsetType = UNSET
    at: str | None
    time: float
    name: str | UnsetType = UNSET
    key: str | UnsetType = UNSET
    tags: dict[str, str] | UnsetType = UNSET
    sender: MemberInfo | UnsetType = msgspec.field(name="from", default=UNSET)


class HistoryAnswer(Struct, frozen=True):
    """Publications of a channel, and `at`, the position of its newest one, null if the channel has no history."""

    channel: str
    at: str | None
    publications: list[PublicationInfo]


class Problem(Struct, frozen=True):
    """An error (RFC 9457). `help` names the part of the documentation."""

    title: str
    status: int
    detail: str
    help: str | UnsetType = UNSET


# Of REST only


class RollInfo(Struct, frozen=True):
    """The latest roll of a gateway: how many of its `workers` it has replaced. A `failure` has ended it early."""

    workers: Count
    replaced: Count
    running: bool
    failure: str | None


class GatewayInfo(Struct, frozen=True, kw_only=True):
    """A gateway, with totals over all its nodes. Only the answer for a single one has `settings` and `roll`."""

    id: str
    state: GatewayState
    failure: str | None
    url: str | None
    port: Count
    startup: Startup
    editable: bool
    connections: Count
    messages_in: Count
    messages_out: Count
    dropped: Count
    settings: dict[str, Any] | UnsetType = UNSET
    roll: RollInfo | UnsetType | None = UNSET


class GatewayList(Struct, frozen=True):
    """Every gateway of the server."""

    gateways: list[GatewayInfo]


class Drained(Struct, frozen=True):
    """The number of connections that a drain has closed."""

    closed: Count
    gateways: list[GatewayInfo]


class NodeList(Struct, frozen=True):
    """The nodes of a gateway. Empty without a broker."""

    nodes: list[NodeInfo]


class ConnectionList(Struct, frozen=True):
    """A page of the connections that match a search."""

    total: Count
    offset: Count
    limit: Count
    connections: list[ConnectionInfo]


class Closed(Struct, frozen=True):
    """The number of connections that are being closed, and whether every node has answered."""

    closed: Count
    complete: bool


class ChannelInfo(ListedChannel, frozen=True, kw_only=True):
    """One channel: the number of publications in its history, and its settings.

    `records` is null if the history is shared through a broker, which does not count them.
    """

    records: Count | None
    settings: dict[str, Any]


class Unsubscribed(Struct, frozen=True):
    """The number of subscriptions that have ended, and whether every node has answered."""

    unsubscribed: Count
    complete: bool


class LogLines(Struct, frozen=True):
    """The end of the log."""

    lines: list[str]


def encoded(shape: Struct) -> bytes:
    """Return `shape` as JSON. A lone surrogate, as a listener may put into `conn.user`, becomes a question mark."""
    try:
        return msgspec.json.encode(shape)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(shape), ensure_ascii=False).encode(errors="replace")


def listed(conn: ConnectionInfo) -> ListedConnection:
    """Return `conn` as `/info` lists it."""
    return ListedConnection(
        conn.id,
        conn.address,
        conn.path,
        conn.transport,
        conn.age,
        conn.queue,
        conn.protocol,
        conn.client,
        conn.expires_at,
    )


def member_info(conn_id: str, user: str, info: str, conn_info: str = "") -> MemberInfo:
    """Return a member whose infos are JSON, which is not decoded, because integers in it may have any size."""
    theirs = msgspec.Raw(conn_info.encode()) if conn_info else UNSET
    return MemberInfo(conn_id, user, msgspec.Raw(info.encode()), theirs)


def publication_info(publication: Publication) -> PublicationInfo:
    """Return a publication as it is shown. Its message is not decoded if it is JSON."""
    message: Any = UNSET
    base64: str | UnsetType = UNSET
    match publication.kind:
        case Kind.JSON:
            message = msgspec.Raw(publication.payload)
        case Kind.TEXT:
            message = publication.payload.decode()
        case Kind.BYTES:
            base64 = b64encode(publication.payload).decode()
        case _:
            assert_never(publication.kind)
    sender = publication.sender
    return PublicationInfo(
        channel=publication.channel,
        message=message,
        base64=base64,
        at=publication.at,
        time=publication.time,
        name=publication.name or UNSET,
        key=publication.key or UNSET,
        tags=dict(publication.tags) if publication.tags else UNSET,
        sender=UNSET if sender is None else member_info(*row_of(sender)),
    )


class _HistoryAnswer(Struct, frozen=True):
    """A `HistoryAnswer` whose publications are not decoded, because integers in them may have any size."""

    channel: str
    at: str | None
    publications: list[msgspec.Raw]


def with_position(info: ChannelInfo, at: str | None) -> ChannelInfo:
    """Return `info` with the position `at`."""
    return msgspec.structs.replace(info, at=at)


def history_answer(data: bytes) -> HistoryAnswer:
    """Return the answer that another node has encoded. Raise `ValueError`."""
    answer = msgspec.json.decode(data, type=_HistoryAnswer)
    publications = cast(list[PublicationInfo], answer.publications)  # which are encoded as they are
    return HistoryAnswer(answer.channel, answer.at, publications)


def fields_of(shape: Struct) -> dict[str, Any]:
    """Return the fields of `shape` that are set, by name."""
    fields = msgspec.structs.asdict(shape)
    return {name: value for name, value in fields.items() if value is not UNSET}


def schemas_of(shapes: Iterable[type[Struct]]) -> dict[str, Any]:
    """Return the JSON schemas of `shapes` and of all that they contain, by name, as OpenAPI 3.1 refers to them."""
    _, components = msgspec.json.schema_components(list(shapes), ref_template="#/components/schemas/{name}")
    return components
