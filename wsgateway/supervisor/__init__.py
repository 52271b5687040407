"""Gateways kept in a settings file: created, started, rolled, edited, and deleted. Does not know HTTP."""

from wsgateway.supervisor.supervisor import Supervisor

__all__ = ["Supervisor"]
