"""The parameters of a model that its peers share, the digest of the others, and the name of their device."""

from __future__ import annotations

import torch
from blake3 import blake3

from p2ptrain.run import NO_DIGEST, Digest


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
