"""Let a profiler see what a run calls: hooks, the strategy's verbs, loaders. Without a profiler, none of it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from holdfast.callbacks.callback import Callback
from holdfast.profilers.base import Profiler
from holdfast.training.data import Batches
from holdfast.training.hooks import Call, Context, Hooks

_END: Any = object()


class WatchedHooks(Hooks):
    """Hooks whose calls are actions, named ``[Callback]Timer.on_train_start`` or ``[LightningModule]Net.setup``.

    Args:
        profiler: Who is told.
        trainer: As ``Hooks`` take it, and so are the rest.
        module: The module.
        base: The class that defines its hooks.
        callbacks: The callbacks.
        context: Told which hook runs.
    """

    def __init__(
        self,
        profiler: Profiler,
        trainer: Any,
        module: Any,
        base: type,
        callbacks: Sequence[Callback],
        context: Context,
    ) -> None:
        super().__init__(trainer, module, base, callbacks, context)
        self._profiler = profiler

    def of_callbacks(self, name: str, callbacks: Sequence[Callback]) -> tuple[Call, ...]:
        """Those that override the hook, each an action."""
        return tuple(
            watched(self._profiler, f"[Callback]{callback.state_key}.{name}", call)
            for callback in callbacks
            for call in super(WatchedHooks, self).of_callbacks(name, [callback])
        )

    def of_module(self, name: str) -> tuple[Call, ...]:
        """The module's own, an action."""
        action = f"[LightningModule]{type(self._module).__name__}.{name}"
        return tuple(watched(self._profiler, action, call) for call in super().of_module(name))


class WatchedStrategy:
    """A strategy whose steps, backward passes and optimizer steps are actions; all else is its own.

    Args:
        profiler: Who is told.
        strategy: The strategy.
    """

    def __init__(self, profiler: Profiler, strategy: Any) -> None:
        self._profiler, self._strategy = profiler, strategy
        name = f"[Strategy]{type(strategy).__name__}"
        self._name = name
        self.backward = watched(profiler, f"{name}.backward", strategy.backward)
        self.step = watched(profiler, f"{name}.optimizer_step", strategy.step)
        self.move = watched(profiler, f"{name}.batch_to_device", strategy.move)

    def forward(self, step: Callable[..., Any], *args: Any) -> Any:
        """Call a step, an action named after it."""
        with self._profiler.profile(f"{self._name}.{getattr(step, '__name__', 'step')}"):
            return self._strategy.forward(step, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_strategy"], name)


class WatchedBatches:
    """A loader each batch of which is an action; all else is its own.

    Args:
        profiler: Who is told.
        batches: The loader with its limit.
        action: What it is called.
    """

    def __init__(self, profiler: Profiler, batches: Batches, action: str) -> None:
        self._profiler, self._batches, self._action = profiler, batches, action

    def iterate(self, **options: Any) -> Iterator[Any]:
        """The batches of one epoch."""
        source = self._batches.iterate(**options)
        while True:
            with self._profiler.profile(self._action):
                batch = next(source, _END)
            if batch is _END:
                return
            yield batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_batches"], name)


def watched(profiler: Profiler, action: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A call that is an action."""

    def measured(*args: Any, **kwargs: Any) -> Any:
        with profiler.profile(action):
            return call(*args, **kwargs)

    return measured
