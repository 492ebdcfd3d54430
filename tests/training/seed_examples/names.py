"""Where: a folder and a template."""

from small import Small, Trainer  # supplied

from holdfast.callbacks import ModelCheckpoint

checkpoint_callback = ModelCheckpoint(
    dirpath="my/path/",
    filename="sample-mnist-{epoch:02d}-{val_loss:.2f}",
)
Trainer(callbacks=[checkpoint_callback]).fit(Small())  # supplied
