"""Which: the ten best by a metric."""

from small import Small, Trainer  # supplied

from holdfast.callbacks import ModelCheckpoint

checkpoint_callback = ModelCheckpoint(
    save_top_k=10,
    monitor="val_loss",
    mode="min",
    dirpath="my/path/",
    filename="sample-mnist-{epoch:02d}-{val_loss:.2f}",
)
Trainer(callbacks=[checkpoint_callback]).fit(Small())  # supplied
