"""The other processes of `join.py`: who holds a state, in each of its forms, and hivemind's newcomer."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import p2ptrain
from benchmarks.raw_stream import serve_raw
from benchmarks.roles import SILENCE, Role, rest, tell
from p2ptrain.commands.demo import LOOPBACK
from p2ptrain.run import Manifest
from p2ptrain.state import Blobs, serve
from p2ptrain.state.blobs import read_file
from p2ptrain.swarm import Identity, NodeConfig, Swarm

FRAGMENTS = 4
STEPS_PER_ROUND = 1000
NETWORK = NodeConfig(listen=(LOOPBACK[1],))

DATA = Path(p2ptrain.__file__).parent / "**" / "*.py"

SPEC = """
[run]
name = "benchmark"
[model]
architecture = "llama"
[model.config]
hidden_size = {hidden}
intermediate_size = {intermediate}
num_hidden_layers = {layers}
num_attention_heads = {heads}
tie_word_embeddings = true
[data]
source = "files"
paths = ["{data}"]
sequence_length = 16
[method]
name = "diloco"
inner_steps = {inner_steps}
fragments = {fragments}
schedule = "constant"
snapshot_every = {fragments}
[eval]
every = 1000000
"""


@contextlib.contextmanager
def running(*arguments: Any) -> Iterator[tuple[Role, Any]]:
    with Role("benchmarks.join_sources", *map(str, arguments)) as role:
        yield role, role.answer()


# A state's bytes ------------------------------------------------------------------------------------------------------


def write_vectors(folder: Path, parameters: int) -> None:
    """A state's worth of random θ and momentum, one file for each vector."""
    random = np.random.default_rng(0)
    for number in range(2 * FRAGMENTS):
        random.standard_normal(parameters // FRAGMENTS, dtype=np.float32).tofile(folder / f"{number}.vector")


def vector_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.vector"))


def serve_vectors(folder: Path, key: Path, *bootstrap: str) -> None:
    """A source of `raw` and of `fetch`."""
    config = NodeConfig(listen=NETWORK.listen, bootstrap=bootstrap)
    with Swarm.start(Identity.open(key), config) as swarm:
        blobs = Blobs()
        digests = [
            blobs.hold_source(Manifest.of(path.read_bytes()), partial(read_file, path, 0), "benchmark").hex()
            for path in vector_files(folder)
        ]
        swarm.run(serve(swarm.rpc, blobs))
        serve_raw(swarm, b"".join(path.read_bytes() for path in vector_files(folder)))
        tell(peer=swarm.peer_id, addresses=swarm.addresses(), digests=digests)
        rest()


# hivemind ------------------------------------------------------------------------------------------------------------


def serve_hivemind(folder: Path) -> None:
    import hivemind
    import torch

    dht = hivemind.DHT(host_maddrs=list(NETWORK.listen), start=True)
    tensors = [torch.from_numpy(np.fromfile(path, np.float32)) for path in vector_files(folder)]
    averager = hivemind.DecentralizedAverager(tensors, dht, prefix="benchmark", start=True)
    tell(addresses=[str(address) for address in dht.get_visible_maddrs()])
    rest()
    averager.shutdown()
    dht.shutdown()


def load_hivemind(folder: Path, *bootstrap: str) -> None:
    import hivemind
    import torch

    dht = hivemind.DHT(initial_peers=list(bootstrap), host_maddrs=list(NETWORK.listen), start=True)
    averager = hivemind.DecentralizedAverager(
        [torch.zeros(1)], dht, prefix="benchmark", start=True, allow_state_sharing=False
    )
    tell()
    for _ in sys.stdin:
        began = time.perf_counter()
        loaded = averager.load_state_from_peers()
        seconds = time.perf_counter() - began
        if loaded is None:
            raise ConnectionError("hivemind found no state")
        for tensor, path in zip(loaded[1], vector_files(folder), strict=True):
            if not np.array_equal(tensor.numpy(), np.fromfile(path, np.float32)):
                raise ValueError("hivemind's state has other bits")
        tell(seconds=seconds)
    averager.shutdown()
    dht.shutdown()


# A run ----------------------------------------------------------------------------------------------------------------


def write_spec(path: Path, parameters: int) -> None:
    """A llama of about that size: 12·hidden² parameters in each layer, hidden = 64 times the number of layers."""
    heads = max(1, round((parameters / 12 / 64**2) ** (1 / 3)))
    hidden = 64 * heads
    text = SPEC.format(
        hidden=hidden,
        intermediate=hidden * 8 // 3,
        layers=max(1, round(parameters / 12 / hidden**2)),
        heads=heads,
        inner_steps=FRAGMENTS * STEPS_PER_ROUND,
        fragments=FRAGMENTS,
        data=DATA,
    )
    path.write_text(text)


def hold_run(home: Path, spec: str, invite: str = "") -> None:
    """A peer of a run that has trained until every fragment has changed, or has joined; now it rests."""
    from p2ptrain.diloco import StreamingDiLoCo
    from p2ptrain.diloco.trainer import make_optimizer
    from p2ptrain.peer.session import prepare_torch
    from p2ptrain.state.run import Run
    from p2ptrain.tasks import LocalOptions, open_task

    prepare_torch(threads=1)
    with Run.join(invite, config=NETWORK, home=home) if invite else Run.found(spec, config=NETWORK, home=home) as run:
        task = open_task(run.spec, LocalOptions(device="cpu", batch_size=1))
        task.load_data(0)
        optimizer = make_optimizer(task.model, run.spec.method)
        with StreamingDiLoCo(task.model, optimizer, run, held_out=task.held_out_digest) as diloco:
            diloco.wait_until_ready()
            for height in range(diloco.exchange.view.head.height + 1, FRAGMENTS + 1):
                task.loss(height).backward()
                optimizer.step()
                for _ in range(STEPS_PER_ROUND):  # the others would not change the size of the state
                    diloco.step(task.tokens_per_step)
                diloco.exchange.wait(lambda view, height=height: view.head.height >= height, SILENCE)
            diloco.halt()
            while not any(height == FRAGMENTS for height, _ in diloco.exchange.own_presence.snapshots):
                time.sleep(0.1)
            tell(invite=str(run.invite()), parameters=sum(p.numel() for p in task.model.parameters()))
            rest()


ROLES: dict[str, Callable[..., None]] = {
    "vectors": lambda folder, key, *bootstrap: serve_vectors(Path(folder), Path(key), *bootstrap),
    "hivemind": lambda folder: serve_hivemind(Path(folder)),
    "hivemind-load": lambda folder, *bootstrap: load_hivemind(Path(folder), *bootstrap),
    "run": lambda home, spec, invite: hold_run(Path(home), spec, invite),
}


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("python -m benchmarks.join starts these processes")
    ROLES[sys.argv[1]](*sys.argv[2:])
