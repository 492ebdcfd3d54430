"""Which of many processes this one is, as the launcher that started it says in the environment. Starts nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.errors import ConfigError

CHILD = "HOLDFAST_CHILD"
"""The environment variable of a process that a launcher of ours has started."""

_PORT = 29500


@dataclass(frozen=True)
class World:
    """The processes of a job, and this one among them.

    Args:
        rank: This process among all.
        size: How many there are.
        local_rank: This process among those of its host.
        local_size: How many its host has.
        node: This host among all.
        address: Where rank 0 answers.
        port: On which port.
        source: Who started the processes.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    node: int = 0
    address: str = "127.0.0.1"
    port: int = _PORT
    source: str = "holdfast"

    @property
    def nodes(self) -> int:
        """How many hosts there are."""
        return self.size // self.local_size

    def environment(self) -> dict[str, str]:
        """The variables by which torch.distributed knows all this."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "GROUP_RANK": str(self.node),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def world_of(environ: Mapping[str, str]) -> World | None:
    """What the environment says, or None where nobody has started several processes.

    Understood are torchrun's variables (which whoever starts processes by hand may set too), those of Slurm's
    ``srun``, and those of Open MPI, MPICH and Intel MPI.

    Raises:
        ConfigError: It says something that cannot be.
    """
    for read in (_torchrun, _slurm, _mpi):
        world = read(environ)
        if world is not None:
            if not (0 <= world.rank < world.size and 0 <= world.local_rank < world.local_size):
                raise ConfigError(f"{world.source} says that this is rank {world.rank} of {world.size}.")
            return world
    return None


def _torchrun(environ: Mapping[str, str]) -> World | None:
    if not {"RANK", "WORLD_SIZE"} <= set(environ):
        return None
    rank, size = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    local_size = _number(environ, "LOCAL_WORLD_SIZE", size)
    return World(
        rank,
        size,
        _number(environ, "LOCAL_RANK", rank % local_size),
        local_size,
        _number(environ, "GROUP_RANK", rank // local_size),
        environ.get("MASTER_ADDR", "127.0.0.1"),
        _number(environ, "MASTER_PORT", _PORT),
        "torchrun" if "TORCHELASTIC_RUN_ID" in environ else "the environment",
    )


def _slurm(environ: Mapping[str, str]) -> World | None:
    # Within ``salloc`` or ``sbatch``, but without ``srun``, there is one process, whatever the number of tasks.
    if not {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_ID"} <= set(environ):
        return None
    rank, size = _number(environ, "SLURM_PROCID"), _number(environ, "SLURM_NTASKS")
    nodes = _number(environ, "SLURM_NNODES", 1)
    if size < 2 or environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    if size % nodes:
        raise ConfigError(
            f"Slurm has started {size} tasks on {nodes} nodes; ranks are spread evenly, or not at all.",
            remedy="Ask for --ntasks-per-node, the same on every node.",
        )
    job = _number(environ, "SLURM_JOB_ID", 0)
    return World(
        rank,
        size,
        _number(environ, "SLURM_LOCALID"),
        size // nodes,
        _number(environ, "SLURM_NODEID", 0),
        environ.get("MASTER_ADDR", first_host(environ.get("SLURM_STEP_NODELIST", "127.0.0.1"))),
        # Two jobs of one host must not meet: their numbers differ.
        _number(environ, "MASTER_PORT", 15000 + job % 4000),
        "Slurm",
    )


def _mpi(environ: Mapping[str, str]) -> World | None:
    for name, (rank, size, local_rank, local_size) in {
        "Open MPI": (
            "OMPI_COMM_WORLD_RANK",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_LOCAL_RANK",
            "OMPI_COMM_WORLD_LOCAL_SIZE",
        ),
        "MPI": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    }.items():
        if rank in environ and _number(environ, size) > 1:
            at, of = _number(environ, rank), _number(environ, size)
            here = _number(environ, local_size, of)
            if here != of and "MASTER_ADDR" not in environ:
                raise ConfigError(
                    f"{name} has started processes on several hosts, and does not say where rank 0 is.",
                    remedy="Set MASTER_ADDR to its host, and MASTER_PORT to a free port of it.",
                )
            return World(
                at,
                of,
                _number(environ, local_rank, at),
                here,
                at // here,
                environ.get("MASTER_ADDR", "127.0.0.1"),
                _number(environ, "MASTER_PORT", _PORT),
                name,
            )
    return None


def first_host(nodes: str) -> str:
    """The first host of a list as Slurm writes it: ``gpu[07-09,12],login`` begins with ``gpu07``."""
    match = re.match(r"([^\[,]*)(?:\[(\d+)[^\]]*\])?([^,\[]*)", nodes.strip())
    assert match is not None, "every part may be empty"
    return "".join(part or "" for part in match.groups())


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise ConfigError(f"the environment variable {name} is {text!r}, which is no number.") from None
