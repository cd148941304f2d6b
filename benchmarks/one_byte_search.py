"""Which learning rate, ε and clip suit a one-byte run: each combination trained alone for so many records.

    python -m benchmarks.one_byte_search peers/demo-one-byte.toml --records 2000 --lr 3e-5 1e-4 --epsilon 1e-3 1e-2

One process, no network, the peers' own mathematics: what a combination reaches here a swarm reaches with as many
records. All combinations see the same minibatches and perturbations.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

from benchmarks.report import report
from p2ptrain.errors import SpecError
from p2ptrain.parameters import shared_parameters
from p2ptrain.run import Digest, SPSAMethod, load_spec
from p2ptrain.run.keys import peer_id_from_key
from p2ptrain.spsa.estimator import Alone, Estimator
from p2ptrain.spsa.master import MasterLayout, check_learning_rate
from p2ptrain.spsa.replica import Replica
from p2ptrain.spsa.state import MasterState
from p2ptrain.state.logs import Log
from p2ptrain.tasks import Evaluation, LocalOptions, Task, open_task

RUN = Digest(bytes(32))
LOG = Log(peer_id_from_key(bytes([9] * 32)), bytes(8))
"""The same for all, and with it the perturbations."""


def train(
    task: Task, method: SPSAMethod, base: MasterState, records: int, bf16: bool
) -> tuple[Evaluation, list[float]]:
    """How well the weights do at the end, and the projected gradients on the way."""
    tensors = shared_parameters(task.model)
    replica = Replica(RUN, method, base, task.device)
    estimator = Estimator(method, replica, tensors, task.loss_on)
    if bf16:
        print(f"bfloat16: correlation of gradients {estimator.halve([task.batch(0)]):.3f}")
    alone = Alone(RUN, LOG, method, replica, estimator)
    gradients = []
    while len(gradients) < records:
        gradients.append(alone.step([task.batch(len(gradients))]).gradient)
    estimator.restore()
    return task.evaluate({name: tensor.detach() for name, tensor in tensors.items()}), gradients


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec")
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, nargs="+")
    parser.add_argument("--epsilon", type=float, nargs="+")
    parser.add_argument("--clip", type=float, nargs="+")
    parser.add_argument("--bf16", action="store_true", help="measure in bfloat16, where that agrees with float32")
    parser.add_argument("--model")
    parser.add_argument("--data", nargs="*", default=[])
    given = parser.parse_args()
    spec = load_spec(given.spec)
    method = spec.spsa
    task = open_task(
        spec, LocalOptions(device="cpu", batch_size=given.batch_size, model=given.model, data=tuple(given.data))
    )
    task.load_data(0)
    task.model.eval()
    tensors = {name: tensor.detach().clone() for name, tensor in shared_parameters(task.model).items()}
    layout = MasterLayout.for_weights(tensors)
    base = MasterState(layout, {}, layout.from_weights(tensors).numpy())
    before = task.evaluate(tensors)
    count = sum(tensor.numel() for tensor in tensors.values())
    print(f"{count:,} parameters; before: loss {before.loss:.4f}, accuracy {before.accuracy}")
    rows = []
    for lr, epsilon, clip in itertools.product(
        given.lr or [method.lr], given.epsilon or [method.epsilon], given.clip or [method.clip]
    ):
        chosen = method.model_copy(update={"lr": lr, "epsilon": epsilon, "clip": clip})
        try:
            check_learning_rate(chosen, layout)
        except SpecError as error:
            print(f"lr {lr:g}, clip {clip:g}: {error.what}")
            continue
        began = time.perf_counter()
        found, gradients = train(task, chosen, base, given.records, given.bf16)
        seconds = time.perf_counter() - began
        usual = statistics.median(map(abs, gradients))
        clipped = sum(abs(g) > clip for g in gradients) / len(gradients)
        row = {
            "lr": lr,
            "epsilon": epsilon,
            "clip": clip,
            "loss": round(found.loss, 4),
            "accuracy": found.accuracy,
            "median_gradient": round(usual, 3),
            "clipped": round(clipped, 4),
            "ms_per_record": round(1000 * seconds / given.records, 1),
        }
        rows.append(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    report("one_byte_search", rows, [f"{given.spec}, {given.records} records; loss before: {before.loss:.4f}"])


if __name__ == "__main__":
    main()
