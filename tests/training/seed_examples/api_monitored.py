"""ModelCheckpoint: epoch and val_loss in the name of the best."""

from small import Small, Trainer  # supplied

from holdfast.callbacks import ModelCheckpoint

# saves a file like: my/path/sample-mnist-epoch=02-val_loss=0.32.ckpt
checkpoint_callback = ModelCheckpoint(
    monitor="val_loss",
    dirpath="my/path/",
    filename="sample-mnist-{epoch:02d}-{val_loss:.2f}",
)
Trainer(callbacks=[checkpoint_callback]).fit(Small())  # supplied
