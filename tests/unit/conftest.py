from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub: no test asks the network
torch.set_num_threads(1)  # tiny models: threads only get in each other's way


@pytest.fixture(autouse=True)
def signals_of_this_process() -> Iterator[None]:
    """Who hears of them is as before afterwards: a command that ended in this process must not end the tests."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def precision_of_this_process() -> Iterator[None]:
    """What a peer sets for its whole process is as before afterwards."""
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(precision)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few small documents, some of them held out."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(60):
        (folder / f"{number}.txt").write_text(f"document {number} says: " + "a quick brown fox " * 5)
    return folder
