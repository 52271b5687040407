"""The OpenAPI 3.1 description of the REST interface, made from its table of operations and the declaration of
settings."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, get_type_hints

from wsgateway.config.settings import SPECS, Settings
from wsgateway.config.values import SlowPolicy, Startup


class DescribedOperation(Protocol):
    """What is described of an operation."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def answers(self) -> Mapping[int, str]: ...
    @property
    def errors(self) -> tuple[int, ...]: ...
    @property
    def body(self) -> str: ...
    @property
    def query(self) -> tuple[str, ...]: ...


def _object(required: Iterable[str] = (), **properties: object) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object", "properties": properties}
    return {**found, "required": list(required)} if required else found


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


TEXT = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0}
MAYBE_TEXT = {"type": ["string", "null"]}
TEXTS = {"type": "array", "items": TEXT}

_GATEWAY = {
    "id": TEXT,
    "state": {"enum": ["starting", "running", "stopping", "stopped", "failed"]},
    "failure": MAYBE_TEXT,
    "url": MAYBE_TEXT,
    "port": COUNT,
    "startup": {"enum": list(Startup)},
    "editable": {"type": "boolean"},
    "connections": COUNT,
    "messages_in": COUNT,
    "messages_out": COUNT,
    "dropped": COUNT,
}
_CONNECTION = {
    "id": TEXT,
    "address": TEXT,
    "path": TEXT,
    "transport": TEXT,
    "user": MAYBE_TEXT,
    "age": {"type": "number", "minimum": 0},
    "queue": _object(("messages", "bytes"), messages=COUNT, bytes=COUNT),
    "messages_in": COUNT,
    "messages_out": COUNT,
    "dropped": COUNT,
}

_SECONDS = {"type": "number", "minimum": 0}
_NODE = {
    "id": TEXT,
    "state": {"enum": ["starting", "running", "stopping", "stopped", "failed", "lost", "left"]},
    "host": TEXT,
    "pid": COUNT,
    "version": TEXT,
    "age": _SECONDS,
    "silent": _SECONDS,
    "connections": COUNT,
    "messages_in": COUNT,
    "messages_out": COUNT,
    "dropped": COUNT,
    "slow": COUNT,
    "hook_errors": COUNT,
}


def setting_schema(name: str) -> dict[str, Any]:
    """The JSON schema of the setting `name`."""
    spec = SPECS[name]
    kind = get_type_hints(Settings)[name]
    schema: dict[str, Any] = {"description": spec.metadata["help"]}
    if kind is bool:
        schema["type"] = ["boolean", "null"]
    elif kind in (int, float):
        schema["type"] = ["integer" if kind is int else "number", "null"]
        if spec.metadata["least"] is not None:
            schema["minimum"] = spec.metadata["least"]
        if spec.metadata["most"] is not None:
            schema["maximum"] = spec.metadata["most"]
    elif kind in (SlowPolicy, Startup):
        schema["enum"] = [*kind, None]
    elif kind == tuple[str, ...]:
        schema |= {"type": ["array", "null"], "items": TEXT}
    else:
        schema["type"] = ["string", "null"]
    return schema


def _settings() -> dict[str, Any]:
    return {name: setting_schema(name) for name in SPECS if name != "id"}


def schemas() -> dict[str, Any]:
    """Every schema, by name."""
    return {
        "Gateway": _object(_GATEWAY, **_GATEWAY, settings={"type": "object"}),
        "GatewayList": _object(["gateways"], gateways={"type": "array", "items": _ref("Gateway")}),
        "Drained": _object(["closed", "gateways"], closed=COUNT, gateways={"type": "array", "items": _ref("Gateway")}),
        "NewGateway": {**_object(["id"], id=TEXT, **_settings()), "additionalProperties": False},
        "Changes": {**_object((), **_settings()), "additionalProperties": False},
        "Connection": _object(
            _CONNECTION,
            **_CONNECTION,
            headers={"type": "object", "additionalProperties": TEXT},
            query=TEXTS,
            subprotocols=TEXTS,
        ),
        "NodeList": _object(["nodes"], nodes={"type": "array", "items": _ref("Node")}),
        "Node": _object(_NODE, **_NODE),
        "ConnectionList": _object(
            ["total", "offset", "limit", "connections"],
            total=COUNT,
            offset=COUNT,
            limit=COUNT,
            connections={"type": "array", "items": _ref("Connection")},
        ),
        "Close": _object(
            (),
            connections=TEXTS,
            all={"type": "boolean"},
            code={"type": "integer", "minimum": 1000, "maximum": 4999},
            reason={"type": "string", "maxLength": 123},
        ),
        "Closed": _object(["closed", "complete"], closed=COUNT, complete={"type": "boolean"}),
        "Message": _object(["message"], message={}, connections=TEXTS),
        "Sent": _object(
            ["id", "recipients", "queued", "dropped"],
            id=TEXT,
            recipients=COUNT,
            queued=COUNT,
            dropped=COUNT,
            nodes=COUNT,
            complete={"type": "boolean"},
        ),
        "Log": _object(["lines"], lines=TEXTS),
        "Description": {"type": "object"},
        "Problem": _object(
            ["title", "status", "detail"], title=TEXT, status={"type": "integer"}, detail=TEXT, help=TEXT
        ),
    }


_PARAMETERS: dict[str, dict[str, Any]] = {
    "wait": {
        "description": "seconds to wait until it is done; past them, and without it, the answer is 202",
        "schema": {"type": "number", "minimum": 0, "maximum": 60},
    },
    "offset": {"description": "how many to leave out", "schema": {"type": "integer", "minimum": 0, "maximum": 2**31}},
    "limit": {"description": "how many at most", "schema": {"type": "integer", "minimum": 1, "maximum": 1000}},
    "search": {"description": "a part of id, address, path or user", "schema": TEXT},
    "lines": {"description": "how many at most", "schema": {"type": "integer", "minimum": 1, "maximum": 1000}},
    "gateway": {"description": "only of the gateway with this id", "schema": TEXT},
    "level": {"description": "this level and above", "schema": {"enum": ["DEBUG", "INFO", "WARNING", "ERROR"]}},
}

ALWAYS = (400, 401, 403)
"""Errors of every operation: a host that is not allowed, no token or a wrong one, a caller that may not."""


def description(operations: Iterable[DescribedOperation], *, version: str) -> dict[str, Any]:
    """The OpenAPI document of `operations`."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "wsgateway", "version": version, "description": "Steers the gateways of one server."},
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _operation(operation: DescribedOperation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, schema in operation.answers.items():
        responses[str(status)] = {"description": operation.summary}
        if "/" in schema:
            responses[str(status)]["content"] = {schema: {"schema": TEXT}}
        elif schema:
            responses[str(status)]["content"] = {"application/json": {"schema": _ref(schema)}}
    for status in sorted({*ALWAYS, *operation.errors}):
        content = {"application/problem+json": {"schema": _ref("Problem")}}
        responses[str(status)] = {"description": "a problem", "content": content}
    inside = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    parameters = [{"name": name, "in": "path", "required": True, "schema": TEXT} for name in inside]
    parameters += [{"name": name, "in": "query", **_PARAMETERS[name]} for name in operation.query]
    found: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary, "responses": responses}
    if parameters:
        found["parameters"] = parameters
    if operation.body:
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _ref(operation.body)}},
        }
    return found
