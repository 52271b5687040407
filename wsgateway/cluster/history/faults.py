"""The sentences for errors of a Redis server that keeps a history. No I/O."""

from collections.abc import Sequence
from typing import NamedTuple

LATE = "it may have been stored, so send it again with the same idempotency_key"


class Fault(NamedTuple):
    """Why a history is unavailable, and what to do. With `is_late`, a command may have been executed. With `is_over`,
    the connection must not be used any longer."""

    text: str
    is_late: bool = False
    is_over: bool = False


_SENTENCES = (
    ("OOM ", "the server is full, raise its maxmemory or set maxmemory-policy to volatile-ttl", False),
    ("READONLY ", "the server is a replica now, point the broker at the master or use redis-sentinel://", True),
    ("MASTERDOWN ", "the server is a replica without a master, point the broker at the master", True),
    ("LOADING ", "the server still loads its data, wait until it has started", True),
    ("NOSCRIPT ", "the server does not keep the scripts that were sent, check whether a proxy is in between", False),
    (
        "WRONGTYPE ",
        "another program uses a key that begins with wsgateway:, rename its keys or use a server alone",
        False,
    ),
    ("MISCONF ", "the server cannot save its data and refuses writes, its log has the reason", False),
    ("NOREPLICAS ", "the server has too few replicas and refuses writes, check min-replicas-to-write", False),
    ("BUSY ", "the server runs a script of another program for too long, see its lua-time-limit", False),
    ("MOVED ", "the server is part of a Redis Cluster, which is not supported, use one without cluster mode", False),
    ("ASK ", "the server is part of a Redis Cluster, which is not supported, use one without cluster mode", False),
    ("CLUSTERDOWN ", "the server is part of a Redis Cluster, which is not supported, use another one", False),
    ("CROSSSLOT ", "the server is part of a Redis Cluster, which is not supported, use another one", False),
    ("NOAUTH ", "the server asks for a password, write redis://:PASSWORD@HOST", True),
    ("WRONGPASS ", "the server does not accept the user name or the password, correct the URL of the broker", True),
)
"""The code of an error, the sentence, and whether the connection must be dropped."""

_DENIED = ("ermission", "can't run this command", "can't access at least", "can't publish")
"""Parts of errors about the permissions of a user: of Redis 7 and Valkey, and of Redis 6 within a script."""


def fault_of(error: BaseException) -> Fault:
    """Return the fault for an error of redis-py, of the server, or of the network."""
    code = getattr(error, "status_code", None)
    text = str(error) or repr(error)
    full = f"{code} {text}" if code else text
    if is_denied(full):
        return Fault(f"the user of the broker's URL lacks a permission ({text}), see docs/processes.md for all of them")
    for begin, sentence, is_over in _SENTENCES:
        if begin in full:
            return Fault(f"{sentence} ({text})", is_over=is_over)
    return Fault(text)


def is_denied(text: str) -> bool:
    """Return whether the text of an error says that the user lacks a permission."""
    return "NOPERM " in text or any(part in text for part in _DENIED)


def fault_of_probe(answer: Sequence[bytes]) -> str:
    """Return what is wrong according to the answer of the probe, (command, error) pairs; empty if nothing is."""
    pairs = [
        (answer[index].decode("ascii", "replace"), answer[index + 1].decode("utf-8", "replace"))
        for index in range(0, len(answer) - 1, 2)
    ]
    denied = [(name, error) for name, error in pairs if is_denied(error)]
    if denied:
        if any("key" in error for _, error in denied):
            return "the user of the broker's URL may not use the keys, add ~wsgateway:* to its ACL"
        if any("channel" in error for _, error in denied):
            return "the user of the broker's URL may not use the channels, add &wsgateway.* to its ACL"
        names = " ".join(f"+{name}" for name, _ in denied)
        return f"the user of the broker's URL may not use some commands, add {names} to its ACL"
    return fault_of(Exception(pairs[0][1])).text if pairs else ""
