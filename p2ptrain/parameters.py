"""A model's parameters, as the methods share them, and the device that they are on."""

from __future__ import annotations

import torch


def shared_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The trainable parameters by the names that the bare model gives them: torch.compile and DistributedDataParallel
    put a prefix before them. Tied parameters appear once, under their first name."""
    named = {name.replace("_orig_mod.", ""): p for name, p in model.named_parameters() if p.requires_grad}
    wrapped = all(name.startswith("module.") for name in named)
    return {name.removeprefix("module."): p for name, p in named.items()} if wrapped else named


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else device.type
