"""The admin panel: see and steer the gateways of a supervisor, or of an application, in a browser."""

from wsgateway.admin.app import AdminApp
from wsgateway.admin.panel import Panel

__all__ = ["AdminApp", "Panel"]
