"""Every page of the panel. A request with another method, or for another path, is refused."""

from wsgateway.admin.pages import channels, connections, editing, gateway, log, login, overview, sending

PAGES = (
    *overview.PAGES,
    *editing.PAGES,
    *gateway.PAGES,
    *connections.PAGES,
    *channels.PAGES,
    *sending.PAGES,
    *log.PAGES,
    *login.PAGES,
)
