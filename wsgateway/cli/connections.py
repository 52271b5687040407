"""The commands that show the nodes and connections of a running gateway, and close connections."""

from collections.abc import Sequence

import click

from wsgateway.cli.arguments import Argument
from wsgateway.cli.remote import GATEWAY_ID, Remote, command, path_of, table
from wsgateway.cli.terminal import complain

NODES = {
    "id": "ID",
    "state": "STATE",
    "host": "HOST",
    "pid": "PID",
    "connections": "CONNECTIONS",
    "silent": "SILENT FOR",
}


@command("nodes", "List the nodes of a gateway, the processes that it runs in.", GATEWAY_ID)
def _nodes(remote: Remote, gateway_id: str) -> int:
    answer = remote.ask("GET", path_of(gateway_id) + "/nodes")
    text = (
        table(answer["nodes"], NODES)
        if answer["nodes"]
        else "the gateway runs in one process, because no broker is set"
    )
    return remote.show(answer, text)


CONNECTIONS = {"id": "ID", "address": "ADDRESS", "path": "PATH", "user": "USER", "age": "AGE"}


@command(
    "connections",
    "List the connections of a gateway.",
    GATEWAY_ID,
    click.Option(
        ["--search"],
        metavar="TEXT",
        default="",
        help="only connections whose id, address, path, or user contains this text",
    ),
    click.Option(["--limit"], type=int, metavar="LIMIT", default=100, help="maximum number of connections (100)"),
)
def _connections(remote: Remote, gateway_id: str, search: str, limit: int) -> int:
    answer = remote.ask("GET", path_of(gateway_id) + "/connections", limit=limit, search=search)
    more = answer["total"] - len(answer["connections"])
    text = table(answer["connections"], CONNECTIONS) + (f"\n… and {more} more" if more > 0 else "")
    return remote.show(answer, text)


def fields_of(connections: Sequence[str], user: str | None, *, all_of_them: bool) -> dict[str, object]:
    """Return the fields of a request that names connections. Raise `ValueError` unless exactly one way is used."""
    if bool(connections) + all_of_them + bool(user) != 1:
        raise ValueError("name the connections: their ids, or --user USER, or --all")
    return {"all": True} if all_of_them else {"user": user} if user else {"connections": list(connections)}


@command(
    "close",
    "Close connections of a gateway.",
    GATEWAY_ID,
    Argument("connections", "ids of connections", metavar="[CONNECTION]...", nargs=-1),
    click.Option(["--all", "all_of_them"], is_flag=True, help="close all connections"),
    click.Option(["--user"], metavar="USER", help="close all connections of this user"),
    click.Option(["--code"], type=int, metavar="CODE", default=1000, help="close code (1000)"),
    click.Option(["--reason"], metavar="TEXT", default="", help="close reason"),
)
def _close(
    remote: Remote,
    gateway_id: str,
    connections: Sequence[str],
    all_of_them: bool,
    user: str | None,
    code: int,
    reason: str,
) -> int:
    body = {"code": code, "reason": reason, **fields_of(connections, user, all_of_them=all_of_them)}
    answer = remote.ask("POST", path_of(gateway_id) + "/connections/close", body)
    rest = "" if answer["complete"] else ", but not every node has answered; run the command again"
    remote.show(answer, f"{answer['closed']} closed{rest}")
    if all_of_them or answer["closed"]:
        return 0
    what = "user" if user else "id"
    complain(f"no open connection has that {what}; `wsgateway connections` lists the connections")
    return 1


COMMANDS = [_nodes, _connections, _close]
"""The commands of this module."""
