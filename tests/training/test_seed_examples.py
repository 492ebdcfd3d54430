"""The examples of the pages on checkpoints run with only their imports changed, and their files are there.

Those of "Customize checkpointing behavior" (Lightning 2.x), of "ModelCheckpoint" (``api_``) and of "Saving and loading
weights" (``saving_``, both 1.5). A line that the page leaves out is marked as supplied. Those of several processes
(``ddp_``) run with the tests of strategies.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from small_fits import names

EXAMPLES = Path(__file__).parent / "seed_examples"

FILES = {
    "best_two": ["my/path/epoch=1-step=10.ckpt", "my/path/epoch=2-step=15.ckpt"],
    "logged_metric": ["lightning_logs/version_0/checkpoints/epoch=0-step=5.ckpt"],
    "top_k": [
        "my/path/sample-mnist-epoch=00-val_loss=0.50.ckpt",
        "my/path/sample-mnist-epoch=01-val_loss=0.40.ckpt",
        "my/path/sample-mnist-epoch=02-val_loss=0.32.ckpt",
    ],
    "last_k": [
        "my/path/sample-mnist-epoch=00-global_step=4.ckpt",
        "my/path/sample-mnist-epoch=01-global_step=9.ckpt",
        "my/path/sample-mnist-epoch=02-global_step=14.ckpt",
    ],
    "validation_loss": ["lightning_logs/version_0/checkpoints/epoch=2-step=15.ckpt"],
    "names": ["my/path/sample-mnist-epoch=02-val_loss=0.32.ckpt"],
    "by_hand": ["example.ckpt", "lightning_logs/version_0/checkpoints/epoch=2-step=15.ckpt"],
    "api_every_epoch": ["my/path/epoch=2-step=15.ckpt"],
    "api_other_metric": ["my/path/epoch=2-val_loss=0.32-other_metric=0.03.ckpt"],
    "api_monitored": ["my/path/sample-mnist-epoch=02-val_loss=0.32.ckpt"],
    "api_own_format": ["my/path/sample-mnist-epoch02-val_loss0.32.ckpt"],
    "api_best": ["my/path/epoch=2-step=15.ckpt"],
    "api_last_name": ["my/path/epoch=2-last.ckpt"],
    "api_several": [
        "batches/epoch=1-step=6.ckpt",
        "batches/epoch=2-step=12.ckpt",
        "epochs/epoch=1-step=10.ckpt",
    ],
    "api_template": [],
    "saving_root": ["your/path/to/save/checkpoints/lightning_logs/version_0/checkpoints/epoch=2-step=15.ckpt"],
    "saving_top_three": [
        "my/path/sample-mnist-epoch=00-val_loss=0.50.ckpt",
        "my/path/sample-mnist-epoch=01-val_loss=0.40.ckpt",
        "my/path/sample-mnist-epoch=02-val_loss=0.32.ckpt",
    ],
    "saving_disabled": [],
    "saving_hyperparameters": ["lightning_logs/version_0/checkpoints/epoch=2-step=15.ckpt"],
    "saving_namespace": ["example.ckpt", "lightning_logs/version_0/checkpoints/epoch=2-step=15.ckpt"],
    "saving_other_arguments": ["example.ckpt", "lightning_logs/version_0/checkpoints/epoch=2-step=15.ckpt"],
    "saving_ways_to_load": ["path/to/checkpoint.ckpt"],
    "saving_restored": ["some/path/to/my_checkpoint.ckpt"],
}


def test_every_example_is_here():
    """No script without its files."""
    alone = {path.stem for path in EXAMPLES.glob("*.py") if not path.stem.startswith("ddp_")}
    assert alone - {"small"} == set(FILES)


@pytest.fixture(scope="module")
def ran(server, tmp_path_factory):
    """The folder in which each example has run, in one of its own."""
    folder = tmp_path_factory.mktemp("examples")
    with server.start("scripts_child:run_each", str(EXAMPLES), str(folder), *FILES) as child:
        assert child.wait() == 0
    return folder


PRINTED = {
    "best_two": "{folder}/my/path/epoch=2-step=15.ckpt\n",
    "saving_hyperparameters": "0.02\n",
}


@pytest.mark.parametrize("example", FILES)
def test_the_example_runs_and_its_files_are_there(example, ran):
    """It prints what the page says, and no traceback; the files have the names that the page gives."""
    printed = (ran / f"{example}.out").read_text()
    assert printed == PRINTED.get(example, "").format(folder=(ran / example).resolve())
    assert names(ran / example) == FILES[example]
