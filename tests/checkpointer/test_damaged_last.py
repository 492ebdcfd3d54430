"""``"last"`` is the newest state or an error: a file that is cut short is not passed over in silence."""

import pytest
import torch

from fitting import loader, net
from holdfast import Checkpointer, Trainer, every
from holdfast import last as newest
from holdfast.callbacks import ModelCheckpoint
from holdfast.errors import Corrupt


def test_a_plain_loop_hears_that_the_last_one_is_cut_short(tmp_path, caplog):
    """``resume("last")`` names it and what there is; ``resume()`` goes back and says so."""
    model = torch.nn.Linear(2, 2)
    with Checkpointer(tmp_path, when=every(steps=1), which=newest(3)) as saver:
        saver.resume(model=model)
        for _ in range(3):
            saver.step()
    (tmp_path / "epoch=0-step=3.ckpt").chmod(0o644)
    with (tmp_path / "epoch=0-step=3.ckpt").open("r+b") as file:
        file.truncate(300)

    with Checkpointer(tmp_path, when=every(steps=1)) as saver:
        with pytest.raises(Corrupt, match=r"step=3.ckpt' is corrupt.*newest, of step 3.*step=2.ckpt.*resume\(\)"):
            saver.resume("last", model=model)
        assert saver.resume(model=model).steps == 2
    assert "1 step is lost" in caplog.text


def test_a_fit_hears_it_too(tmp_path):
    """``ckpt_path="last"`` is refused, whichever name the file has; ``"auto"`` goes on from the one before."""

    def trainer():
        saver = ModelCheckpoint(tmp_path, save_last=True, save_top_k=-1)
        return Trainer(
            max_epochs=2, callbacks=[saver], logger=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=tmp_path, accelerator="cpu",
        )  # fmt: skip

    trainer().fit(net(), loader())
    path = tmp_path / "last.ckpt"
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(500)

    with pytest.raises(Corrupt, match="newest"):
        trainer().fit(net(), loader(), ckpt_path="last")
