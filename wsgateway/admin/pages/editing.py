"""The settings of a gateway, and new gateways."""

import asyncio

from starlette.responses import Response

from wsgateway.admin.forms import OF_NEW, by_field, changes_in, field_of, form_of, settings_in, values_of
from wsgateway.admin.site import PATH, WAIT, Page, Site
from wsgateway.admin.visit import Visit
from wsgateway.auth.admin import Access
from wsgateway.config.settings import Settings
from wsgateway.config.values import Startup
from wsgateway.exceptions import ConfigError, GatewayConflict, GatewayError, StartError
from wsgateway.supervisor.instance import Embedded, Instance

MAX_SEARCH = 100
"""Characters of a search."""


async def show(site: Site, visit: Visit) -> Response:
    """Show the settings of a gateway, as a form if the reader may change them and otherwise as a list."""
    supervised = site.find_here(visit)
    if isinstance(supervised, Embedded) or visit.access is not Access.FULL:
        return visit.page(
            "settings.html",
            tab="settings",
            supervised=supervised,
            topics=values_of(supervised.settings, has_own_server=isinstance(supervised, Instance)),
        )
    return _form(visit, supervised)


async def save(site: Site, visit: Visit) -> Response:
    """Change settings, and restart the gateway if it runs."""
    edited = site.find_editable(visit)
    try:
        changes = changes_in(visit.fields(), edited.settings)
        site.supervisor.check_remote_changes(changes, before=edited)
        task = site.supervisor.begin(site.supervisor.edit(edited.id, changes))
        await asyncio.wait({task}, timeout=WAIT)
        if task.done():
            task.result()
    except StartError:
        pass  # it is changed; its state and failure show why it does not run
    except (ConfigError, GatewayConflict) as exc:
        return _form(visit, edited, exc)
    return visit.redirect(f"/gateways/{edited.id}/settings?saved={len(changes)}")


def _form(visit: Visit, edited: Instance, error: GatewayError | None = None) -> Response:
    mistakes, problems = _mistakes_of(error)
    saved = visit.request.query_params.get("saved", "")
    return visit.page(
        "form.html",
        status=200 if error is None else 422,
        tab="settings",
        supervised=edited,
        topics=form_of(edited.settings, submitted=None if error is None else visit.fields(), mistakes=mistakes),
        find=visit.request.query_params.get("find", "").strip()[:MAX_SEARCH],
        max_search=MAX_SEARCH,
        saved=int(saved) if saved.isdecimal() and len(saved) < 4 else None,
        problems=problems,
        is_wrong=error is not None,
    )


def _mistakes_of(error: GatewayError | None) -> tuple[dict[str, list[str]], list[str]]:
    """Return the mistakes by field, and all others."""
    if error is None:
        return {}, []
    return by_field(error.mistakes) if isinstance(error, ConfigError) else ({}, [str(error)])


async def new(site: Site, visit: Visit) -> Response:
    """Show the form of a new gateway."""
    return _form_of_new(visit, await asyncio.to_thread(site.supervisor.new_settings))


async def create(site: Site, visit: Visit) -> Response:
    """Create a gateway, and start it."""
    before = await asyncio.to_thread(site.supervisor.new_settings)
    try:
        settings = settings_in(visit.fields(), before)
        site.supervisor.check_remote_changes(settings)
        created = await site.supervisor.create(visit.field("id").strip(), settings)
    except (ConfigError, GatewayConflict) as exc:
        return _form_of_new(visit, before, exc)
    if created.settings.startup is Startup.AUTOMATIC:
        await site.run([site.supervisor.start(created.id)])  # the page shows why it does not run
    return visit.redirect(f"/gateways/{created.id}")


def _form_of_new(visit: Visit, settings: Settings, error: GatewayError | None = None) -> Response:
    mistakes, problems = _mistakes_of(error)
    submitted = None if error is None else visit.fields()
    return visit.page(
        "new.html",
        status=200 if error is None else 422,
        gateway_id=visit.field("id"),
        mistakes_of_id=mistakes.get("id", ()),
        fields=[field_of(name, settings, submitted, mistakes.get(name, ())) for name in OF_NEW],
        problems=problems,
        is_wrong=error is not None,
    )


PAGES = (
    Page("GET", "/new", new, Access.FULL),
    Page("POST", "/new", create, Access.FULL),
    Page("GET", PATH + "/settings", show, Access.READ),
    Page("POST", PATH + "/settings", save, Access.FULL),
)
