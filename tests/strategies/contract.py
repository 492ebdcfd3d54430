"""The contract of strategies, as ranks run it: save what is hard to save, read it back, tell what came of it.

Imported by forked ranks; ``test_contract.py`` compares what they return.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import holdfast
from holdfast import LightningModule, Trainer, seed_everything

SAMPLES = 24
BATCH = 8  # over all ranks together


class Noted(nn.Module):
    """A module whose state is more than tensors."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, x):
        self.seen += 1
        return x

    def get_extra_state(self):
        return {"seen": self.seen, "name": "noted", "table": torch.arange(3)}

    def set_extra_state(self, state):
        assert state["name"] == "noted"
        self.seen = state["seen"]


class Odd(LightningModule):
    """Uneven shards, tied and frozen weights, tensors without dimensions and of another kind, buffers, extra state."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(33, 7)
        self.body = nn.Sequential(nn.Linear(7, 33), nn.Dropout(0.2), nn.ReLU(), nn.Linear(33, 7))
        self.frozen = nn.Linear(7, 7).requires_grad_(False)
        self.head = nn.Linear(7, 33, bias=False)
        self.head.weight = self.table.weight
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.narrow = nn.Parameter(torch.ones(5, dtype=torch.bfloat16))
        self.noted = Noted()
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(7, dtype=torch.bfloat16))
        self.register_buffer("passing", torch.ones(3), persistent=False)

    def forward(self, x):
        return self.head(self.noted(self.frozen(self.body(self.table(x)))))

    def training_step(self, batch, batch_idx):
        (x,) = batch
        self.count += 1
        self.mean += 1
        loss = functional.cross_entropy(self(x) * self.scale, x) + self.narrow.float().pow(2).sum() * 0.1
        self.log("loss", loss, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val", functional.cross_entropy(self(batch[0]), batch[0]), sync_dist=True)

    def predict_step(self, batch, batch_idx):
        return self(batch[0]).sum()

    def configure_optimizers(self):
        own = [self.scale, self.narrow, self.body[3].bias]
        rest = [p for p in self.parameters() if not any(p is one for one in own)]
        optimizer = torch.optim.AdamW([{"params": rest}, {"params": own, "lr": 0.02, "weight_decay": 0.0}], lr=0.01)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Pair(LightningModule):
    """Two modules with an optimizer each, which take steps in turns."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.maker = nn.Sequential(nn.Linear(7, 33), nn.ReLU(), nn.Linear(33, 7))
        self.judge = nn.ModuleDict({"body": nn.Linear(7, 5), "head": nn.Linear(5, 1)})
        self.bias = nn.Parameter(torch.tensor(0.1))
        self.anchor = nn.Linear(7, 7).requires_grad_(False)

    def judged(self, x):
        return self.judge["head"](functional.relu(self.judge["body"](x))) + self.bias

    def training_step(self, batch, batch_idx):
        noise = functional.one_hot(batch[0] % 7, 7).float()
        real = self.anchor(noise)
        makes, judges = self.optimizers()
        self.toggle_optimizer(judges)
        loss = functional.softplus(self.judged(self.maker(noise).detach()) - self.judged(real)).mean()
        judges.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(judges, gradient_clip_val=0.05, gradient_clip_algorithm="norm")
        judges.step()
        self.untoggle_optimizer(judges)
        self.toggle_optimizer(makes)
        made = functional.softplus(-self.judged(self.maker(noise))).mean()
        makes.zero_grad()
        self.manual_backward(made)
        makes.step()
        self.untoggle_optimizer(makes)
        for scheduler in self.lr_schedulers():
            scheduler.step()
        self.log("judge", loss, sync_dist=True)

    def validation_step(self, batch, batch_idx):
        noise = functional.one_hot(batch[0] % 7, 7).float()
        self.log("val", self.judged(self.maker(noise)).mean(), sync_dist=True)

    def configure_optimizers(self):
        first, second = self.maker[0].parameters(), self.maker[2].parameters()
        makes = torch.optim.AdamW([{"params": first}, {"params": second, "lr": 0.02}], lr=0.01)
        judges = torch.optim.SGD([*self.judge.parameters(), self.bias], lr=0.1, momentum=0.9)
        return [makes, judges], [torch.optim.lr_scheduler.StepLR(one, 2, 0.5) for one in (makes, judges)]


MODULES = {"odd": Odd, "pair": Pair}


def data(size: int, *, shuffle: bool = True) -> DataLoader:
    """Samples in batches that are as large over all ranks together, whatever their number."""
    return DataLoader(TensorDataset(torch.arange(SAMPLES) % 33), batch_size=BATCH // size, shuffle=shuffle)


def trainer(strategy: str, size: int, **options: Any) -> Trainer:
    """One that leaves nothing but what it is asked to save."""
    options = {"max_epochs": 1, "accelerator": "cpu", "enable_checkpointing": False, **options}
    return Trainer(
        strategy=strategy, devices=size, logger=False, enable_progress_bar=False, enable_model_summary=False, **options
    )


def told(tensor: torch.Tensor) -> str:
    """What a tensor is, to the last bit."""
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data).hexdigest()[:16]}"


def plain(value: Any) -> Any:
    """A state as JSON can hold it."""
    if isinstance(value, torch.Tensor):
        return told(value)
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value


def digest(fitted: Trainer) -> dict[str, Any]:
    """The whole state, on rank 0: optimizers by the names of their parameters. A collective."""
    fitted.strategy.divides = False  # whole, whatever it saves
    captured = fitted._capture(holdfast.full)
    if not fitted.is_global_zero:
        return {}
    root, weights = captured.root, captured.root["state_dict"]
    optimizers = []
    for i, state in enumerate(root["optimizer_states"]):
        names = [name for group in captured.groups[f"optimizer{i or ''}"] for name in group]
        groups = [{k: v for k, v in group.items() if k != "params"} for group in state["param_groups"]]
        optimizers.append({"state": {names[k]: plain(v) for k, v in state["state"].items()}, "groups": plain(groups)})
    return {
        "model": {name: plain(value) for name, value in weights.items()},
        "tied": [[a, b] for a in weights for b in weights if a < b and tied(weights[a], weights[b])],
        "optimizers": optimizers,
        "schedulers": plain(root["lr_schedulers"]),
        "progress": vars(fitted.loop.progress),
    }


def tied(a: Any, b: Any) -> bool:
    """Whether two tensors are one."""
    both = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    return both and a.untyped_storage()._cdata == b.untyped_storage()._cdata


def write(folder: str, kinds: list[str], strategies: list[str], size: int) -> dict[str, Any]:
    """Train an epoch of each kind of module by each strategy, save it, and tell what was saved."""
    warnings.simplefilter("error")
    seen = {}
    for kind in kinds:
        for strategy in strategies:
            seed_everything(1, verbose=False)
            fitted = trainer(strategy, size, gradient_clip_val=0.5 if kind == "odd" else None)
            fitted.fit(MODULES[kind](), data(size))
            fitted.save_checkpoint(f"{folder}/{kind}-{strategy}-{size}.ckpt")
            seen[f"{kind}-{strategy}-{size}"] = digest(fitted)
    return seen


def read(folder: str, strategies: list[str], size: int, names: list[str] | None = None) -> dict[str, Any]:
    """Go on by each strategy from each file there is, or those named; what came of it before the first step."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "Going on is not exact: the DataLoader had an order of its own")  # as one process
    seen: dict[str, Any] = {}
    named = None if names is None else [Path(folder, f"{name}.ckpt") for name in names]
    for path in sorted(Path(folder).glob("*.ckpt")) if named is None else named:
        for strategy in strategies:
            seed_everything(2, verbose=False)  # other weights than those in the file
            kind = path.name.split("-")[0]
            fitted = trainer(strategy, size)
            fitted.fit(MODULES[kind](), data(size), ckpt_path=str(path))
            seen[f"{path.stem} {strategy}"] = digest(fitted)
            module = MODULES[kind]()
            again = trainer(strategy, size, max_epochs=2)
            values = again.validate(module, data(size), ckpt_path=str(path), verbose=False)
            again.fit(module, data(size), ckpt_path=str(path))
            seen[f"{path.stem} {strategy}"] |= {"val": values[0]["val"], "steps": again.global_step}
    return seen


def alone(folder: str) -> dict[str, Any]:
    """Load the weights of each file as a single process does, without a trainer."""
    seen = {}
    for path in sorted(Path(folder).glob("*.ckpt")):
        module = MODULES[path.name.split("-")[0]].load_from_checkpoint(path)
        seen[path.stem] = {name: plain(value) for name, value in module.state_dict().items()}
    return seen
