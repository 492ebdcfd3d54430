"""What changes tensors besides their own methods: functions, layers, memory seen otherwise, modules, optimizers.

Each is given dice, a network and its optimizer while a save reads them, and says what it did.
"""

from __future__ import annotations

import copy
import ctypes

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.adamw import adamw

import lent

SHAPE = (lent.WIDTH, lent.WIDTH)
FUNCTIONS = {
    "threshold_": (0.0, 3.0),
    "dropout_": (0.5, True),
    "alpha_dropout_": (0.5, True),
    "feature_dropout_": (0.5, True),
    "feature_alpha_dropout_": (0.5, True),
    "rrelu_": (),
    "celu_": (),
    "selu_": (),
}
"""Those of ``torch`` that are no methods of tensors too."""
LAYERS = ["celu", "elu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "relu", "relu6", "rrelu", "selu",
          "silu", "dropout", "alpha_dropout", "feature_alpha_dropout"]  # fmt: skip


def a_weight(dice, net):
    """One of those that are lent."""
    return dice.choice([p for p in net.parameters() if p.numel() == lent.WIDTH**2])


def a_state(dice, optimizer):
    """What the optimizer keeps of one of its parameters that has anything kept, and that parameter."""
    return dice.choice([(p, kept) for p, kept in optimizer.state.items() if "exp_avg" in kept])


def a_function(dice, net, optimizer):
    """Of torch, without a method of its name; or an activation in place."""
    tensor = a_weight(dice, net).detach()
    if dice.random() < 0.3:
        name = dice.choice(list(FUNCTIONS))
        getattr(torch, name)(tensor, *FUNCTIONS[name])
    elif dice.random() < 0.3:
        name = "embedding_renorm_"
        torch.embedding_renorm_(tensor, torch.arange(7), 1e-3, 2.0)
    else:
        name = dice.choice(LAYERS)
        getattr(functional, name)(tensor, inplace=True)
    return name


def a_batch_norm(dice, net, optimizer):
    """What forward keeps in a lent tensor, if one gives it that."""
    mean, var = a_weight(dice, net).detach().view(-1), torch.ones(lent.WIDTH**2)
    functional.batch_norm(torch.randn(9, lent.WIDTH**2), mean, var, training=True)
    return "running_mean"


def the_memory(dice, net, optimizer):
    """All of it, by what torch does not count."""
    tensor, name = a_weight(dice, net).detach(), dice.choice(["numpy", "fill_", "copy_", "dlpack", "memset"])
    if name == "numpy":
        tensor.numpy()[...] = 3
    elif name == "fill_":
        tensor.untyped_storage().fill_(7)
    elif name == "copy_":
        tensor.untyped_storage().copy_(torch.randn(SHAPE).untyped_storage())
    elif name == "dlpack":
        torch.from_dlpack(tensor).fill_(3)
    else:
        ctypes.memset(tensor.data_ptr(), 7, tensor.nbytes)
    return f"the memory: {name}"


def an_exchange(dice, net, optimizer):
    """A parameter gets other memory, and what it had is changed by whoever has it now."""
    weight, other = a_weight(dice, net), nn.Parameter(torch.randn(SHAPE))
    if dice.random() < 0.5:
        torch.utils.swap_tensors(weight, other)
        with torch.no_grad():
            other[dice.randrange(lent.WIDTH), 7] = 9
        return "swap_tensors"
    had = weight.data
    weight.data = other.data
    had.zero_()
    return "data ="


def the_module(dice, net, optimizer):
    """All weights at once, as modules and their helpers do."""
    name = dice.choice(
        ["load_state_dict", "assign", "half", "double", "vector", "apply", "to_empty", "functional_call", "zero_grad"]
    )
    others = {key: torch.randn_like(v) if v.is_floating_point() else v for key, v in net.state_dict().items()}
    if name in ("load_state_dict", "assign"):
        net.load_state_dict(others, assign=name == "assign")
    elif name in ("half", "double"):
        getattr(net, name)().float()
    elif name == "vector":
        nn.utils.vector_to_parameters(torch.randn(sum(p.numel() for p in net.parameters())), net.parameters())
    elif name == "apply":
        net.apply(lambda part: part.reset_parameters() if hasattr(part, "reset_parameters") else None)
    elif name == "to_empty":
        net.to_empty(device="cpu")
    elif name == "functional_call":
        torch.func.functional_call(net, {"0.weight": others["0.weight"]}, torch.randn(4, lent.WIDTH))
    else:
        net.zero_grad(set_to_none=False)
    return f"module: {name}"


def a_parametrization(dice, net, optimizer):
    """Weights that are computed from others from then on, or were until then."""
    layer, name = net[dice.choice([0, 2])], dice.choice(["weight_norm", "orthogonal", "spectral_norm", "prune", "old"])
    if hasattr(layer, "weight_orig") or hasattr(layer, "weight_g") or parametrize.is_parametrized(layer):
        return "nothing: it has one"
    if name == "prune":
        prune.l1_unstructured(layer, "weight", 0.5)
        if dice.random() < 0.5:
            prune.remove(layer, "weight")
    elif name == "old":
        nn.utils.spectral_norm(layer)
        layer(torch.randn(4, lent.WIDTH))
        nn.utils.remove_spectral_norm(layer)
    else:
        getattr(parametrizations, name)(layer)
        if dice.random() < 0.5:
            parametrize.remove_parametrizations(layer, "weight")
    return f"parametrization: {name}"


def an_average(dice, net, optimizer):
    """An average is updated, or put in the weights' place by hand."""
    averaged = torch.optim.swa_utils.AveragedModel(
        copy.deepcopy(net), multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5), use_buffers=True
    )
    averaged.update_parameters(net)
    name = dice.choice(["update", "lerp", "swap"])
    with torch.no_grad():
        for ours, theirs in zip(net.parameters(), averaged.module.parameters(), strict=True):
            if name == "lerp":
                ours.lerp_(torch.randn_like(ours), 0.5)
            elif name == "swap":
                theirs.data.normal_()
                ours.data, theirs.data = theirs.data, ours.data
    return f"average: {name}"


def by_hand(dice, net, optimizer):
    """A step of an optimizer that is none."""
    (weight, state), name = a_state(dice, optimizer), dice.choice(["fused", "foreach", "one by one"])
    adamw(
        [weight.detach()], [torch.randn_like(weight)], [state["exp_avg"]], [state["exp_avg_sq"]], [], [torch.ones(())],
        fused=name == "fused", foreach=name == "foreach", amsgrad=False, beta1=0.9, beta2=0.99, lr=0.1,
        weight_decay=0.0, eps=1e-8, maximize=False,
    )  # fmt: skip
    return f"adamw: {name}"


def the_optimizer(dice, net, optimizer):
    """Its state is put back, thrown away, or replaced."""
    name = dice.choice(["load_state_dict", "clear", "replaced", "add_param_group"])
    _, state = a_state(dice, optimizer)
    if name == "load_state_dict":
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    elif name == "clear":
        state["exp_avg"].zero_()
        state.clear()
    elif name == "replaced":
        state["exp_avg"] = torch.randn_like(state["exp_avg"])
    else:
        optimizer.add_param_group({"params": [nn.Parameter(torch.randn(3))]})
    return f"optimizer: {name}"


@torch.compile(backend="aot_eager", dynamic=False)
def _compiled(weight):
    with torch.no_grad():
        weight.mul_(0.5)
        weight[3, 7] = 9


def a_compiled_function(dice, net, optimizer):
    """Changes what it is given."""
    _compiled(a_weight(dice, net).detach())
    return "compiled"


KINDS = (a_function, a_batch_norm, the_memory, an_exchange, the_module, a_parametrization, an_average, by_hand,
         the_optimizer, a_compiled_function)  # fmt: skip
