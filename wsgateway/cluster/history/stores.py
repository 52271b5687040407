"""Chooses the history store that belongs to a broker, by its URL."""

import importlib
from collections.abc import Callable

from wsgateway.cluster.history.store import HistoryStore
from wsgateway.logs import GatewayLog

WITHOUT_HISTORY = {"nats", "tls"}
"""Schemes of brokers that carry messages and keep nothing."""


def history_fault(url: str) -> str:
    """Return why no history can be kept with the broker at `url`, as the end of a sentence; empty if it can."""
    if _scheme_of(url) in WITHOUT_HISTORY:
        return "cannot be kept with NATS, so use a broker of Redis or ipc://, or set history = 0"
    return ""


def open_store(
    url: str, *, gateway: str, history_bytes: int, new_epoch: Callable[[], str], log: GatewayLog
) -> HistoryStore | None:
    """Return the history store of the gateway with the id `gateway`, None if its broker has none.

    The URL is one that `brokers.opener` accepts. `history_bytes` is the setting of the gateway. `new_epoch` returns a
    text that was never an epoch before.
    """
    scheme = _scheme_of(url)
    url = scheme + url[len(scheme) :]
    store: HistoryStore | None = None
    if scheme == "ipc":
        ipc = importlib.import_module("wsgateway.cluster.history.ipc")
        store = ipc.IpcHistory(url, gateway=gateway, history_bytes=history_bytes, log=log)
    elif scheme not in WITHOUT_HISTORY:
        redis = importlib.import_module("wsgateway.cluster.history.redis")
        store = redis.RedisHistory(url, gateway=gateway, new_epoch=new_epoch, log=log)
    return store


def _scheme_of(url: str) -> str:
    return url.partition("://")[0].lower()
