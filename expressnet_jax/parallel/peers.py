"""Notices within seconds that another process of the job has died, stands still, or cannot be reached any more.

Every process has a connection to the first one, over which both say every few seconds that they are there. JAX notices
a dead process too, but later: where a program waits for it inside a collective, only after 100 s without a heartbeat,
and then it aborts with pages of its own.
"""

import contextlib
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from data_pipelines.common.text import say
from expressnet_jax.parallel import ending

#: Seconds of silence after which a process counts as gone.
PATIENCE = 20.0
_CONNECT = 5.0  # seconds for each address of the first process
_HERE, _BYE, _LOST, _END = b".", b"b", b"L", b"\n"
_TOKEN = 32  # characters


@dataclass
class _Line:
    """The connection to another process."""

    socket: socket.socket
    name: str
    heard: float = field(default_factory=time.monotonic)
    leaving: bool = False  # it has said that it ends
    where: str = ""  # it is, by its own last words
    text: bytes = b""  # of a message that has begun


class Peers:
    """The connections of this process, looked after by a thread until `bye`."""

    def __init__(self, lines: Sequence[_Line], *, first: bool) -> None:
        self._lines, self._first, self._patience = list(lines), first, PATIENCE
        self.where = ""  # what this process tells the first one about itself
        self._selector = selectors.DefaultSelector()
        for line in self._lines:
            line.socket.setblocking(False)
            self._selector.register(line.socket, selectors.EVENT_READ, line)
        self._leaving = threading.Event()
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def bye(self) -> None:
        """From here on the others do without this process, and it without them."""
        self._leaving.set()
        self._tell(_BYE)

    def whereabouts(self) -> list[str]:
        """Where the others said last that they are; only the first process knows all of them."""
        return [f"{line.name}: {line.where}" for line in self._lines if line.where]

    def wait_for_word(self) -> None:
        """Gives the thread the time to find out who is gone, and to end this process. Returns if it finds nobody."""
        time.sleep(self._patience + 5)

    def _watch(self) -> None:
        pause = self._patience / 8
        told, now = 0.0, time.monotonic()
        while not self._leaving.is_set() and self._lines:
            for key, _ in self._selector.select(pause):
                self._read(key.data)  # which may take it off
            before, now = now, time.monotonic()
            if now - before > 2 * pause:  # this process stood still, as in a suspended job, whose others stood, too
                for line in self._lines:
                    line.heard = now
            if now - told >= pause:
                self._tell(_HERE + self.where.encode())
                told = now
            for line in self._lines:
                if now - line.heard > self._patience and not line.leaving:
                    self._lost(line, f"it has not been heard of for {now - line.heard:.0f} s")

    def _read(self, line: _Line) -> None:
        try:
            found = line.socket.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            found = b""
        line.heard = time.monotonic()
        line.text += found
        *messages, line.text = line.text.split(_END)
        for kind, words in ((message[:1], message[1:].decode(errors="replace")) for message in messages):
            if kind == _LOST:  # the first process has found one that is gone, and ends like this one
                say(words)
                ending.end_now(ending.AGAIN)
            line.leaving = line.leaving or kind == _BYE
            line.where = words if kind == _HERE else line.where
        if found:
            return
        if not line.leaving:
            self._lost(line, "its connection is closed")
        self._selector.unregister(line.socket)
        self._lines.remove(line)

    def _tell(self, what: bytes) -> None:
        for line in list(self._lines):
            with contextlib.suppress(OSError):  # it shows when its answer is missing
                line.socket.send(what + _END)

    def _lost(self, line: _Line, why: str) -> None:
        if self._leaving.is_set():
            return
        text = f"expressnet: {line.name} is gone: {why}; the job ends here, and started again it resumes"
        if self._first:
            self._tell(_LOST + text.encode())
        say(text)
        ending.end_now(ending.AGAIN)  # before JAX notices too, and ends this process in its own way


class Listener:
    """The first process's side, while the others connect; `invitation` is what they need to know."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("", 0))
        self._token = secrets.token_hex(_TOKEN // 2)
        named = os.environ.get("JAX_COORDINATOR_ADDRESS", "").rpartition(":")[0].strip("[]")
        host = socket.gethostname()
        found = [str(address[4][0]) for address in _addresses(host)]
        hosts = dict.fromkeys(name for name in (named, host, *found) if name)
        self.invitation = f"{self._token} {self._socket.getsockname()[1]} {' '.join(hosts)}"

    def accept(self, names: Sequence[str], seconds: float = 60.0) -> Peers:
        """Waits for all others; people know process i by `names[i]`. Raises OSError where one is not there in time."""
        lines: dict[int, _Line] = {}
        until = time.monotonic() + seconds
        with self._socket:
            while len(lines) < len(names) - 1:
                self._socket.settimeout(max(until - time.monotonic(), 0.01))
                connection, _ = self._socket.accept()
                connection.settimeout(_CONNECT)
                with contextlib.suppress(OSError, ValueError):  # a stranger, such as a scan of ports
                    token, number = connection.recv(_TOKEN + 16).decode().split()
                    if secrets.compare_digest(token, self._token) and 0 < int(number) < len(names):
                        lines[int(number)] = _Line(connection, names[int(number)])
        return Peers(list(lines.values()), first=True)


def connect(invitation: str, number: int, name: str) -> Peers:
    """Process `number`'s side; `name` is that of the first one. Raises OSError where it cannot be reached."""
    token, port, *hosts = invitation.split()
    failure: OSError = OSError("no address")
    for host in hosts:
        try:
            connection = socket.create_connection((host, int(port)), _CONNECT)
        except OSError as error:
            failure = error
            continue
        connection.sendall(f"{token} {number:>6}".encode())
        return Peers([_Line(connection, name)], first=False)
    raise failure


def _addresses(host: str) -> list[tuple[object, object, object, object, tuple[object, ...]]]:
    try:
        return list(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except OSError:
        return []
