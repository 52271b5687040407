"""The OpenAPI 3.1 description of the REST interface, derived from its operations, the shapes of their answers, and the
declaration of the settings.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from wsgateway.admin.handlers import MAX_LINES, MAX_WAIT
from wsgateway.admin.rest import Operation
from wsgateway.config.channels import MAX_HISTORY
from wsgateway.config.settings import SPECS
from wsgateway.config.values import Kind, Startup, kind_of
from wsgateway.gateway.answers import MAX_OFFSET, MAX_PAGE
from wsgateway.gateway.http.description import MESSAGE, TEXT, TEXTS
from wsgateway.gateway.shapes import Problem, schemas_of
from wsgateway.limits import SlowPolicy
from wsgateway.logs import LEVELS

ALWAYS = (400, 401, 403)
"""Errors of every operation: a host that is not allowed, no token or a wrong one, a caller without access."""

PARAMETERS: dict[str, dict[str, Any]] = {
    "wait": {
        "description": "seconds to wait until the action is done; if it takes longer, the answer is 202",
        "schema": {"type": "number", "minimum": 0, "maximum": MAX_WAIT},
    },
    "offset": {
        "description": "number of items to skip",
        "schema": {"type": "integer", "minimum": 0, "maximum": MAX_OFFSET},
    },
    "limit": {
        "description": "maximum number of items",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE},
    },
    "search": {"description": "part of an id, address, path, or user", "schema": TEXT},
    "prefix": {"description": "the beginning of the names", "schema": TEXT},
    "publications": {
        "name": "limit",
        "description": "maximum number of publications",
        "schema": {"type": "integer", "minimum": 0, "maximum": MAX_HISTORY},
    },
    "since": {"description": "only publications after this position, EPOCH:OFFSET", "schema": TEXT},
    "reverse": {"description": "whether the newest publication is first", "schema": {"type": "boolean"}},
    "lines": {
        "description": "maximum number of lines",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LINES},
    },
    "gateway": {"description": "only lines of the gateway with this id", "schema": TEXT},
    "level": {"description": "this level and above", "schema": {"enum": list(LEVELS)}},
}


def description(operations: Iterable[Operation], *, version: str) -> dict[str, Any]:
    """Return the OpenAPI document of `operations`."""
    operations = tuple(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    contents = (content for operation in operations for content in operation.answers.values())
    shapes = dict.fromkeys(content for content in contents if isinstance(content, type))
    return {
        "openapi": "3.1.0",
        "info": {"title": "wsgateway", "version": version, "description": "Manages the gateways of one server."},
        "paths": paths,
        "components": {
            "schemas": schemas_of([*shapes, Problem]) | request_schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _operation(operation: Operation) -> dict[str, Any]:
    responses = {
        str(status): {"description": operation.summary, **_content(content)}
        for status, content in operation.answers.items()
    }
    for status in sorted({*ALWAYS, *operation.errors}):
        problem = {"application/problem+json": {"schema": _ref(Problem.__name__)}}
        responses[str(status)] = {"description": "a problem", "content": problem}
    in_path = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    parameters = [{"name": name, "in": "path", "required": True, "schema": TEXT} for name in in_path]
    parameters += [{"name": name, "in": "query", **PARAMETERS[name]} for name in operation.query]
    described: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary, "responses": responses}
    if parameters:
        described["parameters"] = parameters
    if operation.body:
        content = {"application/json": {"schema": _ref(operation.body)}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _content(content: type[Struct] | str | None) -> dict[str, Any]:
    if content is None:
        return {}
    if isinstance(content, str):
        return {"content": {content: {"schema": {"type": "object"} if content == "application/json" else TEXT}}}
    return {"content": {"application/json": {"schema": _ref(content.__name__)}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


_CLOSE = (
    "The connections to close: those of `user`, those whose ids are in `connections`, or `all`. Choose one. "
    "`code` is 1000 unless it is given."
)

_UNSUBSCRIBE = (
    "The subscriptions to end: those of `user`, of the `connections` with these ids, or `all`. Choose one. "
    "`code` is 2000 unless it is given; from 2500 on, clients subscribe again."
)


def request_schemas() -> dict[str, Any]:
    """Return the schemas of the bodies of requests, by name."""
    settings = {name: setting_schema(name) for name in SPECS if name != "id"}
    close = {
        "user": {"type": "string", "minLength": 1},
        "connections": TEXTS,
        "all": {"type": "boolean"},
        "code": {"type": "integer", "minimum": 1000, "maximum": 4999},
        "reason": {"type": "string", "maxLength": 123},
    }
    unsubscribe = {
        "user": {"type": "string", "minLength": 1},
        "connections": TEXTS,
        "all": {"type": "boolean"},
        "code": {"type": "integer", "minimum": 2000, "maximum": 2999},
        "reason": TEXT,
    }
    return {
        "NewGateway": _object({"id": TEXT, **settings}, required=["id"], is_closed=True),
        "Changes": _object(settings, is_closed=True),
        "Close": {**_object(close), "description": _CLOSE},
        "Message": MESSAGE,
        "Unsubscribe": {**_object(unsubscribe), "description": _UNSUBSCRIBE},
    }


def _object(
    properties: Mapping[str, object], *, required: list[str] | None = None, is_closed: bool = False
) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return {**schema, "additionalProperties": False} if is_closed else schema


def setting_schema(name: str) -> dict[str, Any]:
    """Return the JSON schema of the setting `name`."""
    spec = SPECS[name]
    schema: dict[str, Any] = {"description": spec.metadata["help"]}
    if spec.type is bool:
        schema["type"] = ["boolean", "null"]
    elif spec.type in (int, float):
        schema["type"] = ["integer" if spec.type is int else "number", "null"]
        if spec.metadata["least"] is not None:
            schema["minimum"] = spec.metadata["least"]
        if spec.metadata["most"] is not None:
            schema["maximum"] = spec.metadata["most"]
    elif spec.type in (SlowPolicy, Startup):
        schema["enum"] = [*spec.type, None]
    elif spec.type == tuple[str, ...]:
        schema |= {"type": ["array", "null"], "items": TEXT}
        if spec.metadata["choices"]:
            schema["items"] = {"enum": list(spec.metadata["choices"])}
    elif kind_of(spec) is Kind.CHANNELS:
        schema["type"] = ["object", "null"]
    else:
        schema["type"] = ["string", "null"]
    return schema
