"""No torn file: whatever changes a tensor while a save reads it, what is published is the state of its step."""

from __future__ import annotations

import random
import warnings

import pytest
import torch

import lent
import scale
from holdfast import SaveFailedWarning
from saving import difference
from torture import meddling

pytestmark = [pytest.mark.torture, pytest.mark.timeout(3600)]

TRIALS = 10_000
SHAPE = (lent.WIDTH, lent.WIDTH)
_LONG = (lent.WIDTH, 1, 1)


def rows():
    """Indices of rows, and of elements."""
    return torch.randint(0, lent.WIDTH, (7,))


def like(tensor):
    """Other values of its kind."""
    return torch.randn(SHAPE) if tensor.is_floating_point() else torch.randint(-9, 9, SHAPE, dtype=tensor.dtype)


def mask():
    """Half of the elements."""
    return torch.rand(SHAPE) < 0.5


# What an operation is called with, given the tensor; by default nothing.
ONE = dict.fromkeys(
    ["arctan2_", "atan2_", "copy_", "copysign_", "eq_", "floor_divide_", "fmod_", "ge_", "greater_", "greater_equal_",
     "gt_", "heaviside_", "hypot_", "igamma_", "igammac_", "le_", "less_", "less_equal_", "logical_and_",
     "logical_or_", "logical_xor_", "lt_", "ne_", "nextafter_", "not_equal_", "remainder_", "xlogy_", "ldexp_",
     "float_power_", "bitwise_and_", "bitwise_or_", "bitwise_xor_", "gcd_", "lcm_", "add_", "sub_", "subtract_",
     "mul_", "multiply_", "div_", "divide_", "true_divide_", "pow_"],
    lambda t: (like(t),),
)  # fmt: skip
ARGUMENTS = {
    **ONE,
    "addbmm_": lambda t: (torch.randn(2, *SHAPE), torch.randn(2, *SHAPE)),
    "addcdiv_": lambda t: (like(t), like(t)),
    "addcmul_": lambda t: (like(t), like(t)),
    "addmm_": lambda t: (torch.randn(SHAPE), torch.randn(SHAPE)),
    "addr_": lambda t: (torch.randn(lent.WIDTH), torch.randn(lent.WIDTH)),
    "apply_": lambda t: (lambda value: value + 1,),
    "bitwise_left_shift_": lambda t: (1,),
    "bitwise_right_shift_": lambda t: (1,),
    "clamp_": lambda t: (-0.01, 0.01),
    "clamp_max_": lambda t: (-0.01,),
    "clamp_min_": lambda t: (0.01,),
    "clip_": lambda t: (-0.01, 0.01),
    "cumprod_": lambda t: (0,),
    "cumsum_": lambda t: (0,),
    "fill_": lambda t: (3,),
    "fill_diagonal_": lambda t: (3,),
    "geometric_": lambda t: (0.3,),
    "index_add_": lambda t: (0, rows(), torch.ones(7, lent.WIDTH, dtype=t.dtype)),
    "index_copy_": lambda t: (0, rows(), torch.ones(7, lent.WIDTH, dtype=t.dtype)),
    "index_fill_": lambda t: (0, rows(), 3),
    "index_put_": lambda t: ((rows(),), torch.ones((), dtype=t.dtype)),
    "index_reduce_": lambda t: (0, rows(), torch.ones(7, lent.WIDTH, dtype=t.dtype), "amax"),
    "lerp_": lambda t: (like(t), 0.5),
    "map_": lambda t: (like(t), lambda a, b: a + b),
    "map2_": lambda t: (like(t), like(t), lambda a, b, c: a + b + c),
    "masked_fill_": lambda t: (mask(), 3),
    "masked_scatter_": lambda t: (mask(), like(t)),
    "mvlgamma_": lambda t: (1,),
    "polygamma_": lambda t: (1,),
    "put_": lambda t: (rows(), torch.ones(7, dtype=t.dtype)),
    "renorm_": lambda t: (2, 0, 1e-3),
    "resize_": lambda t: (8, 8),
    "resize_as_": lambda t: (torch.zeros(8, 8),),
    "scatter_": lambda t: (0, torch.randint(0, lent.WIDTH, SHAPE), like(t)),
    "scatter_add_": lambda t: (0, torch.randint(0, lent.WIDTH, SHAPE), like(t)),
    "scatter_reduce_": lambda t: (0, torch.randint(0, lent.WIDTH, SHAPE), like(t), "amax"),
    "set_": lambda t: (like(t),),
    "as_strided_": lambda t: (SHAPE, (1, lent.WIDTH)),
    "swapaxes_": lambda t: (0, 1),
    "swapdims_": lambda t: (0, 1),
    "transpose_": lambda t: (0, 1),
    "unsqueeze_": lambda t: (0,),
}
NOT_FOR_THESE = {
    "addmv_": "for vectors",
    "baddbmm_": "for stacks of matrices",
    "resize_as_sparse_": "for sparse tensors",
    "sparse_resize_": "for sparse tensors",
    "sparse_resize_and_clear_": "for sparse tensors",
    "requires_grad_": "changes no data",
    "detach_": "changes no data",
    "share_memory_": "gives back the memory that is read: the page on lending says so",
}
METHODS = [
    name
    for name in dir(torch.Tensor)
    if name.endswith("_") and not name.startswith("_") and name not in NOT_FOR_THESE
]  # fmt: skip
OUT = [n.removesuffix("_") for n in METHODS if hasattr(torch, n.removesuffix("_"))]
"""Functions that may be told where to put their result."""
FOREACH = [n for n in dir(torch) if n.startswith("_foreach_") and n.endswith("_")]
FOREACH_ARGUMENTS = {
    **dict.fromkeys(["add", "sub", "mul", "div", "pow", "maximum", "minimum", "clamp_max", "clamp_min"], (2.0,)),
    "addcdiv": None, "addcmul": None, "lerp": None, "copy": None,
}  # fmt: skip
INITS = ["constant_", "eye_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_", "orthogonal_", "sparse_",
         "trunc_normal_", "uniform_", "xavier_normal_", "xavier_uniform_", "zeros_"]  # fmt: skip
INIT_ARGUMENTS = {"constant_": (3.0,), "sparse_": (0.5,)}
UNVERSIONED = ["mul_", "add_", "zero_", "neg_", "copy_", "normal_", "fill_"]


def method(dice, tensors):
    """One of the tensors' own methods, on a whole one or a row of it."""
    name, tensor = dice.choice(METHODS), dice.choice(tensors)
    with torch.no_grad():
        getattr(tensor, name)(*ARGUMENTS.get(name, lambda t: ())(tensor))
    return name


def of_a_view(dice, tensors):
    """A view shares the version of what it is of."""
    tensor = dice.choice(tensors)
    with torch.no_grad():
        dice.choice([tensor[5], tensor.view(-1)[100:], tensor.t(), tensor.detach(), tensor.diagonal()]).fill_(7)
    return "a view"


def of_all(dice, tensors):
    """Many at once, as optimizers do it."""
    name = dice.choice(FOREACH)
    arguments = FOREACH_ARGUMENTS.get(name.removeprefix("_foreach_").removesuffix("_"), ())
    floats = [t for t in tensors if t.is_floating_point()]
    if arguments is None:
        others = [like(t) for t in floats]
        arguments = (others, others) if "addc" in name else (others, 0.5) if "lerp" in name else (others,)
    with torch.no_grad():
        getattr(torch, name)(floats, *arguments)
    return name


def initialised(dice, tensors):
    """As at the start of a run."""
    name = dice.choice(INITS)
    getattr(torch.nn.init, name)(
        dice.choice([t for t in tensors if t.is_floating_point()]), *INIT_ARGUMENTS.get(name, ())
    )
    return name


def into(dice, tensors):
    """The result of a function, put into the tensor, or assigned to a piece of it."""
    tensor = dice.choice(tensors)
    with torch.no_grad():
        if dice.random() < 0.5:
            name = dice.choice(OUT)
            arguments = ARGUMENTS.get(name + "_", lambda t: ())(tensor)
            getattr(torch, name)(tensor.detach(), *arguments, out=tensor.detach())
        else:
            tensor[dice.randrange(lent.WIDTH)] = 3
    return "out= or an index"


def without_a_version(dice, tensors):
    """The whole of it, in the way that bumps no version."""
    name, tensor = dice.choice(UNVERSIONED), dice.choice(tensors)
    tensor = tensor if tensor.is_floating_point() or name != "normal_" else tensors[0]
    getattr(tensor.data, name)(*ARGUMENTS.get(name, lambda t: ())(tensor))
    return f"data.{name}"


KINDS = (method, method, method, method, of_a_view, of_all, initialised, into, without_a_version)


def change(dice, tensors, net, optimizer):
    """Something that changes a tensor; operations that refuse it change nothing."""
    kind = dice.choice(KINDS + meddling.KINDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return kind(dice, net, optimizer) if kind in meddling.KINDS else kind(dice, tensors)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError) as refused:  # a parameter was renamed
        return f"{kind.__name__}: {refused}"


def trial(dice):
    """One run of two steps, whose first save is read while its state is changed; what was changed, what is wrong."""
    net, at, memory = lent.model(seed=dice.randrange(100)), dice.randrange(-60, 180), dice.choice([1, 2**18, 2**26])
    optimizer = torch.optim.AdamW(net.parameters())
    lent.train(net, optimizer)
    for p in (net[0].weight, net[2].weight):
        optimizer.state[p]["counts"] = torch.zeros(SHAPE, dtype=torch.int32)
        optimizer.state[p]["sums"] = torch.zeros(SHAPE, dtype=torch.float64)
    weights = [net[0].weight, net[2].weight]
    tensors = [*weights, *(v for p in weights for v in optimizer.state[p].values() if v.dim() == 2), net[0].bias]
    store, expected, done = lent.HeldStore(at=at), {}, []
    with lent.checkpointer(store, memory=memory) as ckpt:
        ckpt.resume("fresh", model=net, optimizer=optimizer)
        expected[1] = lent.state_of(net, optimizer)
        store.armed = at >= 0
        ckpt.step()
        flight = ckpt._engine._flight
        while at >= 0 and not store.reached.is_set() and not flight.staged:
            pass
        try:
            for _ in range(dice.randint(1, 3)):
                done.append(change(dice, tensors, net, optimizer))
        finally:
            store.go.set()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", SaveFailedWarning)
            flight.wait()
            expected[2] = lent.state_of(net, optimizer)
            ckpt.step()
    found = lent.on_disk(store)
    problems = [f"step {step}: {why}" for step, s in found.items() if (why := difference(expected[step], s))]
    lost = {1, 2} - set(found)
    if lost != ({1} if told else set()):
        problems.append(f"steps {lost} are missing, and {len(told)} warnings were given")
    return done, problems, bool(told)


def test_no_file_is_torn_whatever_changes_tensors_while_they_are_read():
    """10,000 runs (here 300): every published file is, bit for bit, the state of the step that its name says."""
    wrong, moved, trials = [], 0, scale.sample(range(TRIALS), 300)
    for number in trials:
        torch.manual_seed(number)
        done, problems, told = trial(random.Random(number))
        moved += told
        wrong += [(number, done, problems)] if problems else []
    assert wrong == []
    assert len(trials) / 4 < moved < len(trials), "some saves are found moved, and some come through"


@pytest.mark.filterwarnings("ignore:index_reduce:UserWarning")
def test_every_public_method_that_changes_a_tensor_in_place_does_so_here():
    """A new one of torch's has to be added, or told why not; each does something to one of the tensors."""
    idle = []
    for name in METHODS:
        torch.manual_seed(0)
        kinds = (torch.float32, torch.float64, torch.int32)
        for tensor in (torch.rand(SHAPE).mul(9).to(kind) for kind in kinds):
            before, version = tensor.clone(), tensor._version
            try:
                getattr(tensor, name)(*ARGUMENTS.get(name, lambda t: ())(tensor))
            except (RuntimeError, TypeError, ValueError):
                continue
            if tensor._version != version or not torch.equal(before, tensor):
                break
        else:
            idle.append(name)
    assert idle == []


@pytest.mark.parametrize("kind", meddling.KINDS, ids=lambda kind: kind.__name__)
def test_nothing_that_meddles_is_refused(kind):
    """Each does what it says, to a state as the trials have it; those of the tensors' own are looked at above."""
    for number in range(20):
        torch.manual_seed(number)
        net = lent.model()
        optimizer = torch.optim.AdamW(net.parameters())
        lent.train(net, optimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert kind(random.Random(number), net, optimizer)
