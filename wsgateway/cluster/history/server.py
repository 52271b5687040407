"""Answers the requests to the history server of `ipc://`, from histories in memory. No I/O.

The records are opaque to it, so it need not know the version of the processes that write and read them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from wsgateway.cluster.history.memory import RECORD_BYTES, MemoryHistory
from wsgateway.cluster.history.requests import (
    MAX_RECORD,
    PAGE_BYTES,
    Answer,
    Header,
    KnownSettings,
    RequestError,
    decode_header,
    encode_answer,
)
from wsgateway.cluster.history.store import announcement
from wsgateway.config.channels import MAX_HISTORY, MAX_NAME, ChannelSettings
from wsgateway.exceptions import ConfigError
from wsgateway.frames import MAX_OFFSET, Publication
from wsgateway.messages import Kind, Message

MAX_GATEWAYS = 256
"""Gateways that use one folder. Each may fill its `history_bytes`."""

MAX_TOPIC = 1024
"""Bytes of a topic. That of a channel has a prefix and its name, of which percent-encoding makes 765 bytes."""

Parcel = list[bytes]
"""A topic, and what is published on it together."""


def _size_of(publication: Publication) -> int:
    return RECORD_BYTES + len(publication.payload) + len(publication.key)


class HistoryServer:
    """The histories of the gateways that use one folder."""

    def __init__(self, *, now: Callable[[], float], new_epoch: Callable[[], str]) -> None:
        """The arguments are those of `MemoryHistory`."""
        self._now = now
        self._new_epoch = new_epoch
        self._settings = KnownSettings()
        self._histories: dict[str, MemoryHistory] = {}

    def answer(self, frames: Sequence[bytes]) -> tuple[list[bytes], list[Parcel]]:
        """Return the answer to a request, and what has to be published before the answer is sent. Never raise."""
        number = 0
        try:
            header = decode_header(frames[0] if frames else b"")
            number = header.number
            history = self._history(header.gateway, header.history_bytes)
            results, records, parcels = self._carry_out(header, history, frames[1:])
        except RequestError as exc:
            return [encode_answer(Answer(exc.number or number, str(exc), []))], []
        except (ValueError, TypeError, LookupError, ConfigError):  # of an item
            return [encode_answer(Answer(number, "it cannot read the request", []))], []
        except Exception as exc:  # a fault of its own must not end the server
            return [encode_answer(Answer(number, f"it has failed: {exc!r}", []))], []
        answer = Answer(number, "", results, history.bytes, history.evicted)
        return [encode_answer(answer), *records], parcels

    def expire(self) -> None:
        """Drop the records, positions, and gateways whose time is over."""
        for gateway, history in tuple(self._histories.items()):
            history.expire()
            if not history.channels:
                del self._histories[gateway]

    def _history(self, gateway: str, limit_bytes: int) -> MemoryHistory:
        history = self._histories.get(gateway)
        if history is None:
            if len(self._histories) >= MAX_GATEWAYS:
                raise RequestError(f"it has the histories of {MAX_GATEWAYS} gateways, use another folder")
            history = MemoryHistory(limit_bytes, now=self._now, new_epoch=self._new_epoch, size_of=_size_of)
            self._histories[gateway] = history
        history.limit_bytes = limit_bytes  # a roll may have changed it
        return history

    def _carry_out(
        self, header: Header, history: MemoryHistory, records: Sequence[bytes]
    ) -> tuple[list[Any], list[bytes], list[Parcel]]:
        """Return the results, the records, and the parcels. Raise `RequestError`, or what an item causes."""
        match header.operation:
            case "append":
                results, parcels = self._append(header.items, history, records)
                return results, [], parcels
            case "read":
                return *self._read(header.items, history), []
            case "renew":
                for channel, epoch in header.items:
                    history.renew(_name(channel), epoch)
            case "forget":
                for channel in header.items:
                    history.forget(_name(channel))
            case _:
                raise RequestError("it does not know the request; restart all processes")
        return [], [], []

    def _append(
        self, items: list[Any], history: MemoryHistory, records: Sequence[bytes]
    ) -> tuple[list[Any], list[Parcel]]:
        if len(items) != len(records) or any(len(record) > MAX_RECORD for record in records):
            raise ValueError("records")
        results: list[Any] = []
        parcels: list[Parcel] = []
        for publication, settings, topic, idempotency_key in [  # all are checked before the first is added
            self._publication(item, record) for item, record in zip(items, records, strict=True)
        ]:
            history.adapt(publication.channel, settings)
            position, is_new = history.append(publication, settings, idempotency_key=idempotency_key)
            results.append((position.offset, position.epoch, is_new))
            if is_new:
                data = announcement(position.offset - 1, position, publication.payload)
                if parcels and parcels[-1][0] == topic:
                    parcels[-1].append(data)
                else:
                    parcels.append([topic, data])
        return results, parcels

    def _publication(self, item: Any, record: bytes) -> tuple[Publication, ChannelSettings, bytes, str]:
        channel, topic, history, ttl, keep, key, idempotency_key = item[:7]
        if not isinstance(key, str) or not isinstance(idempotency_key, str) or not isinstance(topic, str):
            raise TypeError("text")
        encoded = topic.encode()
        if not 0 < len(encoded) <= MAX_TOPIC:
            raise ValueError("topic")
        publication = Publication(Message(record, Kind.BYTES), _name(channel), key=key)
        return publication, self._settings.find(history, ttl, keep), encoded, idempotency_key

    def _read(self, items: list[Any], history: MemoryHistory) -> tuple[list[Any], list[bytes]]:
        """Return the first pages, as many as fit into one answer."""
        results: list[Any] = []
        records: list[bytes] = []
        size = 0
        for channel, settings, above, most in [self._wish(item) for item in items]:
            history.adapt(channel, settings)
            at, start, entries = history.page(channel, settings, above=above, most=most)
            page = [publication.payload for _, _, publication in entries]
            size += sum(map(len, page))
            if results and size > PAGE_BYTES:
                break
            results.append((at.epoch, at.offset, start, [(prev, offset) for prev, offset, _ in entries]))
            records += page
        return results, records

    def _wish(self, item: Any) -> tuple[str, ChannelSettings, int | None, int]:
        channel, history, ttl, keep, above, most = item[:6]
        if type(most) is not int or not most >= 0:
            raise ValueError("most")
        if above is not None and (type(above) is not int or not 0 <= above <= MAX_OFFSET):
            raise ValueError("above")
        return _name(channel), self._settings.find(history, ttl, keep), above, min(most, MAX_HISTORY)


def _name(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
        raise ValueError("channel")
    return value
