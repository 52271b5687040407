"""A fake language model. Every viewer sees its words as they are written.

A viewer that joins late first receives the text so far.
"""

import asyncio
import logging
import os
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from wsgateway import Event, Gateway, Refused, RequestEvent, SubscribeEvent

HERE = Path(__file__).parent
DELAY = float(os.environ.get("DELAY", "0.08"))
"""Seconds between two tokens."""
MAX_PROMPT = 2000
MAX_ANSWERS = 20


async def model(prompt: str) -> AsyncGenerator[str]:
    """Yield the tokens of an answer. An application calls its language model here, and yields what it streams."""
    text = (
        "I am not a language model, but I write like one: a few letters at a time, for every viewer. Reload this page "
        "while I am writing, or open it on a phone. Each page shows what I have written so far, and then the rest. "
        f"And this was your prompt: {prompt}"
    )
    for token in re.findall(r"\s*\S{1,7}", text):
        await asyncio.sleep(DELAY)
        yield token


class Answers:
    """Clients send the requests "ask" and "cancel". They see the answers in the channel "answers".

    The state is a list of answers, and each change of it has the next version, so a page can skip a change that the
    state has contained already.
    """

    def __init__(self) -> None:
        self.version = 0
        self.answers: list[dict[str, str]] = []  # the newest ones
        self.task: asyncio.Task[None] | None = None
        self.is_canceled = False

    async def on_subscribe(self, event: SubscribeEvent) -> None:
        await event.load(self.state)  # sends the state, and then each change since

    async def on_request(self, event: RequestEvent) -> None:
        is_busy = self.task is not None and not self.task.done()
        match event.name, event.message:
            case "ask", str(prompt) if 1 <= len(prompt) <= MAX_PROMPT:
                if is_busy:
                    raise Refused(409, "another answer is being written")
                self.is_canceled = False
                self.task = asyncio.create_task(self.answer(prompt))
            case "cancel", _:
                self.is_canceled = True
            case _:
                raise Refused(
                    422, f'the requests are "ask", with a prompt of at most {MAX_PROMPT} characters, and "cancel"'
                )

    async def on_stop(self, _: Event) -> None:
        if self.task is not None:
            self.task.cancel()

    async def state(self) -> dict[str, Any]:
        return {"version": self.version, "answers": [dict(answer) for answer in self.answers]}

    async def answer(self, prompt: str) -> None:
        await self.change(prompt=prompt)
        end = "complete"
        try:
            async with aclosing(model(prompt)) as tokens:
                async for token in tokens:
                    if self.is_canceled:
                        end = "canceled"
                        break
                    await self.change(token=token)
        except Exception:  # of whatever type the model raises
            logging.getLogger("uvicorn.error").exception("the model has failed")
            end = "failed"
        await self.change(end=end)

    async def change(self, **change: str) -> None:
        """Change the state, and publish the change. Between both, nothing else runs that could read the state."""
        match change:
            case {"prompt": prompt}:
                self.answers = [*self.answers, {"prompt": prompt, "text": "", "end": ""}][-MAX_ANSWERS:]
            case {"token": token}:
                self.answers[-1]["text"] += token
            case {"end": end}:
                self.answers[-1]["end"] = end
        self.version += 1
        await gateway.publish({"version": self.version, **change}, channel="answers")


gateway = Gateway(listener=Answers, id="tokens", channels={"answers": {"history": 500}})
app = Starlette(
    routes=[
        Route("/", lambda _: FileResponse(HERE / "index.html")),
        Mount("/shared", StaticFiles(directory=HERE.parent / "shared")),
        Mount("/live", gateway),
    ],
    lifespan=gateway.lifespan,
)
