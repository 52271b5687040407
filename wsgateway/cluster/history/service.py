"""The thread in which the history server of `ipc://` runs, beside the proxy that forwards messages."""

import threading
import time
from pathlib import Path

import zmq

from wsgateway.cluster.envelopes import MAX_ENVELOPE
from wsgateway.cluster.history.server import HistoryServer
from wsgateway.cluster.history.store import new_epoch

SOCKET = "history"
"""The name of its socket, in the folder of the proxy."""

HIGH_WATER = 16
"""Requests, and answers, that wait for each client. It sends no more than that before it gets an answer."""

EXPIRE_INTERVAL = 10.0
"""Seconds between two calls of `HistoryServer.expire`."""


class HistoryService:
    """Answers the requests of all processes, one after the other.

    A publication is passed to the proxy before its request is answered, and both are done by one thread. So all
    processes receive the publications of a channel in the order of their offsets.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], folder: Path, publications: str) -> None:
        """Publish through the proxy's socket at `publications`, which must be bound. Raise `zmq.ZMQError`."""
        self._server = HistoryServer(now=time.monotonic, new_epoch=new_epoch)
        self._out = context.socket(zmq.PUSH)
        self._out.connect(publications)
        self._requests = context.socket(zmq.ROUTER)
        for socket in (self._out, self._requests):
            socket.set(zmq.LINGER, 0)
        self._requests.set(zmq.MAXMSGSIZE, MAX_ENVELOPE)
        self._requests.set(zmq.SNDHWM, HIGH_WATER)
        self._requests.set(zmq.RCVHWM, HIGH_WATER)
        self._requests.bind(f"ipc://{folder / SOCKET}")
        self._thread = threading.Thread(target=self._run, name="wsgateway history", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait for the end of the thread, after the context was terminated."""
        self._thread.join()

    def _run(self) -> None:
        expire_at = 0.0
        try:
            while True:
                if self._requests.poll(int(EXPIRE_INTERVAL * 1000)):
                    self._answer()
                if time.monotonic() >= expire_at:
                    self._server.expire()
                    expire_at = time.monotonic() + EXPIRE_INTERVAL
        except zmq.ContextTerminated:
            pass
        finally:
            self._requests.close(linger=0)
            self._out.close(linger=0)

    def _answer(self) -> None:
        client, *request = self._requests.recv_multipart()
        answer, parcels = self._server.answer(request)
        for parcel in parcels:
            self._out.send_multipart(parcel)
        self._requests.send_multipart([client, *answer])  # is dropped if the client has ended, or reads nothing
