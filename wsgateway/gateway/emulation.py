"""Frames that clients post to their streams, in whichever process the request arrives. Knows no HTTP."""

import asyncio
from collections.abc import Callable

from wsgateway.cluster.asking import Answering
from wsgateway.cluster.sending import FeedFrame
from wsgateway.cluster.single import AnyCluster
from wsgateway.config.settings import Settings
from wsgateway.exceptions import NodeError, Refusal, Refused
from wsgateway.gateway.registry import GatewayState
from wsgateway.transports.posted import PostedStreams

MAX_FORWARDED = 500
"""Frames from other nodes that wait in this one, because a node answers a bounded number of questions concurrently."""

BUSY = Refusal(429, "session", "too many commands wait for the listener, try again later")

NO_NODE = Refusal(404, "session", "the node of this session is unknown or has stopped; open a new stream")


class Emulation:
    """Passes each frame to its stream. `answering` answers the questions of other nodes.

    `streams` returns those of this process, None while the gateway does not run.
    """

    def __init__(
        self,
        streams: Callable[[], PostedStreams | None],
        *,
        state: Callable[[], GatewayState],
        cluster: Callable[[], AnyCluster],
        settings: Settings,
    ) -> None:
        self._streams = streams
        self._state = state
        self._cluster = cluster
        self._id = settings.id
        self._patience = settings.handshake_timeout
        self._broker_timeout = settings.broker_timeout
        self._forwarded = 0
        self.answering: Answering = {FeedFrame: self._answer}

    async def post(self, node: str, secret: str, frame: str | bytes, size: int) -> None:
        """Pass a frame of `size` bytes to a stream of `node`, in the order of the calls. Raise `Refused`.

        Return once it was accepted, which is before its commands have run. If the node is known and the stream is not,
        do nothing, because the stream has ended. While the gateway stops, accept every frame, because clients close
        their streams after an error.
        """
        streams = self._streams()
        try:
            if streams is None:
                detail = f"gateway [{self._id}] is {self._state()}"
                raise Refused.of(Refusal(503, "not_running", detail, "not-running"))
            if node != streams.node:
                await self._forward(node, secret, frame)
            elif not await self._put(streams, secret, frame, size):
                raise Refused.of(BUSY)
        except Refused:
            if self._state() is not GatewayState.STOPPING:
                raise

    async def _put(self, streams: PostedStreams, secret: str, frame: str | bytes, size: int) -> bool:
        """Return whether the frame was accepted within `handshake_timeout` seconds."""
        stream = streams.by_secret.get(secret)
        if stream is None:
            return True
        accepted = stream.put(frame, size)
        if accepted.done():
            return accepted.result()
        try:
            async with asyncio.timeout(self._patience):
                return await accepted
        except TimeoutError:
            return False

    async def _forward(self, node: str, secret: str, frame: str | bytes) -> None:
        """Have another node pass the frame on. Raise `Refused`."""
        cluster = self._cluster()
        known = cluster.nodes.get(node)
        if known is None:
            raise Refused.of(NO_NODE)
        is_binary = isinstance(frame, bytes)
        question = FeedFrame(secret, frame if isinstance(frame, bytes) else frame.encode(), is_binary)
        patience = 0.0 if known.is_absent else self._patience
        try:
            is_accepted = await cluster.ask_within(patience + self._broker_timeout, node, question)
        except NodeError as exc:
            detail = "the process of this session cannot be reached, or has not answered in time; open a new stream"
            raise Refused.of(Refusal(503, "session", detail)) from exc
        if not is_accepted:
            raise Refused.of(BUSY)

    async def _answer(self, question: FeedFrame) -> bool:
        streams = self._streams()
        if streams is None:
            return True
        if self._forwarded >= MAX_FORWARDED:
            return False
        frame = question.frame if question.is_binary else question.frame.decode()
        self._forwarded += 1
        try:
            return await self._put(streams, question.secret, frame, len(question.frame))
        finally:
            self._forwarded -= 1
