"""The admin interface: manage the gateways of a supervisor, or of an application, over REST or in a browser."""

from wsgateway.admin.app import AdminApp
from wsgateway.admin.panel import Panel

__all__ = ["AdminApp", "Panel"]
