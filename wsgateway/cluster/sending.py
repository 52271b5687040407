"""The questions by which a node sends a message for another process, and the form of their answers."""

from typing import Annotated, Literal

import msgspec

from wsgateway.cluster.envelopes import Count
from wsgateway.cluster.questions import Ids, Question


class SendRefusal(msgspec.Struct, frozen=True):
    """A message that the listener has refused with `status` and `reason`."""

    status: Annotated[int, msgspec.Meta(ge=400, le=599)]
    reason: str


SendReport = tuple[Count, Count, Count, Count, bool] | SendRefusal
"""The counts of a message, or why it was not sent."""


class Send(Question[SendReport], frozen=True):
    """Send a message through the listener, and return its counts. Only nodes of an earlier version ask it.

    `payload` is the encoded message, `data` a JSON object, `event_name` the name of the event.
    """

    name = "send"
    answer = SendReport

    payload: bytes
    kind: Literal["text", "bytes", "json"]
    ids: Ids | None
    data: str
    event_name: str = ""


class SentReport(msgspec.Struct, frozen=True):
    """The result of a message: the fields of a `Sent`, or what its sender has to raise.

    `counts` is None for a publication. `error` is the name of an error, empty if the message was sent. `status` is that
    of a refusal, and `is_late` that of a `HistoryError`.
    """

    counts: tuple[Count, Count, Count, Count, bool] | None = None
    at: str | None = None
    is_new: bool = True
    error: str = ""
    status: Annotated[int, msgspec.Meta(ge=0, le=599)] = 0
    reason: str = ""
    is_late: bool = False


class Publish(Question[SentReport], frozen=True, kw_only=True):
    """Publish a message, without the listener. `channel` and `user` are empty if they do not name its recipients."""

    name = "publish"
    answer = SentReport

    payload: bytes
    kind: Literal["text", "bytes", "json"]
    channel: str
    user: str
    ids: Ids | None
    event_name: str
    key: str
    tags: dict[str, str] | None
    ttl: float | None
    idempotency_key: str


class SendTo(Publish, frozen=True, kw_only=True):
    """Send a message through the listener. `data` is a JSON object.

    Unlike `Send`, it names channels and users, so a node of an earlier version, which would send the message to every
    connection, must not know the question.
    """

    name = "send_to"

    data: str


class Feed(Question[str | SendRefusal | None], frozen=True):
    """Handle a message that a client has posted to the session with this secret, which belongs to the node.

    Return its position, None if it is in no history, or why it was refused.
    """

    name = "feed"
    answer = str | SendRefusal | None

    secret: str
    payload: bytes
    kind: Literal["text", "bytes", "json"]
    channel: str
    event_name: str


PayloadKind = Literal["text", "bytes", "json"]


class RequestReport(msgspec.Struct, frozen=True):
    """The answer to a request, or what its sender has to raise.

    `error` is the name of an error, empty if `payload` is the answer. `code` is that of a refusal.
    """

    payload: bytes = b""
    kind: PayloadKind = "json"
    error: str = ""
    code: int = 0
    reason: str = ""


class FeedRequest(Question[RequestReport], frozen=True):
    """Answer a request that a client has posted to the session with this secret, which belongs to the node."""

    name = "feed_request"
    answer = RequestReport

    secret: str
    payload: bytes
    kind: PayloadKind
    event_name: str


class AskClient(Question[RequestReport], frozen=True):
    """Send a request to the client of a connection of the node, and return its answer within `seconds`."""

    name = "ask_client"
    answer = RequestReport

    conn_id: str
    payload: bytes
    kind: PayloadKind
    event_name: str
    seconds: float


class FeedFrame(Question[bool], frozen=True):
    """Pass a frame that a client has posted to the stream with this secret, which belongs to the node.

    The frames that one node passes on keep their order. A text is UTF-8. Return whether it was accepted.
    """

    name = "feed_frame"
    answer = bool

    secret: str
    frame: bytes
    is_binary: bool

    def __repr__(self) -> str:
        return f"FeedFrame({len(self.frame)} bytes)"
