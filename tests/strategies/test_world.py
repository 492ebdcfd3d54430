"""Which process this is, as launchers say it in the environment."""

import pytest

from holdfast import ConfigError
from holdfast.strategies.world import World, first_host, world_of

TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1",
    "MASTER_ADDR": "first", "MASTER_PORT": "1234", "TORCHELASTIC_RUN_ID": "job",
}  # fmt: skip
SLURM = {
    "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_NNODES": "2",
    "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "4007", "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_JOB_NAME": "train",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environ", "world"),
    [
        ({}, None),
        (TORCHRUN, World(5, 8, 1, 4, 1, "first", 1234, "torchrun")),
        ({"RANK": "1", "WORLD_SIZE": "2"}, World(1, 2, 1, 2, 0, "127.0.0.1", 29500, "the environment")),
        (SLURM, World(3, 4, 1, 2, 1, "gpu07", 15007, "Slurm")),
        ({**SLURM, "SLURM_STEP_ID": ""} | {"SLURM_JOB_NAME": "bash"}, None),
        ({k: v for k, v in SLURM.items() if k != "SLURM_STEP_ID"}, None),
        ({**SLURM, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        (OPEN_MPI, World(1, 2, 1, 2, 0, "127.0.0.1", 29500, "Open MPI")),
        (
            {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2", "MASTER_ADDR": "one"},
            World(2, 4, 0, 2, 1, "one", 29500, "MPI"),
        ),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, None),
    ],
)
def test_each_launcher_is_understood(environ, world):
    """Rank, size, host and where rank 0 answers; None where there is one process."""
    assert world_of(environ) == world


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"RANK": "two", "WORLD_SIZE": "4"}, "RANK is 'two'"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "rank 4 of 4"),
        ({**SLURM, "SLURM_NTASKS": "3", "SLURM_PROCID": "0"}, "3 tasks on 2 nodes"),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "4"}, "does not say where rank 0 is"),
    ],
)
def test_what_cannot_be_is_an_error_and_not_a_guess(environ, says):
    """Numbers that are none, ranks that are too large, tasks that cannot be shared out, hosts without an address."""
    with pytest.raises(ConfigError, match=says):
        world_of(environ)


def test_the_environment_of_a_world_is_read_back_as_that_world():
    """What a launcher of ours sets, its children understand."""
    world = World(3, 4, 1, 2, 1, "host", 4321, "the environment")
    assert world_of(world.environment()) == world
    assert world.nodes == 2


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[07-09,12],login", "gpu07"),
        ("node1,node2", "node1"),
        ("one", "one"),
        ("a-[3]b,c", "a-3b"),
    ],
)
def test_the_first_host_of_a_slurm_list(nodes, first):
    """Ranges, zeros in front and suffixes."""
    assert first_host(nodes) == first
