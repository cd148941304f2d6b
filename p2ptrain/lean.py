"""hivemind's node and DHT without torch, and without shared memory.

p2ptrain uses the parts `p2p`, `proto` and `dht.node` of hivemind, and what they need of `utils`. None of them computes
with tensors. But the `__init__` of `hivemind`, `hivemind.dht` and `hivemind.utils` imports everything, torch included:
a quarter of a gigabyte. `spare_torch` replaces these three packages by empty ones that find the same modules. Call it
in a process that never trains, before anything imports hivemind.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import multiprocessing
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from p2ptrain.errors import P2PTrainError

PACKAGES = ("hivemind", "hivemind.dht", "hivemind.utils")
HANDED_ON = {
    "hivemind.utils.logging": ("get_logger",),
    "hivemind.utils.serializer": ("MSGPackSerializer", "SerializerBase"),
    "hivemind.utils.timed_storage": ("get_dht_time",),
}
"""Names that hivemind's DHT imports from the package `hivemind.utils`, by the module that defines them."""


def spare_torch() -> None:
    """Let this process import hivemind's node and DHT without torch, and nothing else of hivemind. If the process has
    imported hivemind already, nothing changes. Raises P2PTrainError if hivemind is not installed."""
    if "hivemind" in sys.modules:
        return
    found = importlib.util.find_spec("hivemind")
    if found is None or found.origin is None:
        step = "install p2ptrain with its dependencies: pip install p2ptrain"
        raise P2PTrainError("hivemind is not installed", "", step)
    root = Path(found.origin).parent
    for name in PACKAGES:
        package = ModuleType(name, "An empty package with the same modules; see p2ptrain/lean.py.")
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        package.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        sys.modules[name] = package
    for name, attributes in HANDED_ON.items():
        module = importlib.import_module(name)
        for attribute in attributes:
            setattr(sys.modules["hivemind.utils"], attribute, getattr(module, attribute))


@contextlib.contextmanager
def spare_shared_memory() -> Iterator[None]:
    """Import hivemind in this block. It makes locks for several processes when it is imported, which fails without a
    usable /dev/shm. In the parts that p2ptrain uses, only threads of one process meet at these locks; so on such a
    machine they become locks of threads."""
    with contextlib.ExitStack() as after:
        if not has_semaphores():
            after.callback(setattr, multiprocessing, "Lock", multiprocessing.Lock)
            multiprocessing.Lock = threading.Lock  # type: ignore[assignment]
        yield


def has_semaphores() -> bool:
    """Whether this machine can make locks for several processes; on Linux, that takes a /dev/shm that can be
    written."""
    try:
        multiprocessing.Lock()
    except (OSError, ImportError):  # the latter: the system has no semaphores at all
        return False
    return True
