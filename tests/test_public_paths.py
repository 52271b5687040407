"""The import paths that users rely on. Every other module is internal."""

from importlib import import_module

import pytest

import wsgateway

PATHS = [
    "wsgateway.admin:Panel",
    "wsgateway.app:app",
    "wsgateway.auth:Access",
    "wsgateway.client:connect",
    "wsgateway.config:AdminSettings",
    "wsgateway.config:Settings",
    "wsgateway.client:send",
    "wsgateway.logs:QueryMask",
    "wsgateway.logs:limit_repeats",
    "wsgateway.publisher:Publisher",
    "wsgateway.server:HttpProtocol",
    "wsgateway.server:WebSocketProtocol",
    "wsgateway.supervisor:Supervisor",
    "wsgateway.supervisor.starter:Listener",
    "wsgateway.testing:serve",
]


@pytest.mark.parametrize("path", [*PATHS, *(f"wsgateway:{name}" for name in wsgateway.__all__)])
def test_a_public_path_stays(path: str) -> None:
    module, _, name = path.partition(":")
    assert getattr(import_module(module), name) is not None
