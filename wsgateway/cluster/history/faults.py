"""What a Redis server that keeps a history says about itself, and the sentences for its errors. No I/O."""

import re
from collections.abc import Sequence
from typing import NamedTuple

LATE = "it may have been stored, so publish it again only with the idempotency_key that it had"


class Fault(NamedTuple):
    """Why a history is unavailable, and what to do.

    With `is_late`, a command may have been executed. With `is_over`, the connection must not be used any longer. With
    `is_slow`, there was no answer in time.
    """

    text: str
    is_late: bool = False
    is_over: bool = False
    is_slow: bool = False


class Facts(NamedTuple):
    """What a server says about itself. `fault` is why it cannot keep a history; empty if it can.

    The others are those of INFO, empty if the user may not use that command. `max_memory` is in bytes, 0 for no limit.
    """

    fault: str
    version: str
    max_memory: str
    policy: str
    is_cluster: bool


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
    ("Authentication required", "the server asks for a password, write redis://:PASSWORD@HOST", True),
    (
        "invalid username-password",
        "the server does not accept the user name or the password, correct the URL of the broker",
        True,
    ),
)
"""The code or a part of an error, the sentence, and whether the connection must be dropped."""

_CODES = {
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "MasterDownError": "MASTERDOWN",
    "BusyLoadingError": "LOADING",
    "NoScriptError": "NOSCRIPT",
    "NoPermissionError": "NOPERM",
    "MovedError": "MOVED",
    "AskError": "ASK",
    "ClusterDownError": "CLUSTERDOWN",
    "ClusterCrossSlotError": "CROSSSLOT",
}
"""The codes of errors by the name of redis-py's class, which removes the code from the text."""

_DENIED = ("ermission", "can't run this command", "can't access at least", "can't publish")
"""Parts of errors about the permissions of a user: of Redis 7 and Valkey, and of Redis 6 within a script."""


_COMMAND = re.compile(r"'([\w|]+)'")


def fault_of(error: BaseException) -> Fault:
    """Return the fault for an error of redis-py, of the server, or of the network."""
    text = (str(error) or repr(error)).rstrip(".")
    full = f"{_CODES.get(type(error).__name__, '')} {text}"
    if _is_denied(full):
        return Fault(f"{_advice_for(text)} ({text})")
    for begin, sentence, is_over in _SENTENCES:
        if begin in full:
            return Fault(f"{sentence} ({text})", is_over=is_over)
    return Fault(text)


def fault_of_probe(answer: Sequence[bytes]) -> str:
    """Return what is wrong according to the answer of the probe, (command, error) pairs; empty if nothing is."""
    pairs = [
        (answer[index].decode("ascii", "replace"), answer[index + 1].decode("utf-8", "replace"))
        for index in range(0, len(answer) - 1, 2)
    ]
    denied = [(name, error) for name, error in pairs if _is_denied(error)]
    if denied:
        names = " ".join(f"+{name}" for name, _ in denied)
        return _advice_for(denied[0][1], names)
    return fault_of(Exception(pairs[0][1])).text if pairs else ""


def _is_denied(text: str) -> bool:
    """Return whether the text of an error says that the user lacks a permission."""
    return "NOPERM " in text or any(part in text for part in _DENIED)


def _advice_for(error: str, names: str = "") -> str:
    """Return which permission is missing, and what to do. `names` are those of the denied commands, if known."""
    match = _COMMAND.search(error)
    if "one of the keys" in error or "access a key" in error:
        return "the user of the broker's URL may not use the keys, add ~wsgateway:* to its ACL"
    if "channel" in error:
        return "the user of the broker's URL may not use the channels, add &wsgateway.* to its ACL"
    names = names or (f"+{match[1]}" if match else "what docs/how-to/processes.md lists")
    return f"the user of the broker's URL may not use all commands, add {names} to its ACL"
