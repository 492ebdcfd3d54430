"""What one call of log costs, in nanoseconds: the loop pays it at every step, for every metric.

Cases run in turn, several rounds of them, and each shows its best round.
"""

from __future__ import annotations

import time

import torch

from holdfast.training.metrics import MetricLog

CALLS, ROUNDS = 5_000, 7


def cases():
    """Names, and what is done in a batch."""
    weight = torch.randn(4, requires_grad=True)
    loss, plain = (weight * 2).mean(), torch.tensor(0.5)
    yield "nothing logged: begin_batch, end_batch", lambda log: None
    for what, value in (("tensor", plain), ("loss with a graph", loss), ("number", 0.5)):
        yield f"{what}, on_step", lambda log, v=value: log.log("x", v, hook="training_step")
        yield f"{what}, on_epoch", lambda log, v=value: log.log("x", v, hook="validation_step")
        yield (
            f"{what}, both, prog_bar",
            lambda log, v=value: log.log("x", v, hook="training_step", on_epoch=True, prog_bar=True),
        )
    yield "tensor, max", lambda log: log.log("x", plain, hook="validation_step", reduce_fx="max", batch_size=32)


def measure(call, batch):
    """Nanoseconds a batch with one call in it."""
    log = MetricLog()
    log.begin_stage("train")
    started = time.perf_counter_ns()
    for step in range(CALLS):
        log.begin_batch(batch)
        call(log)
        log.end_batch(step)
    return (time.perf_counter_ns() - started) / CALLS


def main():
    """Print a line for each case."""
    torch.set_num_threads(1)
    batch = (torch.zeros(32, 4), torch.zeros(32))
    known = dict(cases())
    best = dict.fromkeys(known, float("inf"))
    for _ in range(ROUNDS):
        for name, call in known.items():
            best[name] = min(best[name], measure(call, batch))
    around = next(iter(best.values()))
    for name, nanoseconds in best.items():
        print(f"{nanoseconds:8.0f} ns a batch, {nanoseconds - around:6.0f} ns the call   {name}")


if __name__ == "__main__":
    main()
