"""What is served under Lightning's names: each is Holdfast's own object; what is not there says what to use."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import subprocess
import sys
from types import ModuleType

import pytest

import holdfast
from holdfast import compat
from holdfast.compat.absent import ABSENT
from holdfast.compat.table import ALIASES, MODULES, OLD
from holdfast.errors import ConfigError

ROWS = [
    (module, theirs, home, ours or theirs)
    for module, homes in MODULES.items()
    for home, names in homes.items()
    for theirs, _, ours in (name.partition("=") for name in names)
]


def run(statement: str) -> dict[str, object]:
    """What a statement binds."""
    names: dict[str, object] = {}
    exec(statement, names)
    return names


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(("module", "theirs", "home", "ours"), ROWS, ids=[f"{r[0]}.{r[1]}" for r in ROWS])
def test_each_name_is_the_very_object_of_its_home(module, theirs, home, ours):
    """So isinstance works across the two names, and nothing exists twice."""
    found = run(f"from {module} import {theirs} as found")["found"]
    assert found is getattr(importlib.import_module(home), ours)


@pytest.mark.usefixtures("served")
def test_every_spelling_of_a_module_is_one_module():
    """What is set on one is seen on all."""
    import lightning.pytorch.callbacks
    import pytorch_lightning.callbacks
    from lightning import pytorch

    assert pytorch_lightning.callbacks is lightning.pytorch.callbacks is pytorch.callbacks
    assert sys.modules["pytorch_lightning"] is sys.modules["lightning.pytorch"]


@pytest.mark.usefixtures("served")
def test_modules_below_are_there_without_an_import_of_their_own():
    """``import lightning as L`` is enough for ``L.pytorch.callbacks.ModelCheckpoint``."""
    import lightning as L

    assert L.pytorch.callbacks.ModelCheckpoint is holdfast.callbacks.ModelCheckpoint
    assert L.pytorch.utilities.rank_zero.rank_zero_only.rank == 0
    assert {"Trainer", "pytorch", "fabric"} <= set(dir(L))


@pytest.mark.usefixtures("served")
def test_a_star_import_brings_the_names_of_the_module():
    """And none that begins with an underscore."""
    bound = run("from lightning.pytorch import *")
    assert bound["Trainer"] is holdfast.Trainer
    assert "__version__" not in bound


@pytest.mark.usefixtures("served")
def test_pickles_name_holdfast():
    """They can be read where nothing is served."""
    from lightning.pytorch import Trainer
    from pytorch_lightning.demos.boring_classes import BoringModel

    assert b"holdfast" in pickle.dumps(Trainer)
    assert b"lightning.pytorch" not in pickle.dumps([Trainer, BoringModel])


@pytest.mark.usefixtures("served")
def test_misconfiguration_is_what_holdfast_raises():
    """``except MisconfigurationException`` catches it."""
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    with pytest.raises(MisconfigurationException, match="max_epochs"):
        holdfast.Trainer(max_epochs=-7, logger=False)


SAID = [
    ("from lightning.pytorch.cli import LightningCLI", "cli (lightning.pytorch.cli). There is no LightningCLI: read"),
    ("from lightning import Fabric", "Fabric (lightning.Fabric). holdfast.Checkpointer saves and"),
    ("from pytorch_lightning.tuner import Tuner", "tuner (lightning.pytorch.tuner). Try the values in fits"),
    ("from lightning.pytorch.callbacks import LearningRateFinder", "LearningRateFinder (lightning.pytorch.callbacks."),
    ("import lightning.pytorch.callbacks.lr_finder", "lr_finder (lightning.pytorch.callbacks.lr_finder). Try"),
    ("from lightning.pytorch.loggers import CometLogger", "CometLogger (lightning.pytorch.loggers.CometLogger). A Log"),
    ("from lightning.pytorch.utilities import no_such", "no_such (lightning.pytorch.utilities.no_such)."),
    ("import lightning.no_such_module", "no_such_module (lightning.no_such_module)."),
    ("from lightning_fabric.strategies import DDPStrategy", "strategies (lightning.fabric.strategies). holdfast.C"),
]


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(("statement", "said"), SAID, ids=[statement for statement, _ in SAID])
def test_what_holdfast_has_not_is_an_import_error_that_says_what_to_use(statement, said):
    """Whether it is a module or a name in one."""
    with pytest.raises(ModuleNotFoundError) as raised:
        run(statement)
    assert str(raised.value).startswith(f"Holdfast has no {said}")


@pytest.mark.usefixtures("served")
def test_asking_whether_a_name_is_there_is_no_error():
    """Hasattr and getattr with a default work as on any module."""
    import lightning

    assert not hasattr(lightning, "Fabric")
    assert getattr(lightning.pytorch.callbacks, "LearningRateFinder", None) is None
    with pytest.raises(AttributeError, match=r"holdfast\.Checkpointer"):
        lightning.Fabric  # noqa: B018


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("package", ["lightning.pytorch", *[a for a, real in ALIASES.items() if "fabric" not in real]])
@pytest.mark.parametrize("old", OLD)
def test_old_names_of_modules_are_the_new_modules(old, package):
    """With one warning that names the new one."""
    asked = old.replace("lightning.pytorch", package)
    with pytest.warns(DeprecationWarning, match=f"{asked} is the old name of {OLD[old]}"):
        found = importlib.import_module(asked)
    assert found is importlib.import_module(OLD[old])
    assert importlib.import_module(asked) is found


def test_the_tables_agree():
    """What is said not to be there is not served, and old names lead to modules that are."""
    assert not ABSENT.keys() & {f"{module}.{theirs}" for module, theirs, _, _ in ROWS}
    assert set(OLD.values()) <= set(MODULES)
    assert not set(OLD) & set(MODULES)
    assert {module.rpartition(".")[0] for module in MODULES} - {""} <= set(MODULES)


def test_installing_twice_is_installing_once(served):
    """And taking it back leaves no trace."""
    compat.install()
    importlib.import_module("lightning.pytorch")
    compat.uninstall()

    assert importlib.util.find_spec("lightning") is None
    assert not [name for name in sys.modules if name.startswith(("lightning.", "pytorch_lightning"))]


def test_it_is_too_late_once_lightning_itself_was_imported(monkeypatch):
    """Half of a program on each would be worse than either; nothing is changed."""
    monkeypatch.setitem(sys.modules, "pytorch_lightning", ModuleType("pytorch_lightning"))
    before = list(sys.meta_path)
    with pytest.raises(ConfigError, match="pytorch_lightning was imported before, and is Lightning's"):
        compat.install()
    assert sys.meta_path == before


def test_serving_imports_nothing_heavy():
    """A program that asks for little gets little."""
    program = (
        "import sys\n"
        "from holdfast import compat\n"
        "compat.install()\n"
        "import pytorch_lightning\n"
        "from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_info\n"
        "print(sorted({'torch', 'numpy', 'rich'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
