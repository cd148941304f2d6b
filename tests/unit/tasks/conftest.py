import os
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub: no test asks the network
torch.set_num_threads(1)  # tiny models: threads only get in each other's way


@pytest.fixture
def own_dataset_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that a test opens are not kept in the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
