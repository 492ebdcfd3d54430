"""Each kind of numbers gives the weights of a plain loop, bit for bit; the scaler skips what overflows."""

import pytest
import torch

from fitting import Net, loader, net, trainer, weights
from holdfast import ConfigError

TRUE = {"64-true": torch.float64, "bf16-true": torch.bfloat16}


@pytest.mark.parametrize("precision", [32, "64-true", "bf16-true"])
def test_true_precision_is_that_of_a_plain_loop(precision, tmp_path):
    """Parameters, batches, and what a step makes by itself are all of the kind."""
    kind = TRUE.get(precision, torch.float32)

    class Making(Net):
        def training_step(self, batch, batch_idx):
            assert torch.ones(1).dtype == batch[0].dtype == kind
            return self.loss(batch)

    ours = net(kind=Making)
    trainer(tmp_path, max_epochs=2, precision=precision).fit(ours, loader())

    plain = net().to(kind)
    optimizer = plain.configure_optimizers()
    for _ in range(2):
        for batch in loader():
            optimizer.zero_grad()
            plain.loss([part.to(kind) for part in batch]).backward()
            optimizer.step()

    assert next(ours.parameters()).dtype == kind
    assert torch.equal(weights(ours), weights(plain))
    assert torch.get_default_dtype() == torch.float32


def test_bf16_mixed_is_autocast(tmp_path):
    """Steps compute in autocast; parameters stay as they are."""
    ours = net()
    trainer(tmp_path, max_epochs=2, precision="bf16-mixed").fit(ours, loader())

    plain = net()
    optimizer = plain.configure_optimizers()
    for _ in range(2):
        for batch in loader():
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = plain.loss(batch)
            loss.backward()
            optimizer.step()

    assert torch.equal(weights(ours), weights(plain))


class Overflowing(Net):
    """Its gradients are infinite in the second batch."""

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        return loss * float("inf") if batch_idx == 1 else loss


def test_16_mixed_scales_clips_and_skips(tmp_path):
    """Clipped after unscaling; a step that overflows changes nothing and halves the scale."""
    ours = net(kind=Overflowing)
    run = trainer(tmp_path, max_epochs=1, precision="16-mixed", gradient_clip_val=0.1)
    run.fit(ours, loader())

    plain = net(kind=Overflowing)
    optimizer, scaler = plain.configure_optimizers(), torch.amp.GradScaler("cpu")
    for i, batch in enumerate(loader()):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = plain.loss(batch) * (float("inf") if i == 1 else 1)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()

    assert torch.equal(weights(ours), weights(plain))
    # Halved for the batch that overflows, and before it because the first scale, 2**16, is itself too much for halves.
    assert run.scaler.get_scale() == scaler.get_scale() == 2.0**14


def test_a_scaled_step_without_gradients_is_passed_over(tmp_path):
    """A batch without a loss leaves weights and scale alone."""

    class Empty(Net):
        def training_step(self, batch, batch_idx):
            return None

    ours, before = net(kind=Empty), weights(net())
    run = trainer(tmp_path, max_epochs=1, precision="16-mixed")
    run.fit(ours, loader())

    assert torch.equal(weights(ours), before)
    assert run.scaler.get_scale() == 2.0**16


def test_lbfgs_cannot_be_scaled(tmp_path):
    """It is said before the first batch."""
    module = net(lambda m: torch.optim.LBFGS(m.parameters()))

    with pytest.raises(ConfigError, match="LBFGS"):
        trainer(tmp_path, precision="16-mixed").fit(module, loader())
    assert module.seen == []
