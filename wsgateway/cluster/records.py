"""Publications as the records that nodes and histories exchange. No I/O."""

import json
import time
from typing import Any

from wsgateway.cluster import envelopes
from wsgateway.cluster.envelopes import VERSION, MemberRow, Record
from wsgateway.config.channels import ChannelSettings
from wsgateway.config.values import Keep
from wsgateway.encoding import ENCODER
from wsgateway.exceptions import EnvelopeError, MessageError
from wsgateway.frames import Member, Position, Publication, check_event_name
from wsgateway.messages import Kind, Message

KINDS = {kind.value: kind for kind in Kind}


def encode_record(publication: Publication, *, node: str, but: str = "", number: int = 0) -> bytes:
    """Return a publication as bytes. Raise `MessageError` if it is too large.

    `node` is the origin, `but` the id of a connection that does not receive it. Unless `number` is 0, the nodes
    remember how many recipients the publication had.
    """
    sender, expires = publication.sender, publication.expires
    record = Record(
        VERSION,
        node,
        0,
        publication.channel,
        publication.payload,
        publication.kind.value,
        publication.time,
        publication.name,
        publication.key,
        None if publication.tags is None else dict(publication.tags),
        None if sender is None else row_of(sender),
        None if expires is None else time.time() + expires - time.monotonic(),
        but,
        number,
    )
    try:
        return envelopes.encode(record)
    except EnvelopeError as exc:
        text = f"the message cannot be published to {publication.channel}: {exc.detail}"
        raise MessageError(text) from exc


def decode_record(data: bytes) -> Record:
    """Return the record in `data`. Raise `EnvelopeError`."""
    record = envelopes.decode(data)
    if not isinstance(record, Record):
        raise EnvelopeError("malformed", f"it is {type(record).__name__}, not a publication")
    return record


def publication_of(record: Record, settings: ChannelSettings, position: Position | None) -> Publication:
    """Return the publication in `record`, of a channel with `settings`. Raise `EnvelopeError`."""
    kind = KINDS[record.kind]
    expires = record.expires
    try:
        if kind is not Kind.BYTES and not record.payload.isascii():
            record.payload.decode()
        if record.name:
            check_event_name(record.name)
        publication = Publication(
            Message(record.payload, kind),
            record.channel,
            name=record.name,
            key=record.key,
            tags=record.tags,
            time=record.time,
            expires=None if expires is None else time.monotonic() + expires - time.time(),
            sender=None if record.sender is None else member_of(record.sender),
            policy=settings.slow_policy,
            is_latest_only=settings.keep is Keep.LAST,
        )
    except ValueError as exc:
        raise EnvelopeError("malformed", str(exc)) from exc
    publication.position = position
    return publication


def row_of(member: Member) -> MemberRow:
    """Return a member as an envelope contains it."""
    info = "null" if member.info is None else ENCODER.encode(member.info)
    if member.conn_info is None:
        return member.id, member.user, info
    return member.id, member.user, info, ENCODER.encode(member.conn_info)


def member_of(row: MemberRow) -> Member:
    """Return the member in an envelope. Raise `ValueError`."""
    conn_id, user, *infos = row
    try:
        values: list[Any] = [None if text == "null" else json.loads(text) for text in infos]
    except RecursionError as exc:
        raise ValueError("the info of a member is nested too deep") from exc
    return Member(conn_id, user, *values)
