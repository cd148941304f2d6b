"""hivemind's node and DHT without torch.

What p2ptrain takes of hivemind (`p2p`, `proto`, `dht.node` and what these need of `utils`) does no tensor arithmetic,
but the `__init__` of `hivemind`, of `hivemind.dht` and of `hivemind.utils` imports everything in it, and torch with
that: a quarter of a gigabyte. `spare_torch` puts packages of these names in their place that find the same modules and
import nothing by themselves. It is meant for a process that never trains, before anything imports hivemind.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from p2ptrain.errors import P2PTrainError

PACKAGES = ("hivemind", "hivemind.dht", "hivemind.utils")
HANDED_ON = {
    "hivemind.utils.logging": ("get_logger",),
    "hivemind.utils.serializer": ("MSGPackSerializer", "SerializerBase"),
    "hivemind.utils.timed_storage": ("get_dht_time",),
}
"""What hivemind's DHT imports from the package `hivemind.utils` instead of from the module that has it."""


def spare_torch() -> None:
    """From now on this process can import hivemind's node and DHT, and nothing else of hivemind, without torch.

    In a process that has imported hivemind already, with all it brings, there is nothing to spare and nothing changes.
    """
    if "hivemind" in sys.modules:
        return
    found = importlib.util.find_spec("hivemind")
    if found is None or found.origin is None:
        raise P2PTrainError(
            "hivemind is not installed", "", "install p2ptrain with its dependencies: pip install p2ptrain"
        )
    root = Path(found.origin).parent
    for name in PACKAGES:
        package = ModuleType(name, "Without what its __init__ imports; see p2ptrain/lean.py.")
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        package.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        sys.modules[name] = package
    for name, attributes in HANDED_ON.items():
        module = importlib.import_module(name)
        for attribute in attributes:
            setattr(sys.modules["hivemind.utils"], attribute, getattr(module, attribute))
