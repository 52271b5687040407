"""The questions that a node may ask another one, and the form of their answers. Both are checked on arrival.

Does not know how a question is sent, nor how it is answered.
"""

from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from wsgateway.cluster.envelopes import MAX_IDS, MAX_ROWS, Count, MemberRow
from wsgateway.exceptions import EnvelopeError
from wsgateway.metrics import Samples

A = TypeVar("A", covariant=True)
Q = TypeVar("Q", bound="Question[Any]")

Ids = Annotated[list[str], msgspec.Meta(max_length=MAX_IDS)]
Total = Annotated[float, msgspec.Meta(ge=0, le=2**63)]

MAX_SERIES = 1000
"""Samples of one metric in one node."""


# The connections in answers and in REST


class Queue(msgspec.Struct, frozen=True):
    """The messages that wait to be written to a connection."""

    messages: Count
    bytes: Count


class ListedConnection(msgspec.Struct, frozen=True):
    """An open connection, as `/info` lists it. `client` is the client library, empty if the client has not named it.

    `expires_at` is in seconds since the epoch, null for never.
    """

    id: str
    address: str
    path: str
    transport: str
    age: Total
    queue: Queue
    protocol: str = "plain"
    client: str = ""
    expires_at: float | None = None


class ConnectionInfo(ListedConnection, frozen=True, kw_only=True):
    """An open connection. The fields from `headers` on are included only in the answer for a single one.

    `channels` are the first ones that it is subscribed to.
    """

    user: str | None
    messages_in: Count
    messages_out: Count
    dropped: Count
    headers: dict[str, str] | UnsetType = UNSET
    query: list[str] | UnsetType = UNSET
    subprotocols: list[str] | UnsetType = UNSET
    channels: list[str] | UnsetType = UNSET


# The channels in answers and in REST


class ListedChannel(msgspec.Struct, frozen=True):
    """A channel that has subscribers or a history.

    `namespace` is the pattern that its settings belong to, null if none is declared. `at` is its position, null if it
    has none. `silent` is seconds since its last publication, null if no time is known.
    """

    name: str
    namespace: str | None
    subscribers: Count
    at: str | None
    silent: Total | None


class ChannelRows(msgspec.Struct, frozen=True):
    """How many channels match, and some of them."""

    total: Count
    rows: list[ListedChannel]


class MemberRows(msgspec.Struct, frozen=True):
    """Members of one channel, by id. `number` is that of the node's last change that they contain."""

    number: Count
    rows: Annotated[list[MemberRow], msgspec.Meta(max_length=MAX_ROWS)]


class MemberPage(msgspec.Struct, frozen=True):
    """The members of some channels, of which the last list may not be complete unless `is_last`."""

    lists: list[MemberRows]
    is_last: bool


class UserPage(msgspec.Struct, frozen=True):
    """The number of connections in a channel, and hashes of some of their users, each of 8 bytes."""

    connections: Count
    hashes: bytes
    is_last: bool


# The questions


class Question(msgspec.Struct, Generic[A], frozen=True):
    """The base of all questions. The fields of a question are its arguments, and `A` is the type of its answer.

    `name` names the question in an envelope. `answer` is the type that an answer is checked against.
    """

    name: ClassVar[str]
    answer: ClassVar[Any]


class Ping(Question[bool], frozen=True):
    """Show that the node is running. Any answer does, also a refusal of an earlier version."""

    name = "ping"
    answer = bool


class Search(Question[int], frozen=True):
    """Count the connections that match `search`."""

    name = "search"
    answer = Count

    search: str


class Rows(Question[list[ConnectionInfo]], frozen=True):
    """List the connections that match `search`, at most `limit`, from `offset` on."""

    name = "rows"
    answer = list[ConnectionInfo]

    search: str
    offset: Count
    limit: Count


class Describe(Question[ConnectionInfo | None], frozen=True):
    """Describe the connection `id`. The answer is None if it is not open."""

    name = "describe"
    answer = ConnectionInfo | None

    id: str


class Close(Question[int], frozen=True):
    """Close the connections with `ids`, or all of them, and return their number."""

    name = "close"
    answer = Count

    ids: Ids | None
    code: int
    reason: str


class CloseUser(Question[int], frozen=True):
    """Close the connections of a `user`, and count them. `Close` does not, because earlier versions would close all."""

    name = "close_user"
    answer = Count

    user: str
    code: int
    reason: str


class Choose(Question[list[str]], frozen=True):
    """Return the ids of the open connections of `user`, of those with `ids`, or of those that are both.

    With `session`, it is only the connection of the stream with that secret. `user` is empty to choose by `ids` only.
    """

    name = "choose"
    answer = Ids

    user: str
    ids: Ids | None
    session: str


class Refresh(Question[int], frozen=True):
    """Let the connections with `ids`, or of a `user`, expire at `expires_at`, and count them.

    The time is in seconds since the epoch, None for never.
    """

    name = "refresh"
    answer = Count

    ids: Ids | None
    user: str
    expires_at: float | None


class ListChannels(Question[ChannelRows], frozen=True):
    """List the channels whose name begins with `prefix`: the first `limit` after `after`, in alphabetical order.

    Nodes of earlier versions ignore `after`.
    """

    name = "channels"
    answer = ChannelRows

    prefix: str
    limit: Count
    after: str = ""


class DescribeChannel(Question[ListedChannel], frozen=True):
    """Describe one channel."""

    name = "channel"
    answer = ListedChannel

    channel: str


class Members(Question[MemberPage], frozen=True):
    """List the members of `channels` in this node, those of the first one from the id `after` on."""

    name = "member_page"
    answer = MemberPage

    channels: Annotated[list[str], msgspec.Meta(max_length=MAX_ROWS)]
    after: str


class CountMembers(Question[UserPage], frozen=True):
    """Count the members of a channel in this node, and list the hashes of their users from `after` on."""

    name = "member_counts"
    answer = UserPage

    channel: str
    after: bytes


class ReadHistory(Question[bytes], frozen=True):
    """Read the history of a channel. The answer is that of REST, as JSON."""

    name = "history"
    answer = bytes

    channel: str
    limit: Count
    since: str | None
    reverse: bool


class Forget(Question[None], frozen=True):
    """Drop the history of a channel."""

    name = "forget"
    answer = None

    channel: str


class SubscribeReport(msgspec.Struct, frozen=True):
    """The number of new subscriptions. `error` is why a connection could not be subscribed, empty if all could.

    With `is_history`, the history store is the reason.
    """

    count: Count
    error: str
    is_history: bool = False


class Subscribe(Question[SubscribeReport], frozen=True):
    """Subscribe the connections with `ids`, of a `user`, or all, to a channel. `info` is JSON."""

    name = "subscribe"
    answer = SubscribeReport

    channel: str
    ids: Ids | None
    user: str
    info: str


class SubscribeWith(Question[SubscribeReport], frozen=True):
    """Do the same as `Subscribe`, and send each new subscriber `reply` and the publications after the position `since`.

    `reply` has the kind `kind`, a value of `messages.Kind`; it is None if there is no reply. `since` is None for no
    publications. `Subscribe` has no such fields, because earlier versions would ignore them.
    """

    name = "subscribe_with"
    answer = SubscribeReport

    channel: str
    ids: Ids | None
    user: str
    info: str
    reply: bytes | None
    kind: Literal["text", "json", "bytes"]
    since: str | None


class Unsubscribe(Question[int], frozen=True):
    """End the subscriptions to a channel of the connections with `ids`, of a `user`, or of all, and count them."""

    name = "unsubscribe"
    answer = Count

    channel: str
    ids: Ids | None
    user: str
    code: int
    reason: str


_Label = Annotated[str, msgspec.Meta(max_length=50, pattern=r"\A[a-z_]+\Z")]
_Labels = Annotated[dict[_Label, Annotated[str, msgspec.Meta(max_length=2000)]], msgspec.Meta(max_length=10)]
_Sample = tuple[Literal["", "_bucket", "_sum", "_count"], _Labels, Total | bool]
_Series = Annotated[list[_Sample], msgspec.Meta(max_length=MAX_SERIES)]


class CollectSamples(Question[Samples], frozen=True):
    """Return the metrics of the process."""

    name = "samples"
    answer = dict[str, _Series]


class CollectTotals(Question[dict[str, float]], frozen=True):
    """Return the number of connections, and counters from which a page computes rates."""

    name = "totals"
    answer = dict[str, Total]


def arguments_of(question: Question[Any]) -> dict[str, Any]:
    """Return the arguments of `question`, as an envelope contains them."""
    return msgspec.structs.asdict(question)


def with_ids(question: Question[A], ids: list[str]) -> Question[A]:
    """Return `question` with `ids` in its field of that name."""
    replaced: Question[A] = msgspec.structs.replace(question, ids=ids)
    return replaced


def question_of(kind: type[Q], arguments: dict[str, Any]) -> Q:
    """Return the question of type `kind` with `arguments`. Raise `EnvelopeError` if they do not fit."""
    try:
        question: Q = msgspec.convert(arguments, kind, builtin_types=(bytes,))  # else a `str` is read as base64
    except (msgspec.ValidationError, RecursionError) as exc:
        raise EnvelopeError("arguments", str(exc)) from exc
    return question


def answer_of(kind: type[Question[A]], value: Any) -> A:
    """Return `value` as an answer to a question of type `kind`. Raise `EnvelopeError` if it has another form.

    Unknown keys are ignored.
    """
    try:
        answer: A = msgspec.convert(value, kind.answer)
    except (msgspec.ValidationError, RecursionError) as exc:
        raise EnvelopeError("answer", str(exc)) from exc
    return answer
