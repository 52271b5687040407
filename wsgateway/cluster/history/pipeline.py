"""Commands to a Redis server through one connection, many of them with each write. Does not know what they do."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import Context
from typing import Any, NamedTuple, TypeVar

from redis.exceptions import NoScriptError, RedisError, ResponseError

from wsgateway.cluster.history.faults import LATE, Fault, fault_of
from wsgateway.cluster.history.scripts import Script, command
from wsgateway.config.grace import BROKER_GRACE
from wsgateway.exceptions import HistoryError
from wsgateway.limits import Backlog
from wsgateway.logs import GatewayLog

R = TypeVar("R")

TIMEOUT = 2.0
"""Seconds to connect, and for the answers to one write."""

MAX_WAITING = 10_000
MAX_WAITING_BYTES = 32 * 1024 * 1024
"""Limits of the commands that wait for a slow or unavailable server. Above them, a command fails immediately."""

MAX_COMMANDS = 500
MAX_COMMAND_BYTES = 1024 * 1024
"""Limits of one write. A single command may be larger."""

RETRY = 0.1
"""Seconds between two attempts to connect, while there are commands."""

MAX_IDLE = 1.0
"""Seconds without traffic after which the connection is tested before it is used, because the server or a firewall may
have dropped it."""

ANSWERS_PER_TIMEOUT = 50
"""Answers after which the time limit starts again, because a few of them may be large."""

CLOSED = "the history is closed, because the gateway does not run"

PING = command(b"PING")


class _Waiting(NamedTuple):
    """A command whose answer, once converted, is the result of `future`. `weight` limits the commands of one write."""

    future: "asyncio.Future[Any]"
    command: bytes
    convert: Callable[[Any], Any]
    script: Script | None
    weight: int
    is_repeated: bool = False


class Pipeline:
    """Sends commands in the order of the calls, all that have been added during one iteration of the event loop with
    one write.

    While their answers are awaited, further commands wait for the next write. It connects when there are commands, and
    has a task only while there are. If the connection is lost, the commands that were sent fail, and the others are
    sent through a new one. If it cannot connect, all fail.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Any]],
        *,
        test: bytes,
        check: Callable[[Any], None],
        max_weight: int,
        may_repeat: bool,
        name: str,
        log: GatewayLog,
    ) -> None:
        """`connect` returns a connection of redis-py, or raises. `test` is sent through each new one, and `check` gets
        its answer and may raise `HistoryError`. If commands `may_repeat`, those without an answer are sent again when
        the connection was lost. `name` is the server's, for errors and for the log.
        """
        self._connect = connect
        self._test = test
        self._check = check
        self._max_weight = max_weight
        self._may_repeat = may_repeat
        self._name = name
        self._log = log
        self._queue: deque[_Waiting] = deque()
        self._backlog = Backlog(MAX_WAITING, MAX_WAITING_BYTES)
        self._connection: Any = None
        self._task: asyncio.Task[None] | None = None
        self._used = 0.0
        self._retry_at = 0.0
        self._is_closed = False
        self._is_failing = False

    def start(self) -> None:
        """Begin to connect."""
        if self._task is None and not self._is_closed:
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())

    def put(
        self, command: bytes, convert: Callable[[Any], R], *, script: Script | None = None, weight: int
    ) -> "asyncio.Future[R]":
        """Add a command. `script` is the one that it runs, `weight` its share of a write or of the answers to it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        backlog, size = self._backlog, len(command)
        if self._is_closed:
            _fail(future, HistoryError(CLOSED))
        elif not backlog.fits(size):
            text = f"too many commands wait for the history in {self._name}, check whether the server is overloaded"
            _fail(future, HistoryError(text))
        else:
            self._queue.append(_Waiting(future, command, convert, script, weight))
            backlog.add(size)
            if self._task is None:
                self._task = loop.create_task(self._run(), context=Context())
        return future

    async def aclose(self) -> None:
        """Wait at most `BROKER_GRACE` seconds for answers, and close the connection. Commands that wait fail."""
        self._is_closed = True
        task = self._task
        if task is not None:
            await asyncio.wait({task}, timeout=BROKER_GRACE if self._connection is not None else 0)
            task.cancel()
            await asyncio.wait({task})
        await self._disconnect()

    # Its task

    async def _run(self) -> None:
        sent: list[_Waiting] = []
        try:
            while True:
                if not await self._connect_again():
                    return
                sent = self._take()
                if not sent:
                    return
                await self._exchange(sent)
                sent.clear()
        finally:  # nothing is left unless this task is cancelled
            self._task = None
            for waiting in sent:
                _fail(waiting.future, HistoryError(f"{CLOSED}; {LATE}", is_late=True))
            if self._is_closed:
                self._fail_all(CLOSED)
            elif self._queue:
                self.start()

    def _take(self) -> list[_Waiting]:
        """Return the commands of the next write."""
        queue, backlog = self._queue, self._backlog
        batch: list[_Waiting] = []
        weight = 0
        while queue and len(batch) < MAX_COMMANDS:
            weight += queue[0].weight
            if batch and weight > self._max_weight:
                break
            waiting = queue.popleft()
            backlog.remove(len(waiting.command))
            batch.append(waiting)
        return batch

    async def _exchange(self, batch: list[_Waiting]) -> None:
        """Send commands, and pass on the answers. Never raises, except if the task is cancelled."""
        unloaded = await self._pass_answers(batch, b"".join([waiting.command for waiting in batch]))
        if unloaded:
            for waiting in await self._pass_answers(unloaded, b"".join(_with_scripts(unloaded))):
                text = f"the server {self._name} forgets its scripts again and again, is SCRIPT FLUSH called there?"
                _fail(waiting.future, HistoryError(text))

    async def _pass_answers(self, batch: list[_Waiting], data: bytes) -> list[_Waiting]:
        """Send `data`, the commands of `batch`. Return those whose script the server does not have."""
        connection = self._connection
        assert connection is not None
        loop = asyncio.get_running_loop()
        unloaded: list[_Waiting] = []
        fault: Fault | None = None
        answered = 0
        try:
            async with asyncio.timeout(TIMEOUT) as deadline:
                await connection.send_packed_command(data, check_health=False)
                for future, _, convert, _, _, _ in batch:
                    try:
                        answer = await connection.read_response(disable_decoding=True)
                    except NoScriptError:
                        unloaded.append(batch[answered])
                    except ResponseError as exc:
                        fault = self._refuse(future, exc) or fault
                    else:
                        if not future.done():
                            future.set_result(convert(answer))
                    answered += 1
                    if not answered % ANSWERS_PER_TIMEOUT:
                        deadline.reschedule(loop.time() + TIMEOUT)
        except TimeoutError:
            fault = Fault(f"no answer within {TIMEOUT:g} s", is_late=True, is_slow=True)
        except Exception as exc:  # whatever a driver raises, because a history must not end a process
            fault = fault_of(exc)._replace(is_late=True)
        self._used = loop.time()
        if fault is not None:
            await self._lose(fault, batch[answered:] + unloaded)
            return []
        return unloaded

    def _refuse(self, future: "asyncio.Future[Any]", exc: ResponseError) -> Fault | None:
        """Fail one command that the server has refused. Return the fault if the connection cannot be used any more."""
        fault = fault_of(exc)
        text = f"the history in {self._name}: {fault.text}"
        _fail(future, HistoryError(text))
        return fault if fault.is_over else None

    async def _lose(self, fault: Fault, lost: list[_Waiting]) -> None:
        """Drop the connection, and fail the commands that have no answer, unless they may be sent again."""
        text = f"the connection to the history in {self._name} was lost: {fault.text}"
        self._log.limited("history lost").warning("%s", text)
        if self._may_repeat and not fault.is_slow:
            for waiting in reversed(lost):
                if not waiting.is_repeated:
                    self._queue.appendleft(waiting._replace(is_repeated=True))
                    self._backlog.add(len(waiting.command))
            lost = [waiting for waiting in lost if waiting.is_repeated]
        is_late = fault.is_late and not self._may_repeat
        for waiting in lost:
            _fail(waiting.future, HistoryError(f"{text}; {LATE}" if is_late else text, is_late=is_late))
        await self._disconnect()

    # The connection

    async def _connect_again(self) -> bool:
        """Connect if necessary. Return False if that has failed. Then all commands that wait have failed, too."""
        loop = asyncio.get_running_loop()
        if self._connection is not None:
            if loop.time() - self._used < MAX_IDLE or await self._answers():
                return True
            await self._disconnect()
        if self._retry_at > loop.time():
            await asyncio.sleep(self._retry_at - loop.time())
        connection: Any = None
        try:
            async with asyncio.timeout(TIMEOUT):
                connection = await self._connect()
                await connection.send_packed_command(self._test, check_health=False)
                self._check(await connection.read_response(disable_decoding=True))
        except TimeoutError:
            fault = Fault(f"no answer within {TIMEOUT:g} s")
        except HistoryError as exc:
            fault = Fault(str(exc))
        except Exception as exc:  # as above
            fault = fault_of(exc)
        else:
            self._connection, self._used = connection, loop.time()
            if self._is_failing:
                self._is_failing = False
                self._log.info("the history in %s is available again", self._name)
            return True
        finally:
            if self._connection is None and connection is not None:
                self._connection = connection
                await self._disconnect()
        self._retry_at = loop.time() + RETRY
        self._report(fault)
        self._fail_all(f"the history in {self._name} is unavailable: {fault.text}")
        return False

    def _report(self, fault: Fault) -> None:
        if not self._is_failing:
            self._is_failing = True
            self._log.warning("the history in %s is unavailable: %s", self._name, fault.text)

    def _fail_all(self, text: str) -> None:
        """Fail every command that waits."""
        while self._queue:
            _fail(self._queue.popleft().future, HistoryError(text))
        self._backlog.clear()

    async def _answers(self) -> bool:
        """Return whether the connection, which was idle, is still alive."""
        connection = self._connection
        assert connection is not None
        try:
            async with asyncio.timeout(TIMEOUT):
                await connection.send_packed_command(PING, check_health=False)
                await connection.read_response(disable_decoding=True)
        except ResponseError:
            return True  # the user may not use PING, but there is an answer
        except (RedisError, OSError):
            return False
        return True

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # it is closed already
                await connection.disconnect(nowait=True)


def _with_scripts(batch: list[_Waiting]) -> Iterator[bytes]:
    """Yield the commands of `batch`. The first that runs a script also loads it."""
    loaded: set[Script] = set()
    for waiting in batch:
        script = waiting.script
        if script is None or script in loaded:
            yield waiting.command
        else:
            loaded.add(script)
            yield script.in_full(waiting.command)


def _fail(future: "asyncio.Future[Any]", error: HistoryError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # so that nothing is logged if nobody waits for it
