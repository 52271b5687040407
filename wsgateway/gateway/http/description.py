"""The OpenAPI 3.1 description of what backends call on a gateway's own port: `/send`, and the server API.

Derived from the table of methods and the shapes of their results.
"""

from collections.abc import Iterable
from typing import Any

from wsgateway.gateway.api_shapes import ApiError, BatchResult
from wsgateway.gateway.http.server_api import METHODS, Method
from wsgateway.gateway.shapes import Problem, SendAnswer, schemas_of

TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT}
FLAG = {"type": "boolean"}
NAME = {"type": "string", "minLength": 1}

_TAGS = {"type": "object", "additionalProperties": TEXT}
_POSITION = {"type": "object", "properties": {"offset": {"type": "integer", "minimum": 0}, "epoch": TEXT}}

TARGET = {
    "channel": {**NAME, "description": "the subscribers of this channel receive the message"},
    "user": {**NAME, "description": "all connections of this user receive the message"},
    "name": {**TEXT, "description": "the name of an event"},
    "key": {**TEXT, "description": "beside `channel`: a newer message replaces one with the same key"},
    "tags": {**_TAGS, "description": "beside `channel`"},
    "ttl": {"type": "number", "exclusiveMinimum": 0, "description": "beside `channel`, in seconds"},
    "idempotency_key": {
        "type": "string",
        "description": "beside `channel`: of several messages with the same key, one is published",
    },
}
"""The schemas of the fields of `/send` that choose recipients, and of those that describe a publication."""

MESSAGE = {
    "type": "object",
    "properties": {"message": {}, "connections": TEXTS, **TARGET},
    "required": ["message"],
    "additionalProperties": {"description": "`on_message` finds other fields in `event.data`; 422 without that hook"},
}
"""The schema of the body of `/send`."""

FIELDS: dict[str, dict[str, Any]] = {
    "channel": {**NAME, "description": "the name of a channel"},
    "channels": {"type": "array", "items": TEXT, "minItems": 1, "description": "names of channels"},
    "data": {"description": "any JSON value"},
    "b64data": {**TEXT, "description": "bytes in base64, instead of `data`"},
    "info": {"description": "any JSON value, which other members see"},
    "b64info": {**TEXT, "description": "JSON in base64, instead of `info`"},
    "tags": {**_TAGS, "description": "texts that belong to the publication"},
    "idempotency_key": {**TEXT, "description": "of several publications with the same key, one is published"},
    "skip_history": {**FLAG, "description": "whether the publication is left out of the history"},
    "user": {**TEXT, "description": "the `user_id` of connections; required unless `client` is given"},
    "client": {**TEXT, "description": "only the connection with this id"},
    "session": {**TEXT, "description": "only the connection of the stream with this secret"},
    "recover_since": {**_POSITION, "description": "the connections receive what was published after this position"},
    "whitelist": {**TEXTS, "description": "ids of connections that stay open"},
    "disconnect": {
        "type": "object",
        "properties": {"code": {"type": "integer"}, "reason": TEXT},
        "description": "the close code and its reason",
    },
    "expired": {**FLAG, "description": "whether the connections are closed as expired"},
    "expire_at": {
        "type": "number",
        "minimum": 0,
        "description": "when the connections expire, in seconds since the epoch; 0 means never",
    },
    "limit": {
        "type": "integer",
        "description": "maximum number of publications; 0 returns the position only, a negative number all",
    },
    "since": {**_POSITION, "description": "only publications after this position, or before it with `reverse`"},
    "reverse": {**FLAG, "description": "whether the newest publication is first"},
    "pattern": {**TEXT, "description": "the names, with the wildcards `*` and `?`"},
    "commands": {
        "type": "array",
        "items": {"type": "object", "additionalProperties": {"type": "object"}},
        "description": "objects with the name of one method, whose value is its fields",
    },
    "parallel": {**FLAG, "description": "whether the commands may run at the same time"},
}
"""The schemas of the fields of all methods, by name."""

_SEND_ERRORS = (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503)
_API_ERRORS = (400, 401, 403, 408, 409, 413, 415, 429, 503)


def description(*, version: str) -> dict[str, Any]:
    """Return the OpenAPI document."""
    paths = {
        "/send": _operation("send", "Push a message", MESSAGE, _ref(SendAnswer.__name__), _SEND_ERRORS),
        **{f"/api/{name}": _method(name, method) for name, method in METHODS.items()},
    }
    results = dict.fromkeys(method.result for method in METHODS.values())
    return {
        "openapi": "3.1.0",
        "info": {"title": "wsgateway", "version": version, "description": "What backends call on a gateway."},
        "servers": [{"url": "."}],  # relative to the document, because a proxy may have removed a prefix
        "paths": {path: {"post": operation} for path, operation in paths.items()},
        "components": {
            "schemas": schemas_of([SendAnswer, Problem, ApiError, *results]),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{"bearer": []}, {"key": []}, {}],
    }


def _method(name: str, method: Method) -> dict[str, Any]:
    body: dict[str, Any] = {"type": "object", "properties": {field: FIELDS[field] for field in method.fields}}
    if method.required:
        body["required"] = [*method.required]
    result, error = _ref(method.result.__name__), {"properties": {"error": _ref("ApiError")}, "required": ["error"]}
    is_bare = method.result is BatchResult
    success = result if is_bare else {"properties": {"result": result}, "required": ["result"]}
    answer = {"type": "object", "oneOf": [success, error]}
    return _operation(f"api_{name}", method.summary, body, answer, _API_ERRORS)


def _operation(
    name: str, summary: str, body: dict[str, Any], answer: dict[str, Any], errors: Iterable[int]
) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": _ref(Problem.__name__)}}
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {"description": summary, "content": {"application/json": {"schema": answer}}},
            **{str(status): {"description": "a problem", "content": problem} for status in errors},
        },
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
