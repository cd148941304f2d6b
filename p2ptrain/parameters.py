"""The parameters of a model that its peers share, the digest of the others, and what a model may not have.

Peers share float32 numbers. What these can't carry is refused: complex and integer parameters, and buffers that
training changes (they would drift apart on the peers, and nobody would notice).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from blake3 import blake3

from p2ptrain.errors import UsageError
from p2ptrain.run import NO_DIGEST, Digest

INSTEAD_OF_STATISTICS = "use a layer without running statistics, e.g. GroupNorm or LayerNorm"


def shared_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The trainable parameters by their names in the bare model, without the prefixes of torch.compile and
    DistributedDataParallel. Tied parameters appear once, under their first name."""
    return {name: parameter for name, parameter in _parameters(model).items() if parameter.requires_grad}


def digest_of_frozen(model: torch.nn.Module) -> Digest:
    """The digest of the weights that are not trained, which must be equal on all peers; all zero if there are none."""
    hasher, found = blake3(derive_key_context="p2ptrain 2026 frozen weights"), False
    for name, parameter in _parameters(model).items():
        if not parameter.requires_grad:
            found = True
            values = parameter.detach().to("cpu", torch.float32).contiguous()
            hasher.update(f"{name} {tuple(values.shape)}".encode())
            hasher.update(values.numpy().data.cast("B"))
    return Digest(hasher.digest()) if found else NO_DIGEST


def check_shareable(model: torch.nn.Module) -> None:
    """Check that peers can share a model.

    Raises:
        UsageError: no parameter is trained; a parameter is complex, holds integers, is sparse, or has no memory yet;
            the trained ones lie on several devices; or a module keeps running statistics and is in training mode.
    """
    named = _parameters(model)
    for name, parameter in named.items():
        if wrong := _unfit(parameter):
            raise UsageError(f"the parameter {name!r} can't be shared", *wrong)
    devices = {str(parameter.device) for parameter in named.values() if parameter.requires_grad}
    if not devices:
        what = "the model has no parameter to train"
        raise UsageError(what, "", "set requires_grad = True on the parameters to train before you wrap the model")
    if len(devices) > 1:
        what, why = "the trained parameters lie on several devices", ", ".join(sorted(devices))
        raise UsageError(what, why, "move the model to one device")
    for name, module in model.named_modules():
        if module.training and isinstance(getattr(module, "running_mean", None), torch.Tensor):
            kept = "to keep its statistics as they are, which must be equal on all peers, call .eval() on it"
            raise UsageError(
                f"the module {name!r} ({type(module).__name__}) keeps running statistics",
                "training changes its buffers running_mean and running_var, and peers share parameters only",
                f"{INSTEAD_OF_STATISTICS}; or, {kept} before you wrap the model",
            )


def check_float32(model: torch.nn.Module, instead: str) -> None:
    """Check that all trained parameters are float32. Raises UsageError, with `instead` as its next step."""
    for name, parameter in shared_parameters(model).items():
        if parameter.dtype != torch.float32:
            what, kind = f"the parameter {name!r} is not float32", str(parameter.dtype).removeprefix("torch.")
            raise UsageError(what, f"it is {kind}, and this method trains float32 parameters only", instead)


def _unfit(parameter: torch.nn.Parameter) -> tuple[str, str] | None:
    """(why, next step) if peers can't share a parameter, trained or not."""
    if torch.nn.parameter.is_lazy(parameter):
        return "it is lazy and has no shape yet", "run the model once on a batch before you wrap it"
    if parameter.is_complex():
        step = "make it a float parameter with one more dimension (torch.view_as_real), and use torch.view_as_complex"
        return "it is complex, and peers share float32 numbers", f"{step} in the forward pass"
    if not parameter.is_floating_point():
        kind = str(parameter.dtype).removeprefix("torch.")
        return f"its type is {kind}, and peers share float32 numbers", "make it a buffer, or convert it to float32"
    if parameter.layout != torch.strided:
        return "it is sparse", "convert it with .to_dense()"
    if parameter.is_meta:
        return "it is on the meta device and has no memory", "load the model's weights before you wrap it"
    return None


# Buffers --------------------------------------------------------------------------------------------------------------


class Buffers:
    """A model's floating buffers as they were.

    Constants are allowed, e.g. masks, or statistics that stay as they are. Buffers that no checkpoint keeps
    (`persistent=False`) are caches, and may change.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._kept = {name: buffer.detach().clone() for name, buffer in _lasting_buffers(model)}

    def check(self) -> None:
        """Raises UsageError if a buffer holds other values now."""
        now = dict(_lasting_buffers(self._model))
        for name, kept in self._kept.items():  # torch counts no writes of BatchNorm: only the values tell
            if name not in now or now[name].shape != kept.shape or not torch.equal(now[name].to(kept), kept):
                raise UsageError(
                    f"training changes the buffer {name!r}",
                    "peers share parameters only: such a buffer would differ from peer to peer",
                    f"{INSTEAD_OF_STATISTICS}; or call .eval() on the module that changes it",
                )


def _lasting_buffers(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for prefix, module in model.named_modules():
        for key, buffer in module._buffers.items():
            lasts = buffer is not None and key not in module._non_persistent_buffers_set
            if lasts and (buffer.is_floating_point() or buffer.is_complex()):
                yield f"{prefix}.{key}" if prefix else key, buffer


# Loaded weights -------------------------------------------------------------------------------------------------------


def not_finite(model: torch.nn.Module) -> str:
    """The name of a parameter or a lasting buffer that holds NaN or infinity; empty if there is none."""
    tensors: Iterable[tuple[str, torch.Tensor]] = (*model.named_parameters(), *_lasting_buffers(model))
    for name, tensor in tensors:
        if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta:
            least, most = torch.aminmax(tensor.detach())  # both are NaN if one number is; takes no memory
            if not (math.isfinite(least) and math.isfinite(most)):
                return name
    return ""


def give_own_memory(model: torch.nn.Module) -> None:
    """Make each parameter contiguous, in memory that no other one uses.

    A file of weights may hold transposed tensors, which safetensors refuses to save, or one tensor under two names:
    then an update of one would change both.
    """
    seen = set[int]()
    for parameter in model.parameters():  # a tied one comes once
        shared = parameter.untyped_storage().data_ptr() in seen
        if shared or not parameter.is_contiguous():
            parameter.data = parameter.detach().clone(memory_format=torch.contiguous_format)
        seen.add(parameter.untyped_storage().data_ptr())


def _parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    named = {name.replace("_orig_mod.", ""): parameter for name, parameter in model.named_parameters()}
    wrapped = all(name.startswith("module.") for name in named)
    return {name.removeprefix("module."): p for name, p in named.items()} if wrapped else named


def device_name(device: torch.device) -> str:
    """The device's name for people, e.g. "cpu, 4 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else device.type
