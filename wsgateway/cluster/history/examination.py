"""Examines the Redis server of a gateway, for `wsgateway doctor`: whether it can keep histories."""

from typing import Any

from redis.exceptions import RedisError, ResponseError

from wsgateway.cluster.brokers.redis_server import RedisServer
from wsgateway.cluster.history.faults import Facts, fault_of, fault_of_probe
from wsgateway.cluster.history.scripts import probe_of
from wsgateway.exceptions import BrokerError


async def examine(url: str, *, gateway: str) -> Facts:
    """Return the facts about the server at `url`. `gateway` is the id as in topics. Raise `BrokerError`."""
    try:
        connection = await RedisServer(url).connect()
        try:
            return await _examine(connection, probe_of(gateway))
        finally:
            await connection.disconnect()
    except (RedisError, OSError) as exc:
        raise BrokerError(str(exc) or repr(exc)) from exc


async def _examine(connection: Any, probe: bytes) -> Facts:
    await connection.send_packed_command(probe, check_health=False)
    try:
        fault = fault_of_probe(await connection.read_response(disable_decoding=True))
    except ResponseError as exc:
        fault = fault_of(exc).text
    await connection.send_command("INFO", check_health=False)
    try:
        info: bytes = await connection.read_response(disable_decoding=True)
    except ResponseError:
        info = b""
    lines = dict(line.split(":", 1) for line in info.decode("utf-8", "replace").splitlines() if ":" in line)
    return Facts(
        fault,
        version=lines.get("redis_version", ""),
        max_memory=lines.get("maxmemory", ""),
        policy=lines.get("maxmemory_policy", ""),
        is_cluster=lines.get("redis_mode") == "cluster",
    )
