"""Start the processes of a job, and end them all when one fails. Knows nothing of what they compute."""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from holdfast.errors import ConfigError, RankError
from holdfast.state.signals import ended, exit_code
from holdfast.strategies.world import CHILD, World, world_of

T = TypeVar("T")

GRACE = 30.0
"""Seconds that the other ranks have, once one has failed, to leave a rescue and end by themselves."""


_STOPPED = (exit_code(signal.SIGTERM), exit_code(signal.SIGINT))


class Launcher(Protocol):
    """Brings about that every rank runs the same function."""

    def launch(self, run: Callable[[World], T], *, carry: Callable[[], Any], take: Callable[[Any], None]) -> T:
        """Call ``run`` on every rank; the result of rank 0's, or of this process where it is a rank itself.

        Args:
            run: What every rank does.
            carry: Called on rank 0 afterwards, where that is another process than this one: what must come home.
            take: Called here with that.
        """
        ...


class Started:
    """The processes are there already: torchrun, Slurm or MPI has started them."""

    def __init__(self, world: World) -> None:
        self.world = world

    def launch(self, run: Callable[[World], T], *, carry: Callable[[], Any], take: Callable[[Any], None]) -> T:
        """Run."""
        return run(self.world)


class Script:
    """This process is the first of its host; the others run the same script from its beginning.

    Args:
        local_size: Processes on this host.
        nodes: Hosts; on each the script is started once, with ``NODE_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT`` set.
    """

    def __init__(self, local_size: int, nodes: int = 1) -> None:
        self._local_size, self._nodes = local_size, nodes
        self._children: list[subprocess.Popen[bytes]] = []

    def launch(self, run: Callable[[World], T], *, carry: Callable[[], Any], take: Callable[[Any], None]) -> T:
        """Start the others, once a program, and run.

        Raises:
            ConfigError: There is no script that could be run again.
        """
        world = world_of(os.environ) or self._first()
        if not self._children and CHILD not in os.environ:
            self._start(world)
        try:
            return run(world)
        except Exception as error:
            raise self._blamed(error) from error

    def _first(self) -> World:
        node = int(os.environ.get("NODE_RANK", "0"))
        if self._nodes > 1 and not {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= set(os.environ):
            raise ConfigError(
                f"num_nodes={self._nodes}: every host must be told which it is and where the first one answers.",
                remedy="Set NODE_RANK, MASTER_ADDR and MASTER_PORT on each, or start the script with torchrun.",
            )
        return World(
            node * self._local_size,
            self._local_size * self._nodes,
            0,
            self._local_size,
            node,
            os.environ.get("MASTER_ADDR", "127.0.0.1"),
            int(os.environ.get("MASTER_PORT", 0)) or free_port(),
        )

    def _start(self, world: World) -> None:
        command = own_command() if world.local_size > 1 else []
        os.environ.update(world.environment())
        for local_rank in range(1, world.local_size):
            rank = world.node * world.local_size + local_rank
            child = World(
                rank, world.size, local_rank, world.local_size, world.node, world.address, world.port
            ).environment()
            environment = {**os.environ, **child, CHILD: "1"}
            self._children.append(subprocess.Popen(command, env=environment))  # noqa: S603  # the user's own command
        atexit.register(self._end, GRACE)
        threading.Thread(target=self._watch, name="holdfast-launch", daemon=True).start()

    def _watch(self) -> None:
        """When a child has failed, no rank must wait for it longer than the grace."""
        while True:
            codes = [child.poll() for child in self._children]
            if any(codes):
                break
            if all(code == 0 for code in codes):
                return
            time.sleep(0.2)
        time.sleep(GRACE)
        local_rank = 1 + next(i for i, code in enumerate(codes) if code)
        message = f"rank {local_rank} of this host ended with {describe(codes[local_rank - 1])}; ending the others."
        print(f"holdfast: {message}", file=sys.stderr, flush=True)
        self._end(0.0)
        os._exit(1)

    def _blamed(self, error: Exception) -> Exception:
        """The error, or that of a child which had ended before: what the others see then is its consequence."""
        for _ in range(10):
            codes = [child.poll() for child in self._children]
            if any(codes):
                rank = 1 + next(i for i, code in enumerate(codes) if code)
                what = f"ended with {describe(codes[rank - 1])} before the others; its own error stands above. "
                return RankError(f"{what}Here it shows as {type(error).__name__}.", rank=rank, phase="run")
            if not isinstance(error, RuntimeError) or not self._children:
                break
            time.sleep(0.1)
        return error

    def _end(self, patience: float) -> None:
        """Wait for the children, and end those that do not come to an end."""
        end = time.monotonic() + patience
        for child in self._children:
            try:
                child.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.terminate()
        for child in self._children:
            try:
                child.wait(5.0)
            except subprocess.TimeoutExpired:
                child.kill()


class Forked:
    """Every rank is a child of this process, which waits for them.

    Args:
        local_size: Processes.
        method: How they are made: ``"spawn"`` gives each a fresh interpreter, to which all must be picklable;
            ``"fork"`` gives each a copy of this one, before which no GPU may have been touched.
    """

    def __init__(self, local_size: int, method: Literal["spawn", "fork"]) -> None:
        self._local_size, self._method = local_size, method

    def launch(self, run: Callable[[World], T], *, carry: Callable[[], Any], take: Callable[[Any], None]) -> T:
        """Start all ranks, wait for them, and take home what rank 0 brings.

        Raises:
            ConfigError: What the ranks need cannot be pickled, or a GPU was touched before a fork.
        """
        import torch
        from torch.multiprocessing.spawn import ProcessExitedException, start_processes

        if self._method == "fork" and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's stubs lack it
            raise ConfigError(
                "a process that has touched a GPU cannot be forked.",
                remedy="Touch none before fit(), or use strategy='ddp' in a script.",
            )
        with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
            home = Path(folder) / "home"
            arguments = (self._local_size, free_port(), self._packed(run, carry), home)
            context = start_processes(  # type: ignore[no-untyped-call]  # torch's stubs lack it
                _rank, arguments, self._local_size, join=False, start_method=self._method
            )
            try:
                while not context.join(grace_period=GRACE):
                    pass
            except ProcessExitedException as error:
                if error.exit_code in _STOPPED:  # all ranks have answered a signal
                    raise ended(error.exit_code) from None
                raise
            result, brought = torch.load(home, weights_only=False)  # our own child wrote it, a moment ago
        take(brought)
        return result  # type: ignore[no-any-return]

    def _packed(self, run: Callable[[World], Any], carry: Callable[[], Any]) -> Any:
        """What each rank does. Sent as bytes: torch's own way to send tensors would let all ranks share the memory."""
        if self._method == "fork":
            return run, carry
        try:
            return pickle.dumps((run, carry))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"strategy='ddp_spawn' sends the trainer and the module to its ranks, and cannot: {error}",
                remedy="Define classes at the top of a module, without lambdas; or use strategy='ddp'.",
            ) from error


def _rank(local_rank: int, size: int, port: int, packed: Any, home: Path) -> None:
    """One child of ``Forked``."""
    import torch

    world = World(local_rank, size, local_rank, size, port=port)
    os.environ.update({**world.environment(), CHILD: "1"})
    run, carry = pickle.loads(packed) if isinstance(packed, bytes) else packed  # noqa: S301  # our parent's, just now
    result = run(world)
    if local_rank == 0:
        torch.save((result, carry()), home)


def own_command(main: Any = None, argv: Sequence[str] | None = None, flags: Sequence[str] | None = None) -> list[str]:
    """The command that runs this program again.

    Raises:
        ConfigError: It is no script: a notebook, ``python -c``, an interactive session.
    """
    main = sys.modules["__main__"] if main is None else main
    argv = sys.argv if argv is None else argv
    flags = subprocess._args_from_interpreter_flags() if flags is None else flags  # type: ignore[attr-defined]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        name = spec.name.removesuffix(".__main__") if spec.name.endswith(".__main__") else spec.name
        return [sys.executable, *flags, "-m", name, *argv[1:]]
    if not argv or not Path(argv[0]).is_file():
        raise ConfigError(
            "strategy='ddp' runs the script again for each process, and there is no script here.",
            remedy="In a notebook or an interactive session use strategy='ddp_notebook'.",
        )
    return [sys.executable, *flags, str(Path(argv[0]).absolute()), *argv[1:]]


def describe(code: int | None) -> str:
    """An exit code in words."""
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"


def free_port() -> int:
    """A port of this host that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
