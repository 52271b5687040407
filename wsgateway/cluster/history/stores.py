"""Chooses the history store that belongs to a broker, by its URL."""

import importlib
from collections.abc import Callable

from wsgateway.cluster.history.store import HistoryStore
from wsgateway.config.channels import history_fault
from wsgateway.logs import GatewayLog


def open_store(
    url: str, *, gateway: str, history_bytes: int, new_epoch: Callable[[], str], log: GatewayLog
) -> HistoryStore | None:
    """Return the history store of a gateway, None if its broker has none.

    `url` is one that `brokers.opener` accepts, `gateway` the id as in topics, and `history_bytes` the setting.
    `new_epoch` returns a text that was never an epoch before.
    """
    if history_fault(url):
        return None
    scheme = url.partition("://")[0].lower()
    url = scheme + url[len(scheme) :]
    store: HistoryStore
    if scheme == "ipc":
        ipc = importlib.import_module("wsgateway.cluster.history.ipc")
        store = ipc.IpcHistory(url, gateway=gateway, history_bytes=history_bytes, log=log)
    else:
        redis = importlib.import_module("wsgateway.cluster.history.redis")
        store = redis.RedisHistory(url, gateway=gateway, new_epoch=new_epoch, log=log)
    return store
