"""Saving and loading weights: restore the whole training."""

from small import Small, Trainer  # supplied

LitModel = Small  # supplied
before = Trainer(enable_checkpointing=False, max_epochs=1)  # supplied
before.fit(LitModel())  # supplied
before.save_checkpoint("some/path/to/my_checkpoint.ckpt")  # supplied

model = LitModel()
trainer = Trainer(resume_from_checkpoint="some/path/to/my_checkpoint.ckpt", enable_checkpointing=False)

# automatically restores model, epoch, step, LR schedulers, apex, etc...
trainer.fit(model)
assert (before.global_step, trainer.global_step) == (5, 15)  # supplied
