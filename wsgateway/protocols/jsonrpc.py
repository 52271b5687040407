"""JSON-RPC 2.0 in the text messages of plain clients (https://www.jsonrpc.org/specification). Knows no connections.

A message is a request or an answer only if it has exactly the form of one. Notifications and batches are neither.
"""

from base64 import b64encode
from dataclasses import dataclass
from typing import Any, assert_never

from wsgateway.exceptions import MessageError, Refused
from wsgateway.limits import SlowPolicy
from wsgateway.messages import Kind, Message, decode_json
from wsgateway.protocols.v1 import is_whole, text_of

METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32601, -32602, -32603

SERVER_ERROR = -32000
"""The code of any other refusal is this minus its HTTP status."""

_REQUEST = {"jsonrpc", "method", "params", "id"}
_RESULT = {"jsonrpc", "result", "id"}
_ERROR = {"jsonrpc", "error", "id"}

RequestId = str | int | float


@dataclass(frozen=True, slots=True)
class RpcRequest:
    """A request of the client. `params` is `""` if it has none."""

    method: str
    params: Any
    ident: RequestId


@dataclass(frozen=True, slots=True)
class RpcResult:
    """The answer of the client to a request of the server."""

    ident: int
    result: Any


@dataclass(frozen=True, slots=True)
class RpcError:
    """The refusal of a request of the server."""

    ident: int
    code: int
    reason: str


class RpcText(Message):
    """A request or an answer as plain clients receive it. `slow_policy` never drops it, because the client waits."""

    __slots__ = ()

    policy = SlowPolicy.DISCONNECT

    def __init__(self, text: str) -> None:
        super().__init__(text.encode(), Kind.TEXT)


def read(message: str | bytes) -> RpcRequest | RpcResult | RpcError | None:
    """Return the request or the answer in `message`, or None for any other message."""
    if isinstance(message, bytes) or '"jsonrpc"' not in message:
        return None
    try:
        value = decode_json(message.encode())
    except MessageError:
        return None
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        return None
    keys = value.keys()
    if keys == _RESULT and is_whole(value["id"]):
        return RpcResult(value["id"], value["result"])
    if keys == _ERROR and is_whole(value["id"]):
        return _error_of(value["id"], value["error"])
    return _request_of(value) if keys <= _REQUEST else None


def _error_of(ident: int, error: object) -> RpcError | None:
    if not isinstance(error, dict) or not is_whole(error.get("code")) or not isinstance(error.get("message"), str):
        return None
    return RpcError(ident, error["code"], error["message"])


def _request_of(value: dict[str, Any]) -> RpcRequest | None:
    method, params, ident = value.get("method"), value.get("params", ""), value.get("id")
    if not isinstance(method, str) or ("params" in value and not isinstance(params, (dict, list))):
        return None
    if isinstance(ident, bool) or not isinstance(ident, (str, int, float)):
        return None
    return RpcRequest(method, params, ident)


# What the server sends


def request_text(ident: int, method: str, message: Message) -> RpcText:
    """Return a request of the server. The value of `message` is the only parameter unless it is an array or object."""
    params = _json_of(message)
    if params[0] not in "[{":
        params = f"[{params}]"
    return RpcText(f'{{"jsonrpc":"2.0","method":{text_of(method)},"params":{params},"id":{ident}}}')


def result_text(ident: RequestId, reply: Message | None) -> RpcText:
    """Return the answer to a request of the client."""
    result = "null" if reply is None else _json_of(reply)
    return RpcText(f'{{"jsonrpc":"2.0","result":{result},"id":{text_of(ident)}}}')


def error_text(ident: RequestId, error: BaseException, refused: Refused) -> RpcText:
    """Return the refusal of a request of the client. `refused` is what clients are shown of `error`."""
    content = text_of({"code": _code_of(error), "message": refused.refusal.detail})
    return RpcText(f'{{"jsonrpc":"2.0","error":{content},"id":{text_of(ident)}}}')


def _code_of(error: BaseException) -> int:
    if not isinstance(error, Refused):
        return INTERNAL_ERROR
    match error.status:
        case 404:
            return METHOD_NOT_FOUND
        case 400 | 422:
            return INVALID_PARAMS
        case status:
            return SERVER_ERROR - status


def _json_of(message: Message) -> str:
    """Return the JSON text of a message: bytes as base64."""
    match message.kind:
        case Kind.JSON:
            return message.payload.decode()
        case Kind.TEXT:
            return text_of(message.payload.decode())
        case Kind.BYTES:
            return text_of(b64encode(message.payload).decode())
        case _:
            assert_never(message.kind)
