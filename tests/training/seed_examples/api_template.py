"""ModelCheckpoint.format_checkpoint_name, as its doctest calls it."""

# ruff: noqa: PTH109, PTH119
import os

from holdfast.callbacks import ModelCheckpoint

tmpdir = os.getcwd()
ckpt = ModelCheckpoint(dirpath=tmpdir, filename="{epoch}")
assert os.path.basename(ckpt.format_checkpoint_name({"epoch": 0})) == "epoch=0.ckpt"
ckpt = ModelCheckpoint(dirpath=tmpdir, filename="{epoch:03d}")
assert os.path.basename(ckpt.format_checkpoint_name({"epoch": 5})) == "epoch=005.ckpt"
ckpt = ModelCheckpoint(dirpath=tmpdir, filename="{epoch}-{val_loss:.2f}")
found = os.path.basename(ckpt.format_checkpoint_name({"epoch": 2, "val_loss": 0.123456}))
assert found == "epoch=2-val_loss=0.12.ckpt"
found = os.path.basename(ckpt.format_checkpoint_name({"epoch": 2, "val_loss": 0.12}, filename="{epoch:d}"))
assert found == "epoch=2.ckpt"
ckpt = ModelCheckpoint(
    dirpath=tmpdir, filename="epoch={epoch}-validation_loss={val_loss:.2f}", auto_insert_metric_name=False
)
found = os.path.basename(ckpt.format_checkpoint_name({"epoch": 2, "val_loss": 0.123456}))
assert found == "epoch=2-validation_loss=0.12.ckpt"
ckpt = ModelCheckpoint(dirpath=tmpdir, filename="{missing:d}")
assert os.path.basename(ckpt.format_checkpoint_name({})) == "missing=0.ckpt"
ckpt = ModelCheckpoint(filename="{step}")
assert os.path.basename(ckpt.format_checkpoint_name({"step": 0})) == "step=0.ckpt"
