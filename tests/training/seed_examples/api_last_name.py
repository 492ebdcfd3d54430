"""ModelCheckpoint: another name for the last one."""

from small import Small, Trainer  # supplied

from holdfast.callbacks import ModelCheckpoint

checkpoint_callback = ModelCheckpoint(dirpath="my/path/", save_top_k=0, save_last=True)  # supplied
checkpoint_callback.CHECKPOINT_NAME_LAST = "{epoch}-last"
Trainer(callbacks=[checkpoint_callback]).fit(Small())  # supplied
