"""Without a GPU Triton's kernels run in its interpreter; it is asked for before they are made."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
