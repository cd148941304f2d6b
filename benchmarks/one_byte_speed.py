"""How fast one-byte SPSA computes: python -m benchmarks.one_byte_speed [--parameters 100]

Three ratios, both sides of each measured in turns in one process:
- applying 64 records at a time to int32 master weights, against memory alone (one in-place addition of the same size)
  and against regenerating Gaussian noise with torch for every record, as MeZO does;
- a whole step of a 22 M parameter encoder on a batch of 16 × 48 tokens, against the two forward passes it contains.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.report import report
from p2ptrain.parameters import shared_parameters
from p2ptrain.run import Digest, SigningKey, SPSAMethod
from p2ptrain.spsa.estimator import Alone, Estimator
from p2ptrain.spsa.kernels import kernels_for
from p2ptrain.spsa.master import MasterLayout
from p2ptrain.spsa.replica import Replica
from p2ptrain.spsa.signs import TILE
from p2ptrain.spsa.state import MasterState
from p2ptrain.state.logs import Log

RUN = Digest(bytes(32))
TURNS = 5


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turns(*works: Callable[[], object], turns: int = TURNS) -> list[float]:
    """Median seconds of each, measured one after another, again and again."""
    for work in works:
        work()
    measured = [[seconds_of(work) for work in works] for _ in range(turns)]
    return [statistics.median(column) for column in zip(*measured, strict=True)]


def measure_replay(millions: int, records: int) -> dict[str, object]:
    """Nanoseconds for each parameter and record."""
    tiles = millions * 10**6 // TILE
    master = torch.zeros(tiles * TILE, dtype=torch.int32)
    kinds, kernels = torch.zeros(tiles, dtype=torch.uint8), kernels_for(torch.device("cpu"))
    generator = np.random.default_rng(0)
    keys = [int(key) for key in generator.integers(0, 2**64, records, dtype=np.uint64)]
    quanta = torch.from_numpy(generator.integers(-1000, 1000, (records, 1)).astype(np.int32))
    weights, ones = torch.zeros(tiles * TILE), torch.ones_like(master)

    def gaussian() -> None:
        noise = torch.empty_like(weights)
        noise.normal_(generator=torch.Generator().manual_seed(keys[0] % 2**63))
        weights.add_(noise, alpha=1e-6)

    ours, one, noise, memory = in_turns(
        lambda: kernels.add(master, kinds, keys, quanta),
        lambda: kernels.add(master, kinds, keys[:1], quanta[:1]),
        gaussian,
        lambda: master.add_(ones),
        turns=3,
    )
    each = len(weights)
    return {
        "what": f"{records} records, {millions} M",
        "ns": 1e9 * ours / each / records,
        "ns, one record": 1e9 * one / each,
        "ns, memory": 1e9 * memory / each,
        "ns, torch noise": 1e9 * noise / each,
        "times faster than noise": noise / (ours / records),
    }


def encoder() -> torch.nn.Module:
    """all-MiniLM-L6-v2's shape, with a head for two classes: 22.7 M parameters."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=512,
    )
    return BertForSequenceClassification(config).eval()


def measure_step() -> dict[str, object]:
    """Seconds of a step and of the two forward passes in it."""
    model = encoder()
    tensors = shared_parameters(model)
    method = SPSAMethod(name="spsa", lr=1e-5)
    layout = MasterLayout.for_weights(tensors)
    replica = Replica(RUN, method, MasterState(layout, {}, layout.from_weights(tensors).numpy()), torch.device("cpu"))
    tokens = torch.randint(0, 30522, (16, 48))
    labels = torch.randint(0, 2, (16,))

    def loss(batch: torch.Tensor) -> torch.Tensor:
        return model(input_ids=batch, labels=labels).loss

    estimator = Estimator(method, replica, tensors, loss)
    alone = Alone(RUN, Log(SigningKey.generate().peer_id, bytes(8)), method, replica, estimator)

    def forwards() -> None:
        with torch.no_grad():
            loss(tokens)
            loss(tokens)

    step, two = in_turns(lambda: alone.step([tokens]), forwards, turns=2 * TURNS)
    count = sum(tensor.numel() for tensor in tensors.values())
    return {"what": f"a step of {count / 1e6:.1f} M", "s": step, "s, two forward passes": two, "ratio": step / two}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=100, help="millions")
    given = parser.parse_args()
    threads = f"{torch.get_num_threads()} threads"
    report("one_byte_replay", [measure_replay(given.parameters, 64)], [threads])
    report("one_byte_step", [measure_step()], [threads])


if __name__ == "__main__":
    main()
