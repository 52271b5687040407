"""The call of `on_request`, which answers a request of a client. Knows no client protocol."""

from collections.abc import Callable
from typing import cast

from wsgateway.exceptions import Refusal, Refused
from wsgateway.listeners.event import RequestEvent
from wsgateway.listeners.inbox import Call
from wsgateway.listeners.loader import Hook
from wsgateway.messages import Message, encode

NO_HOOK = Refusal(404, "request", "requests are not answered here, because the listener has no on_request")


Answered = Callable[["RequestCall"], None]


class RequestCall(Call):
    """The call of `on_request`. `reply` is the encoded answer once the hook has succeeded, None if it is null.

    `answer` is called with it at the end, also if `error` is set. `function` is None if the listener has no such hook.
    """

    __slots__ = ("answer", "reply")

    def __init__(self, function: Hook | None, event: RequestEvent, size: int, answer: Answered) -> None:
        super().__init__("on_request", function, event, size)
        self.answer = cast("Callable[[Call], None]", answer)  # it is only called with this call
        self.reply: Message | None = None

    def take_reply(self) -> None:
        """Encode the answer that the hook has set. Raise `MessageError` for a wrong one, `Refused` without a hook."""
        if self.function is None:
            raise Refused.of(NO_HOOK)
        assert isinstance(self.event, RequestEvent)
        self.reply = encode(self.event.reply)
