"""``holdfast run``: Python's own way of running a program, but for what ``import lightning`` finds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HOLDFAST = Path(sys.executable).with_name("holdfast")

PROBE = """
import os, sys
def tell():
    print(__name__, __file__, __package__, sys.argv, sys.path[0], sys.flags.optimize, os.getcwd())
tell()
"""
WHOSE = (
    "import lightning, pytorch_lightning\nprint(getattr(lightning, 'whose', 'holdfast'), pytorch_lightning.__name__)\n"
)


def python(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The words after ``python``."""
    return ended([sys.executable, *map(str, words)], cwd, environment)


def run(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The words after ``holdfast run``."""
    return ended([str(HOLDFAST), "run", *map(str, words)], cwd, environment)


def ended(words: list[str], cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    return subprocess.run(
        words, capture_output=True, text=True, cwd=cwd, env={**kept, **environment}, stdin=subprocess.DEVNULL
    )


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with scripts and a package."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "__init__.py").touch()
    files = {
        "probe.py": PROBE,
        "jobs/inside.py": PROBE,
        "leaves.py": "import sys; print('so far'); sys.exit(int(sys.argv[1]))",
        "says.py": "raise SystemExit('the data is gone')",
        "raises.py": "def deep():\n    return 1 / 0\n\n\ndeep()\n",
        "broken.py": "def f(:\n",
        "killed.py": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "whose.py": WHOSE,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ("probe.py", "a", "--flag", "-m", "--", "--help"),
        ("jobs/inside.py",),
        ("-m", "jobs.inside", "-v"),
        ("-O", "probe.py"),
        ("-c", "import sys; print(sys.argv, repr(sys.path[0]))", "x"),
        ("leaves.py", "0"),
        ("leaves.py", "7"),
        ("says.py",),
        ("raises.py",),
        ("broken.py",),
        ("killed.py",),
        ("missing.py",),
        ("-m", "jobs.missing"),
        ("-W", "error", "-c", "import warnings; warnings.warn('x')"),
        ("-V",),
    ],
    ids=" ".join,
)
def test_a_program_runs_as_python_runs_it(work, words):
    """Name, arguments, path, output, traceback, exit code and death by a signal are the same."""
    theirs, ours = python(*words, cwd=work), run(*words, cwd=work)
    assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)
    if words == ("killed.py",):
        assert ours.returncode == -signal.SIGTERM


def test_imports_of_lightning_find_holdfast(work):
    """In a script, a module and a command."""
    for words in (["whose.py"], ["-m", "whose"], ["-c", WHOSE]):
        done = run(*words, cwd=work)
        assert (done.returncode, done.stdout) == (0, "holdfast lightning.pytorch\n"), done.stderr


CHILDREN = """
import multiprocessing, subprocess, sys
import lightning

def ask(answers):
    import pytorch_lightning
    answers.put(repr(pytorch_lightning))

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1]) if sys.argv[1] != "subprocess" else None
    if context is None:
        program = "import pytorch_lightning; print(pytorch_lightning)"
        print(subprocess.check_output([sys.executable, "-c", program], text=True), end="")
    else:
        answers = context.Queue()
        child = context.Process(target=ask, args=(answers,))
        child.start()
        print(answers.get())
        child.join()
"""


@pytest.mark.parametrize("way", ["spawn", "forkserver", "fork", "subprocess"])
def test_processes_that_the_program_starts_find_it_too(work, way):
    """Loader workers, ranks and scripts started from scripts are no exception."""
    (work / "children.py").write_text(CHILDREN)
    done = run("children.py", way, cwd=work)
    assert (done.returncode, done.stdout) == (0, "<module 'pytorch_lightning' (holdfast.compat)>\n"), done.stderr


@pytest.fixture
def beside(work: Path) -> Path:
    """A folder on the path with a Lightning of its own."""
    site = work / "site"
    for package in ("lightning", "pytorch_lightning"):
        (site / package).mkdir(parents=True)
        (site / package / "__init__.py").write_text(f"whose = 'theirs'\n__name__ = 'their {package}'\n")
    return site


def test_a_lightning_installed_beside_it_is_neither_used_nor_touched(work, beside):
    """With ``holdfast run`` imports find Holdfast, without it Lightning as ever; not a byte there changes."""
    before = {path: path.read_bytes() for path in beside.rglob("*") if path.is_file()}

    with_it = run("whose.py", cwd=work, PYTHONPATH=str(beside), PYTHONDONTWRITEBYTECODE="1")
    without = python("whose.py", cwd=work, PYTHONPATH=str(beside), PYTHONDONTWRITEBYTECODE="1")

    assert with_it.stdout == "holdfast lightning.pytorch\n"
    assert without.stdout == "theirs their pytorch_lightning\n"
    assert {path: path.read_bytes() for path in beside.rglob("*") if path.is_file()} == before


def test_install_from_code_comes_before_a_lightning_beside_it(work, beside):
    """And after uninstall the next import finds that one again."""
    (work / "by_hand.py").write_text(f"""
from holdfast import compat
compat.install()
{WHOSE}
compat.uninstall()
{WHOSE}
""")
    done = python("by_hand.py", cwd=work, PYTHONPATH=str(beside))
    assert done.stdout == "holdfast lightning.pytorch\ntheirs their pytorch_lightning\n", done.stderr


def test_a_module_of_ones_own_beside_the_script_comes_first(work):
    """As it would before an installed Lightning."""
    (work / "lightning.py").write_text("whose = 'mine'")
    (work / "mine.py").write_text("import lightning; print(lightning.whose)")
    assert run("mine.py", cwd=work).stdout == "mine\n"


def test_the_users_own_path_is_kept(work):
    """Ours comes before it."""
    program = "import sys; print(sys.path[1:3])"
    done = run("-c", program, cwd=work, PYTHONPATH="/somewhere/of/mine")
    assert done.stdout.endswith("compat/shims', '/somewhere/of/mine']\n")


@pytest.mark.parametrize("words", [("-E", "whose.py"), ("-uI", "whose.py"), ("-W", "error", "-E", "whose.py")])
def test_what_would_hide_holdfast_from_python_is_refused(work, words):
    """Rather than to run on an installed Lightning in silence."""
    done = run(*words, cwd=work)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(
        "Python ignores its environment, by which Holdfast is found. "
        "Leave it out, or call holdfast.compat.install() at the top of the program.\n"
    )


def test_options_of_the_program_are_not_pythons(work):
    """What comes after the script, the module or the command is the program's, whatever it looks like."""
    for words in (["probe.py", "-E"], ["-m", "probe", "-I"], ["-c", PROBE.replace("__file__", "''"), "-E"]):
        assert run(*words, cwd=work).returncode == 0


def test_without_a_program_it_says_how_it_is_used(work):
    """And with a question for help too."""
    assert run(cwd=work).returncode == 2
    assert "SCRIPT|-m MODULE" in run("--help", cwd=work).stdout
    assert run("-h", cwd=work).stdout == run("--help", cwd=work).stdout


TESTS_OF_A_USER = """
import lightning.pytorch as pl
import pytest
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel, ManualOptimBoringModel
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden


class Model(BoringModel):
    def validation_step(self, batch, batch_idx):
        self.log("x", self.step(batch))


@pytest.mark.parametrize("cls", [Model, ManualOptimBoringModel])
def test_my_training(tmp_path, cls):
    seed_everything(1)
    checkpoint = ModelCheckpoint(dirpath=tmp_path, monitor="x" if cls is Model else None)
    trainer = Trainer(
        max_epochs=1, limit_train_batches=2, limit_val_batches=2, callbacks=[checkpoint], logger=False,
        enable_progress_bar=False, accelerator="cpu",
    )
    trainer.fit(cls(), datamodule=BoringDataModule())
    assert trainer.global_step == 2
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["epoch=0-step=2.ckpt"]


def test_my_hooks():
    assert is_overridden("validation_step", Model())
    assert not is_overridden("on_fit_end", Model())
    assert isinstance(Model(), pl.LightningModule)


def test_my_mistakes():
    with pytest.raises(MisconfigurationException):
        ModelCheckpoint(save_top_k=3)


def test_that_fails():
    assert pl.__name__ == "something else"
"""


def test_a_users_own_tests_run_under_pytest(work):
    """``holdfast run -m pytest``: three pass, and the one that fails fails by its own assertion."""
    (work / "test_mine.py").write_text(TESTS_OF_A_USER)
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py", cwd=work, OMP_NUM_THREADS="1")
    assert "1 failed, 4 passed" in done.stdout, done.stdout + done.stderr
    assert "AssertionError: assert 'lightning.pytorch' == 'something else'" in done.stdout
    assert done.returncode == 1
