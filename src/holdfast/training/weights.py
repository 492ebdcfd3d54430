"""Put the weights of a checkpoint into a module, and say what fits and what does not. Reads no file."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from holdfast.errors import Incompatible
from holdfast.log import logger
from holdfast.strategies.single import bare_name

_SHOWN = 10
OnMismatch = Literal["raise", "skip"]
"""What becomes of a tensor of another shape."""


def load_weights(
    module: nn.Module,
    state: Mapping[str, Any],
    *,
    strict: bool,
    checkpoint: str,
    remedy: str = "",
    on_mismatch: OnMismatch = "raise",
    load: Callable[..., Any] | None = None,
) -> None:
    """Load a state dict.

    Keys that match but for ``_orig_mod.`` (a compiled module) or ``module.`` (a wrapped one), on either side, are
    matched, and that is said.

    Args:
        module: What to load into.
        state: Its state dict; not changed.
        strict: Whether all keys must be there, and no others. Otherwise one line says how many were loaded.
        checkpoint: Its name, for an error.
        remedy: What else may help where keys are missing.
        on_mismatch: ``"skip"`` leaves tensors of another shape as the module has made them, and lists them.
        load: Loads a state dict into a module, where that is more than the module's own method.

    Raises:
        Incompatible: Keys are missing or left over (``strict``), shapes differ, or nothing at all fits; all of it in
            one error.
    """
    own = module.state_dict()
    renamed = _renamed(state, own, module)
    skipped = _other_shapes(own, renamed) if on_mismatch == "skip" else {}
    if skipped:
        # What the module has stands in, so that a load with strict=True still asks for every other key.
        renamed.update((key, own[key]) for key in skipped)
    if not strict or skipped:
        _require_some(own, renamed.keys() - skipped.keys(), state, checkpoint)
    try:
        if load is None:
            module.load_state_dict(renamed, strict=strict)
        else:
            load(module, renamed, strict=strict)
    except RuntimeError as error:  # how torch reports what does not fit
        raise Incompatible(
            f"does not fit {type(module).__name__}: {_differences(own, renamed, strict=strict) or error}.",
            checkpoint=checkpoint,
            good="The checkpoint is as it was.",
            remedy=remedy or _remedy(own, renamed, strict=strict),
        ) from error
    if not strict or skipped:
        _report(own, renamed, skipped, type(module).__name__, checkpoint)


def under_own_names(
    module: nn.Module, state: Mapping[str, Any], *, strict: bool, checkpoint: str
) -> OrderedDict[str, Any]:
    """A state dict under the module's own keys, for others to load; they refuse what a strict load refuses.

    Args:
        module: What it is for; not changed.
        state: The state dict; not changed.
        strict: Whether all keys must be there. Otherwise one line says how many are.
        checkpoint: Its name, for an error.

    Raises:
        Incompatible: Not ``strict``, and shapes differ or nothing at all fits.
    """
    own = module.state_dict()
    renamed = _renamed(state, own, module)
    if strict:
        return renamed
    _require_some(own, renamed.keys(), state, checkpoint)
    if _other_shapes(own, renamed):
        raise Incompatible(
            f"does not fit {type(module).__name__}: {_differences(own, renamed, strict=False)}.",
            checkpoint=checkpoint,
            good="Nothing was changed.",
            remedy=_remedy(own, renamed, strict=False),
        )
    _report(own, renamed, {}, type(module).__name__, checkpoint)
    return renamed


def _remedy(own: Mapping[str, Any], state: Mapping[str, Any], *, strict: bool) -> str:
    others = ", or load what fits with strict=False" if strict else ""
    skip = (
        "; load_from_checkpoint(..., on_mismatch='skip') leaves these as they are made"
        if _other_shapes(own, state)
        else ""
    )
    return f"Build the module as when it was saved{others}{skip}."


def _report(
    own: Mapping[str, Any], state: Mapping[str, Any], skipped: Mapping[str, str], name: str, checkpoint: str
) -> None:
    """One line on a load that need not be complete."""
    tensors = [key for key, value in own.items() if isinstance(value, torch.Tensor)]
    loaded = [key for key in tensors if key in state and key not in skipped]
    found = (
        ("not in the checkpoint", [key for key in own if key not in state]),
        ("not in the module", [key for key in state if key not in own]),
        ("left as made, for they are of another shape", list(skipped.values())),
    )
    rest = "".join(f"; {what}: {_listed(keys)}" for what, keys in found if keys)
    logger.info(
        "loaded %s of the %s tensors of %s from '%s'%s", f"{len(loaded):,}", f"{len(tensors):,}", name, checkpoint, rest
    )


def _require_some(own: Mapping[str, Any], fitting: Iterable[str], state: Mapping[str, Any], checkpoint: str) -> None:
    if own and not own.keys() & set(fitting):
        raise Incompatible(
            f"holds none of the module's {len(own):,} tensors: nothing would be loaded.",
            checkpoint=checkpoint,
            good="The checkpoint is as it was.",
            remedy=f"It holds {_listed(state) or 'nothing'}; the module has {_listed(own)}. Rename the keys in "
            "on_load_checkpoint, or load another checkpoint.",
        )


def _differences(own: Mapping[str, Any], state: Mapping[str, Any], *, strict: bool) -> str:
    missing = [key for key in own if key not in state] if strict else []
    unused = [key for key in state if key not in own] if strict else []
    other = _other_shapes(own, state).values()
    found = (("missing", missing), ("not in the module", unused), ("of another shape", other))
    return "; ".join(f"{what}: {_listed(keys)}" for what, keys in found if keys)


def _other_shapes(own: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, str]:
    """Tensors whose shape is not the module's, each with both."""
    return {
        key: f"{key} ({list(state[key].shape)} there, {list(value.shape)} here)"
        for key, value in own.items()
        if isinstance(value, torch.Tensor)
        and isinstance(state.get(key), torch.Tensor)
        and value.shape != state[key].shape
    }


def _listed(keys: Iterable[str]) -> str:
    names = list(keys)
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _renamed(state: Mapping[str, Any], own: Mapping[str, Any], module: nn.Module) -> OrderedDict[str, Any]:
    """The state under the module's own keys, as far as they differ by the names of wrappers alone."""
    names = _matched(state, own)
    renamed = OrderedDict((names.get(key, key), value) for key, value in state.items())
    metadata = getattr(state, "_metadata", None)
    if metadata is not None:
        # The versions of submodules, by their names: load_state_dict looks there.
        places = _matched(metadata, [name for name, _ in module.named_modules(remove_duplicate=False)])
        renamed._metadata = {places.get(name, name): value for name, value in metadata.items()}  # type: ignore[attr-defined]
    if names:
        before, after = next(iter(names.items()))
        logger.info(
            "matched %s of %s keys but for _orig_mod. and module., such as '%s' with '%s'",
            f"{len(names):,}",
            f"{len(state):,}",
            before,
            after,
        )
    return renamed


def _matched(there: Iterable[str], here: Iterable[str]) -> dict[str, str]:
    """Names there to names here, for those that are equal but for a wrapper's, where that leaves no choice."""
    known, met = dict.fromkeys(here), dict.fromkeys(there)
    wanted, offered = _by_bare_name(known, met), _by_bare_name(met, known)
    return {
        names[0]: wanted[bare][0]
        for bare, names in offered.items()
        if len(names) == 1 and len(wanted.get(bare, ())) == 1
    }


def _by_bare_name(names: Iterable[str], but: Mapping[str, None]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        if name not in but:
            found.setdefault(bare_name(name), []).append(name)
    return found
