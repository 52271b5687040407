"""Chooses the history store that belongs to a broker, by its URL."""

import importlib
from collections.abc import Callable, Mapping

from wsgateway.cluster.history.store import HistoryStore
from wsgateway.config.channels import NATS, ChannelSettings, history_fault
from wsgateway.logs import GatewayLog


def open_store(
    url: str,
    *,
    gateway: str,
    channels: Mapping[str, ChannelSettings],
    history_bytes: int,
    new_epoch: Callable[[], str],
    log: GatewayLog,
) -> HistoryStore | None:
    """Return the history store of a gateway, None if its broker cannot keep the histories of `channels`.

    `url` is one that `brokers.opener` accepts, `gateway` the id as in topics, and `history_bytes` the setting.
    `new_epoch` returns a text that was never an epoch before.
    """
    if history_fault(url, channels):
        return None
    scheme = url.partition("://")[0].lower()
    url = scheme + url[len(scheme) :]
    store: HistoryStore
    if scheme == "ipc":
        ipc = importlib.import_module("wsgateway.cluster.history.ipc")
        store = ipc.IpcHistory(url, gateway=gateway, history_bytes=history_bytes, log=log)
    elif scheme in NATS:
        nats = importlib.import_module("wsgateway.cluster.history.nats")
        store = nats.NatsHistory(url, gateway=gateway, channels=channels, new_epoch=new_epoch, log=log)
    else:
        redis = importlib.import_module("wsgateway.cluster.history.redis")
        store = redis.RedisHistory(url, gateway=gateway, new_epoch=new_epoch, log=log)
    return store
