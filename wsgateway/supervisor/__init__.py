"""Gateways kept in a settings file: created, started, rolled, edited, and deleted. Does not know HTTP.

`supervisor` manages all gateways, `instance` starts and stops one of them, and `store` keeps the settings file. If
several processes serve a gateway, `workers` starts them and replaces those that die, `worker` runs inside each of them,
and `observer` sees them from outside.
"""

from wsgateway.supervisor.supervisor import Supervisor

__all__ = ["Supervisor"]
