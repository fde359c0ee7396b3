"""What may carry the noise of ``noise.py``, and what is refused: in words, and before anything has changed.

Training frameworks wrap, copy, shard and compile optimizers. Each function here knows one of these cases.
"""

import gc
import inspect
import sys
import warnings
import weakref

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

ENTRIES = ("sigma", "cancel", "noise_law", "noise_seed", "noise_step")  # of each parameter group
attached = weakref.WeakSet()  # the optimizers that carry noise; copies of them lose the hooks and are not in here
_warned = weakref.WeakSet()

# Packages that may give an optimizer flat pieces of all weights in place of the parameters, after the noise was attached.
FLATTENING = ("deepspeed", "megatron")

# The function that torch puts around every optimizer's step, and that calls the hooks.
HOOKED_STEP = torch.optim.Optimizer.profile_hook_step(lambda self: None).__code__


# On attaching.


def check_optimizer(optimizer):
    """Raise TypeError, ValueError or RuntimeError for what cannot carry the noise."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"Noise attaches to a torch.optim.Optimizer, and this is a {type(optimizer).__name__}. "
            "Pass the optimizer itself: not the model, its parameters, a scheduler or a wrapper around it."
        )
    if is_zero(optimizer) or (several_processes() and any(map(is_zero, owners(optimizer)))):
        raise TypeError(
            "ZeroRedundancyOptimizer keeps a part of the optimizer's state on each process, and loses xi with the rest. "
            "Shard with torch.distributed.fsdp.fully_shard, which the noise follows, or train with DistributedDataParallel."
        )
    if inner := inner_optimizers(optimizer):
        name, its = inner[0]
        raise TypeError(
            f"{type(optimizer).__name__} is a wrapper around another optimizer, {type(its).__name__}, whose steps the noise "
            f"has to follow: pass its attribute {name!r} instead. (Not if the wrapper itself writes the weights after that step, "
            "as Lookahead does: it would leave a part of each perturbation in them.)"
        )
    if hasattr(optimizer, "fused_backward"):
        raise TypeError(
            f"{type(optimizer).__name__} updates the weights in the backward pass, and not in a step that the noise could "
            "follow. Use an optimizer that updates them in its step."
        )
    if not getattr(type(optimizer).step, "hooked", False) or not hasattr(optimizer, "_optimizer_step_post_hooks"):
        raise TypeError(
            f"The steps of {type(optimizer).__name__} call no hooks, so the noise could not follow them: its __init__ does "
            "not call that of torch.optim.Optimizer. Pass the optimizer that it works with."
        )
    if optimizer in attached:
        raise RuntimeError(
            "This optimizer carries noise already. Change group['sigma'] or group['cancel'] in its param_groups, "
            "or call detach() on the noise object first."
        )
    given = any(name in group for group in optimizer.param_groups for name in ENTRIES)
    for each in [optimizer, *(owners(optimizer) if given else [])]:  # a wrapper shares its groups with the one inside
        names = {*each.defaults, *inspect.signature(type(each).__init__).parameters}
        if taken := names & set(ENTRIES):
            raise ValueError(
                f"{type(each).__name__} has a setting {min(taken)!r} of its own, and the noise would take it for its own. "
                "Such an optimizer cannot carry it; subclass it and give the setting another name."
            )
    for group in optimizer.param_groups:
        for p in group["params"]:
            check_parameter(p)


def inner_optimizers(optimizer):
    """The optimizers that stand in an attribute of this one: [(name of the attribute, optimizer)]."""
    found = []
    for name, value in vars(optimizer).items():
        candidates = value if isinstance(value, (list, tuple)) else [value]
        found += [(name, each) for each in candidates if isinstance(each, torch.optim.Optimizer)]
    return found


def several_processes():
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_zero(optimizer):
    return any(cls.__name__ == "ZeroRedundancyOptimizer" for cls in type(optimizer).__mro__)


def owners(optimizer):
    """The optimizers that hold this one in an attribute."""
    return [each for each in holders(optimizer) if isinstance(each, torch.optim.Optimizer) and each is not optimizer]


def holders(x):
    """The objects that hold this one, themselves or in their ``__dict__``."""
    direct = gc.get_referrers(x)
    return direct + [each for held in direct if isinstance(held, dict) for each in gc.get_referrers(held)]


def check_holders(optimizer):
    """Raise TypeError where an optimizer of another package works with this one, on weights that are not the model's.

    Each process would draw the same noise for its piece of them, and ``at_z`` would move the pieces and not the model. The
    package wraps the optimizer later than the noise does, so it is looked for whenever parameters are new.
    """
    if not any(name in sys.modules for name in FLATTENING):
        return
    for cls in map(type, holders(optimizer)):
        package = cls.__module__.partition(".")[0]
        if package in FLATTENING and "Optimizer" in cls.__name__:  # and not the engine, which holds plain ones, too
            raise TypeError(
                f"The optimizer is inside a {cls.__name__} of {package}, which gives it flat pieces or copies of the weights in "
                "place of the model's own: the noise cannot follow them. Shard with torch.distributed.fsdp.fully_shard "
                "instead, which the noise follows, or train with DistributedDataParallel."
            )


def check_parameter(p):
    """Raise TypeError for a parameter that cannot carry the noise."""
    if p.is_complex():
        raise TypeError("A parameter is complex, and the noise is real. Store its two parts as real tensors.")
    if getattr(p, "_fsdp_flattened", False) or getattr(p, "_is_flat_param", False):
        raise TypeError(
            "A parameter is sharded by FullyShardedDataParallel, whose shards do not know their place in the whole: each "
            "would draw the same noise. Shard with torch.distributed.fsdp.fully_shard instead, which the noise follows."
        )
    if is_sharded(p) and any(placement.is_partial() for placement in p.placements):
        raise TypeError("A parameter is a DTensor with a Partial placement, a sum that is still to be made. Redistribute it.")


def warn_of_half_precision(parameters):
    halves = {p.dtype for p in parameters if p.element_size() < 4}
    if halves:
        names = ", ".join(sorted(str(dtype) for dtype in halves))
        warnings.warn(
            f"Parameters are stored as {names}: rounding at each step keeps the noise from cancelling, and z drifts "
            "like a random walk. Keep the weights in float32 and use autocast for the speed.",
            stacklevel=5,
        )


# At a step.


def inside_its_own_step(optimizer):
    """Whether a step of this optimizer is under way that calls this one: a subclass's step calls that of its base.

    Read off the stack and not counted, since a step that raises ends without its second hook.
    """
    frame, steps = sys._getframe(1), 0
    while frame is not None and steps < 2:
        if frame.f_code is HOOKED_STEP and frame.f_locals.get("self") is optimizer:
            steps += 1
        frame = frame.f_back
    return steps > 1


def with_closure(args, kwargs, after):
    """The arguments of a step with ``after`` called at the end of its closure, or None where it has no closure."""
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if not callable(closure):
        return None

    def closure_and_after(*a, **k):
        result = closure(*a, **k)
        after()
        return result

    if "closure" in kwargs:
        return args, {**kwargs, "closure": closure_and_after}
    return (args[0], closure_and_after, *args[2:]), kwargs


def check_gradient(p):
    if p.grad.layout is not torch.strided:
        raise TypeError(
            "A parameter has a sparse gradient. The noise moves every weight, so a sparse update would "
            "become a dense one. Build the embedding with sparse=False, or give its parameters an "
            "optimizer of their own without noise."
        )


def step_was_skipped(optimizer):
    """Whether a fused kernel found an infinite gradient: under a GradScaler it then leaves the weights alone."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf.item())


def only_allocates(group, stepping, carriers):
    """Whether this step is a checkpointer's: torch.distributed.checkpoint makes an optimizer create its state by
    one step with learning rate 0 and zero gradients, after which the weights are expected where they were."""
    lr = group.get("lr")
    return (
        lr is not None
        and not any(id(p) in carriers for p in stepping)
        and float(lr) == 0
        and not any(has_slope(p.grad) for p in stepping)
    )


def has_slope(gradient):
    found = gradient.any()
    return bool(found.full_tensor() if is_sharded(found) else found)


def warn_of_lost_hooks(optimizer, args, kwargs):
    """Torch's copies and unpickled optimizers have no hooks: their groups ask for noise that nobody draws."""
    if torch.compiler.is_compiling():
        return
    if "noise_step" not in optimizer.param_groups[0] or optimizer in attached or optimizer in _warned:
        return
    if any(inner in attached for _, inner in inner_optimizers(optimizer)):
        return
    _warned.add(optimizer)
    warnings.warn(
        "This optimizer steps without noise, and its parameter groups ask for it: it is a copy or was unpickled, which "
        "drops the hooks, or it has loaded a checkpoint with noise. Attach the noise to this optimizer, or remove the "
        f"entries {', '.join(ENTRIES)} from its groups.",
        stacklevel=3,
    )


register_optimizer_step_pre_hook(warn_of_lost_hooks)


# At z, and on loading.


def check_move(optimizer, parameters):
    """Raise RuntimeError where these cannot go from w to z, or back, and take the model along."""
    if parameters:
        check_mode(optimizer)
        check_gathered(parameters)


def check_mode(optimizer):
    if any(group.get("train_mode") is False for group in optimizer.param_groups):
        raise RuntimeError(
            "The optimizer is in eval mode: it has put averaged weights into the model, and the noise is in those of "
            "train mode. Evaluate these averages as they are, or call optimizer.train() before at_z() begins or ends, and "
            "before detach()."
        )


def check_gathered(parameters):
    """Raise RuntimeError where FSDP2 has gathered whole weights: they stay behind when their shards move.

    The outermost module keeps them after a forward pass that no backward pass follows, such as an evaluation.
    """
    shards = [p for p in parameters if is_sharded(p)]
    if shards and any(map(holds_gathered, gc.get_referrers(*shards))):
        raise RuntimeError(
            "FSDP2 keeps the weights that it gathered in a forward pass without a backward pass, and they do not follow the "
            "shards between w and z. Call model.reshard() after such a pass, before at_z() begins and before it ends, or "
            "shard the outermost module with reshard_after_forward=True."
        )


def holds_gathered(holder):
    """Whether this is FSDP2's own account of a parameter, or that account's ``__dict__``, and tells of whole weights."""
    state = holder if isinstance(holder, dict) else getattr(holder, "__dict__", {})
    return getattr(state.get("sharded_state"), "name", "SHARDED") != "SHARDED"


def check_loaded_group(group):
    if (taken := [name for name in ENTRIES if name in group]) and "noise_step" not in taken:
        raise ValueError(
            f"The checkpoint has an entry {taken[0]!r} in a parameter group, and it is not from a run with this noise. "
            "It would become a setting of the noise: take it out of the checkpoint before loading."
        )


# Sharded parameters (DTensor: FSDP2, HSDP, tensor parallel).


def is_sharded(tensor):
    return hasattr(tensor, "to_local") and hasattr(tensor, "device_mesh")


def local(tensor):
    """This process's part of a tensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def part_of(whole, p):
    """The part of a tensor that this process holds of p, as p holds it; the whole, where p is not sharded.

    So the noise does not depend on how p is cut, at the price of drawing all of it on each process.
    """
    if not is_sharded(p):
        return whole
    from torch.distributed.tensor import DTensor, Replicate

    replicated = [Replicate()] * p.device_mesh.ndim
    return DTensor.from_local(whole, p.device_mesh, replicated, run_check=False).redistribute(placements=p.placements)
