"""Start Python children in milliseconds: a server imports torch once, runs nothing with it, and forks on request.

An import of torch costs seconds, and crash tests need hundreds of processes. Linux and macOS only.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

_MESSAGE = 1 << 16  # bytes that a request or an answer may take
_HERE = Path(__file__).resolve().parent


class Child:
    """A running child, with pipes to its standard input and output; its errors go where the server's go.

    Args:
        server: Who forked it, and so is its parent.
        pid: Its process id. It stays its own until ``wait`` returns.
        stdin: Lines to it.
        stdout: Lines from it.
    """

    def __init__(self, server: ForkServer, pid: int, stdin: int, stdout: int) -> None:
        self._server = server
        self.pid = pid
        self.stdin = open(stdin, "w", buffering=1)  # noqa: SIM115 (closed by wait)
        self.stdout = open(stdout)  # noqa: SIM115 (closed by wait)
        self._code: int | None = None

    def kill(self) -> int:
        """End it as a loss of power ends a process, and return its exit code."""
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        """Its exit code, once it has ended; the negative signal number where a signal ended it.

        Its input is closed, so that a child which waits for a line ends. What it said last can still be read.
        """
        if self._code is None:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()
            answer = self._server.ask({"wait": self.pid})
            self._code = os.waitstatus_to_exitcode(answer["status"])
        return self._code

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.stdout.close()


class ForkServer:
    """A process that has imported modules and forks children out of that state.

    Args:
        imports: The modules to import first. None of them may start threads or run anything.
        beside: A folder of more modules that children find by their names.
    """

    def __init__(self, *imports: str, beside: Path | None = None) -> None:
        self._line, theirs = socket.socketpair()
        paths = [str(_HERE), str(beside or ""), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno()), *imports],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            },
        )
        theirs.close()

    def start(self, target: str, *arguments: object) -> Child:
        """Fork a child that calls ``target``, written ``module:function``, with plain ``arguments``."""
        their_input, stdin = os.pipe()
        stdout, their_output = os.pipe()
        answer = self.ask({"target": target, "arguments": arguments}, their_input, their_output)
        os.close(their_input)
        os.close(their_output)
        return Child(self, answer["pid"], stdin, stdout)

    def ask(self, request: dict[str, object], *fds: int) -> dict[str, int]:
        """Send a request and wait for its answer."""
        socket.send_fds(self._line, [json.dumps(request).encode()], fds)
        answer = self._line.recv(_MESSAGE)
        assert answer, "the fork server has died"
        return json.loads(answer)

    def close(self) -> None:
        """End the server."""
        self._line.close()
        self._process.wait()


@contextlib.contextmanager
def serving(*imports: str, beside: Path | None = None) -> Iterator[ForkServer]:
    """A fork server for the time of the block."""
    server = ForkServer(*imports, beside=beside)
    try:
        yield server
    finally:
        server.close()


def _serve(line: socket.socket) -> None:
    while True:
        data, fds, _, _ = socket.recv_fds(line, _MESSAGE, 2)
        if not data:  # whoever asks has gone
            return
        request = json.loads(data)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = {"status": status}
        else:
            pid = os.fork()
            if pid == 0:
                line.close()
                _become(request, *fds)
            for fd in fds:
                os.close(fd)
            answer = {"pid": pid}
        line.sendall(json.dumps(answer).encode())


def _become(request: dict, stdin: int, stdout: int) -> None:
    """In the child: call the target with standard input and output in place, and end. Never returns."""
    code = 1
    try:
        for fd, standard in ((stdin, 0), (stdout, 1)):
            os.dup2(fd, standard)
            os.close(fd)
        module, _, function = request["target"].partition(":")
        getattr(importlib.import_module(module), function)(*request["arguments"])
        sys.stdout.flush()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    for name in sys.argv[2:]:
        importlib.import_module(name)
    _serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)  # at once: to take torch apart takes a second
