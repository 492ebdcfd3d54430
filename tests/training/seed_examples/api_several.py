"""ModelCheckpoint: every N hours, every M batches and every K validation epochs are several callbacks."""

from datetime import timedelta

from small import Small, Trainer  # supplied

from holdfast.callbacks import ModelCheckpoint

callbacks = [  # supplied
    ModelCheckpoint("hours", train_time_interval=timedelta(hours=1)),
    ModelCheckpoint("batches", every_n_train_steps=6, save_top_k=-1),
    ModelCheckpoint("epochs", every_n_epochs=2, save_on_train_epoch_end=False),
]
Trainer(callbacks=callbacks).fit(Small())  # supplied
