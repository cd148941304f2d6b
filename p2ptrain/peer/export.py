"""Turn a run folder into a folder that transformers loads, with a note of where the weights come from."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from p2ptrain.diloco.fragments import Layout
from p2ptrain.diloco.replica import Replica
from p2ptrain.errors import StorageError
from p2ptrain.peer.session import prepare_torch
from p2ptrain.run import Digest
from p2ptrain.state import Blobs, RunFolder
from p2ptrain.swarm import version
from p2ptrain.tasks import CausalLM, LocalOptions


def export_run(run_dir: Path, out: Path, model: str | None) -> str:
    """Write the newest state that the folder's ledger leads to; works beside a running peer.

    Returns:
        One line that says what was written.

    Raises:
        StorageError: no run folder, no usable snapshot in it, or `out` can't be written.
    """
    if out.exists() and any(out.iterdir()):
        raise StorageError(f"{out} is not empty", "an export never overwrites anything", "give a new folder")
    prepare_torch(None)
    folder = RunFolder.open(run_dir, lock=False)
    try:
        task = CausalLM(folder.spec, LocalOptions(device="cpu", model=model))
        tensors = {name: p for name, p in task.model.named_parameters() if p.requires_grad}
        layout = Layout.of({name: p.shape for name, p in tensors.items()}, folder.spec.method.fragments)
        head = folder.ledger.fact("head")
        if head is None:
            raise StorageError(f"{run_dir} holds no state yet", "the peer stopped before its first snapshot")
        state = Replica(folder, layout, Blobs()).state_at(Digest(head))
        parameters = layout.assemble([torch.tensor(fragment.theta.values) for fragment in state.fragments])
        task.export(parameters, out)
        provenance = {
            "run": folder.run.hex(),
            "name": folder.spec.run.name,
            "height": state.height,
            "commit": state.commit.hex(),
            "state": state.digest.hex(),
            "tokens": state.weight,
            "founder": folder.genesis.author,
            "software": f"p2ptrain {version()}",
        }
        (out / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"can't write {out}", error.strerror or str(error), "choose another folder") from None
    finally:
        folder.close()
    return f"wrote {out}: height {state.height}, state {state.digest.hex()[:12]}"
