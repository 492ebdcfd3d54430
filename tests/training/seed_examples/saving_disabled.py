"""Saving and loading weights: no checkpoints."""

from small import Small, Trainer  # supplied

trainer = Trainer(checkpoint_callback=False)
trainer.fit(Small())  # supplied
