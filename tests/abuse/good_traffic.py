"""What does good traffic feel meanwhile? Requests on a kept connection and on new ones, timed."""

from __future__ import annotations

import socket
import threading
import time
from types import TracebackType
from typing import Self

from tests.abuse.sockets import connect
from tests.e2e.harness import CHAT
from tests.support.wire import request

# What an attack may cost others at worst. Our machines are shared, and a test process in Python
# attacks and asks at once; without it requests take 1 ms. What an attack without a defence costs
# is seconds, or everything.
EXTRA_S = 1.0

_PAUSE_S = 0.005
_AT_LEAST = 5  # requests before and after
_ON_NEW_CONNECTIONS = 5  # each so many-th


class GoodTraffic:
    """Asks all the time while its `with` block runs; leaving it fails if somebody had to wait."""

    def __init__(
        self, port: int, *, guarded: bool = False, new: bool = True, extra_s: float = EXTRA_S
    ) -> None:
        """`guarded` asks for inferences; without `new` only one connection is used."""
        self._port = port
        self._request = request("POST", CHAT if guarded else "/free", b"hello")
        self._new = new
        self._extra_s = extra_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.took_s: list[float] = []
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._ask_more()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._ask_more()
        self._stop.set()
        self._thread.join()
        if error is not None:
            return
        if self.error is not None:
            raise AssertionError("good traffic was disturbed") from self.error
        assert max(self.took_s) < self._extra_s, f"somebody waited {max(self.took_s):.2f} s"

    def _ask_more(self) -> None:
        """Let a few more requests be answered, or one go wrong."""
        enough = len(self.took_s) + _AT_LEAST
        while len(self.took_s) < enough and self._thread.is_alive():
            time.sleep(_PAUSE_S)

    def _run(self) -> None:
        try:
            with connect(self._port) as kept:
                number = 0
                while not self._stop.is_set():
                    self._ask(kept)
                    number += 1
                    if self._new and number % _ON_NEW_CONNECTIONS == 0:
                        with connect(self._port) as fresh:
                            self._ask(fresh)
                    time.sleep(_PAUSE_S)
        except BaseException as error:  # noqa: BLE001 - told in the test's thread
            self.error = error

    def _ask(self, sock: socket.socket) -> None:
        began_s = time.monotonic()
        sock.sendall(self._request)
        answer = b""
        while not answer.endswith(b"\r\n\r\nok"):
            piece = sock.recv(65536)
            answer += piece
            assert piece, answer
            assert answer.startswith(b"HTTP/1.1 200 "[: len(answer)]), answer
        self.took_s.append(time.monotonic() - began_s)
