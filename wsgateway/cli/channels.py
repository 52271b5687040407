"""The commands that show the channels of a running server."""

import time
from collections.abc import Sequence

import click

from wsgateway.cli.arguments import Argument
from wsgateway.cli.connections import fields_of
from wsgateway.cli.remote import GATEWAY_ID, Remote, command, path_of, table
from wsgateway.cli.terminal import to_json
from wsgateway.text import cut

MAX_SHOWN = 100
"""Characters of a message in a table."""

_CHANNEL = Argument("channel", "name of the channel", metavar="CHANNEL")

_LIMIT = click.Option(["--limit"], type=int, metavar="LIMIT", default=100, help="maximum number of lines (100)")


def _channel_path(gateway_id: str, channel: str, what: str) -> str:
    return path_of(gateway_id, "channels", channel, what)


CHANNELS = {
    "name": "NAME",
    "namespace": "NAMESPACE",
    "subscribers": "SUBSCRIBERS",
    "at": "AT",
    "silent": "SILENT FOR",
}


@command(
    "channels",
    "List the channels of a gateway. A channel is listed if it has subscribers, or a history in memory.",
    GATEWAY_ID,
    click.Option(["--prefix"], metavar="TEXT", default="", help="only channels whose name begins with this text"),
    _LIMIT,
)
def _channels(remote: Remote, gateway_id: str, prefix: str, limit: int) -> int:
    answer = remote.ask("GET", path_of(gateway_id, "channels"), prefix=prefix, limit=limit)
    more = answer["total"] - len(answer["channels"])
    return remote.show(answer, table(answer["channels"], CHANNELS) + (f"\n… and {more} more" if more > 0 else ""))


MEMBERS = {"id": "ID", "user": "USER", "info": "INFO"}


@command("presence", "List the members of a channel.", GATEWAY_ID, _CHANNEL, _LIMIT)
def _presence(remote: Remote, gateway_id: str, channel: str, limit: int) -> int:
    answer = remote.ask("GET", _channel_path(gateway_id, channel, "presence"), limit=limit)
    rows = [
        {**member, "info": None if member["info"] is None else to_json(member["info"])} for member in answer["members"]
    ]
    more = answer["total"] - len(rows)
    rest = "" if answer["complete"] else "\nnot every node has answered; run the command again"
    return remote.show(answer, table(rows, MEMBERS) + (f"\n… and {more} more" if more > 0 else "") + rest)


HISTORY = {"at": "AT", "time": "TIME", "from": "FROM", "name": "NAME", "key": "KEY", "message": "MESSAGE"}


@command(
    "history",
    "Print the history of a channel, the oldest publication first.",
    GATEWAY_ID,
    _CHANNEL,
    click.Option(["--since"], metavar="EPOCH:OFFSET", help="only publications after this position"),
    click.Option(["--reverse"], is_flag=True, help="the newest publication first"),
    click.Option(["--limit"], type=int, metavar="LIMIT", default=100, help="maximum number of publications (100)"),
)
def _history(remote: Remote, gateway_id: str, channel: str, since: str | None, reverse: bool, limit: int) -> int:
    if since == "":
        raise ValueError("--since is empty; give a position, EPOCH:OFFSET, or leave it out")
    path = _channel_path(gateway_id, channel, "history")
    answer = remote.ask("GET", path, since=since, reverse="true" if reverse else None, limit=limit)
    if answer["at"] is None:
        return remote.show(answer, f"the channel {channel} keeps no history; its namespace has history = 0")
    rows = [
        {
            "at": one["at"],
            "time": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["time"])),
            "from": one.get("from", {}).get("user"),
            "name": one.get("name"),
            "key": one.get("key"),
            "message": cut(f"base64 {one['base64']}" if "base64" in one else to_json(one["message"]), MAX_SHOWN),
        }
        for one in answer["publications"]
    ]
    heads = {name: head for name, head in HISTORY.items() if name in _ALWAYS or any(row[name] for row in rows)}
    return remote.show(answer, f"{table(rows, heads)}\n\nposition: {answer['at']}")


_ALWAYS = frozenset({"at", "time", "message"})
"""Columns that are shown even if they are empty."""


@command("forget", "Drop the history of a channel.", GATEWAY_ID, _CHANNEL)
def _forget(remote: Remote, gateway_id: str, channel: str) -> int:
    remote.ask("DELETE", _channel_path(gateway_id, channel, "history"))
    return remote.show({}, f"the history of {channel} was dropped")


@command(
    "unsubscribe",
    "End subscriptions to a channel.",
    GATEWAY_ID,
    _CHANNEL,
    Argument("connections", "ids of connections", metavar="[CONNECTION]...", nargs=-1),
    click.Option(["--all", "all_of_them"], is_flag=True, help="end the subscriptions of all connections"),
    click.Option(["--user"], metavar="USER", help="end the subscriptions of this user"),
    click.Option(
        ["--code"],
        type=int,
        metavar="CODE",
        default=2000,
        help="code that clients receive (2000); from 2500 on, they subscribe again",
    ),
    click.Option(["--reason"], metavar="TEXT", default="", help="reason that clients receive"),
)
def _unsubscribe(
    remote: Remote,
    gateway_id: str,
    channel: str,
    connections: Sequence[str],
    all_of_them: bool,
    user: str | None,
    code: int,
    reason: str,
) -> int:
    body = {"code": code, "reason": reason, **fields_of(connections, user, all_of_them=all_of_them)}
    answer = remote.ask("POST", _channel_path(gateway_id, channel, "unsubscribe"), body)
    rest = "" if answer["complete"] else ", but not every node has answered; run the command again"
    return remote.show(answer, f"{answer['unsubscribed']} unsubscribed{rest}")


COMMANDS = [_channels, _presence, _history, _forget, _unsubscribe]
"""The commands of this module."""
