"""Train a small network on scikit-learn's handwritten digits with a plain PyTorch loop that cannot lose its work.

Run it, kill it however you like, run the same command again: it goes on where it was.
"""

from __future__ import annotations

import argparse
from itertools import islice

import torch
from sklearn.datasets import load_digits
from torch import nn

from holdfast import Checkpointer, best, every, last

BATCH = 32
EPOCHS = 40


def data() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """1,797 images of 8 x 8, bundled with scikit-learn: 1,197 to train, 300 to validate, 300 to test."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
    labels = torch.tensor(digits.target)[order]
    cuts = {"train": slice(0, -600), "validate": slice(-600, -300), "test": slice(-300, None)}
    return {name: (images[cut], labels[cut]) for name, cut in cuts.items()}


def batches(images: torch.Tensor, labels: torch.Tensor, epoch: int):
    """The batches of one epoch. Their order follows from the epoch alone, so that a resumed epoch has the same."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
    for picked in order.split(BATCH):
        yield images[picked], labels[picked]


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of images that the model names rightly."""
    model.eval()
    with torch.no_grad():
        right = (model(images).argmax(1) == labels).float().mean().item()
    model.train()
    return right


def main() -> None:
    """Train, or go on training; then test the best checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", default="runs/digits_loop")
    folder = parser.parse_args().dir

    torch.manual_seed(0)
    sets = data()
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)

    which = best(2, "val_acc", mode="max") | last(1)
    with Checkpointer(folder, when=every(steps=50) | every(minutes=10), which=which) as ckpt:
        start = ckpt.resume(model=model, optimizer=optimizer, scheduler=scheduler)
        for epoch in range(start.epochs, EPOCHS):
            for images, labels in islice(batches(*sets["train"], epoch), start.done_in(epoch), None):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
                ckpt.step(samples=len(labels))
            ckpt.validated({"val_acc": accuracy(model, *sets["validate"])})
            scheduler.step()
            ckpt.epoch_end()
            print(f"epoch {epoch} done, step {ckpt.progress.steps}", flush=True)

        model.load_state_dict(ckpt.load("best", parts=["model"])["model"])
    print(f"test accuracy of the best checkpoint: {accuracy(model, *sets['test']):.1%}")


if __name__ == "__main__":
    main()
