"""A sentence encoder learns what film reviews think, one byte a gradient: which settings suit, and what peers reach.

    python -m benchmarks.one_byte_reviews search MODEL REVIEWS.csv --lr 3e-6 1e-5 --records 200
    python -m benchmarks.one_byte_reviews train MODEL REVIEWS.csv --records 2000 --peers 2 --curve curve.svg

MODEL is a folder with a sentence encoder (mean of the last layer's tokens, e.g. all-MiniLM-L6-v2), REVIEWS.csv has the
columns text and label (0 bad, 1 good). A review is called what the nearer of two sentences says; the loss is the
cross-entropy of the scaled cosines, so nothing begins untrained. All weights are trained. `search` trains every
combination alone on the same minibatches and perturbations; `train` starts real peers on loopback, through the Python
API, each with a shard of draws of its own and its share of the threads.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from blake3 import blake3

import p2ptrain
from benchmarks.curve import draw
from benchmarks.report import report
from p2ptrain.parameters import shared_parameters
from p2ptrain.run import Digest, RunSpec, SPSAMethod
from p2ptrain.run.keys import peer_id_from_key
from p2ptrain.spsa.estimator import Alone, Estimator
from p2ptrain.spsa.master import MasterLayout
from p2ptrain.spsa.replica import Replica
from p2ptrain.spsa.state import MasterState
from p2ptrain.state.logs import Log
from p2ptrain.swarm import NodeConfig

AGAIN = (sys.executable, "-m", "benchmarks.one_byte_reviews")
SENTENCES = ("negative review", "positive review")
SCALE = 10.0
MOST_TOKENS = 64
HELD_OUT = 1000
EVAL_BATCH = 100
NEIGHBOURHOOD = 1024
"""A minibatch is drawn from so many reviews of similar length, so that little of it is padding."""
LOG = Log(peer_id_from_key(bytes([9] * 32)), bytes(8))
"""The same for all combinations of a search, and with it the perturbations."""
LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)

Review = tuple[list[int], int]
"""Tokens, and whether it is a good one."""


class Reviews(torch.nn.Module):
    """The encoder and its reviews."""

    def __init__(self, model: str, data: str) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer

        self.encoder = AutoModel.from_pretrained(model, add_pooling_layer=False, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        with Path(data).open(newline="") as file:
            rows = {row["text"]: int(row["label"]) for row in csv.DictReader(file)}  # the same text counts once
        texts = sorted(rows, key=lambda text: blake3(text.encode()).digest())
        tokens = tokenizer(texts, truncation=True, max_length=MOST_TOKENS)["input_ids"]
        reviews = [(row, rows[text]) for row, text in zip(tokens, texts, strict=True)]
        self.held_out = sorted(reviews[:HELD_OUT], key=_length)
        self._training = sorted(reviews[HELD_OUT:], key=_length)
        self._sentences = [(row, 0) for row in tokenizer(list(SENTENCES))["input_ids"]]

    def batch(self, seed: int, index: int, size: int) -> list[Review]:
        """The `index`-th minibatch of a seed."""
        generator = np.random.default_rng([seed, index])
        first = int(generator.integers(0, max(1, len(self._training) - NEIGHBOURHOOD)))
        near = self._training[first : first + NEIGHBOURHOOD]
        return [near[at] for at in generator.choice(len(near), size, replace=False)]

    def loss(self, batch: Sequence[Review]) -> torch.Tensor:
        right = torch.tensor([label for _, label in batch])
        return torch.nn.functional.cross_entropy(self._logits(batch), right)

    def evaluate(self) -> tuple[float, float]:
        """Mean loss and accuracy on the held-out reviews."""
        losses, correct = 0.0, 0
        with torch.no_grad():
            for at in range(0, len(self.held_out), EVAL_BATCH):
                batch = self.held_out[at : at + EVAL_BATCH]
                logits, right = self._logits(batch), torch.tensor([label for _, label in batch])
                losses += float(torch.nn.functional.cross_entropy(logits, right, reduction="sum"))
                correct += int((logits.argmax(1) == right).sum())
        return losses / len(self.held_out), correct / len(self.held_out)

    def _logits(self, batch: Sequence[Review]) -> torch.Tensor:
        found = self._encode([*batch, *self._sentences])
        return SCALE * found[: len(batch)] @ found[len(batch) :].T

    def _encode(self, rows: Sequence[Review]) -> torch.Tensor:
        """Unit vectors, (rows, width)."""
        longest = max(map(_length, rows))
        ids = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens, _ in rows])
        mask = torch.tensor([[1] * len(tokens) + [0] * (longest - len(tokens)) for tokens, _ in rows])
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(mean, dim=1)


def _length(review: Review) -> int:
    return len(review[0])


def search(given: argparse.Namespace) -> None:
    reviews = Reviews(given.model, given.data).eval()
    tensors = shared_parameters(reviews)
    layout = MasterLayout.for_weights(tensors)
    base = MasterState(layout, {}, layout.from_weights(tensors).numpy())
    before = reviews.evaluate()
    print(
        f"{sum(t.numel() for t in tensors.values()):,} parameters; before: loss {before[0]:.4f}, accuracy {before[1]}"
    )
    rows = []
    for lr, epsilon, clip, size in itertools.product(given.lr, given.epsilon, given.clip, given.batch_size):
        method = SPSAMethod(name="spsa", lr=lr, epsilon=epsilon, clip=clip)
        run = Digest(bytes(32))
        replica = Replica(run, method, base, torch.device("cpu"))
        estimator = Estimator(method, replica, tensors, reviews.loss)
        alone = Alone(run, LOG, method, replica, estimator)
        began = time.perf_counter()
        gradients = [abs(alone.step([reviews.batch(0, index, size)]).gradient) for index in range(given.records)]
        seconds = time.perf_counter() - began
        estimator.restore()
        loss, accuracy = reviews.evaluate()
        row = {
            "lr": lr,
            "epsilon": epsilon,
            "clip": clip,
            "batch": size,
            "loss": round(loss, 4),
            "accuracy": accuracy,
            "median_gradient": round(statistics.median(gradients), 3),
            "clipped": sum(gradient > clip for gradient in gradients) / len(gradients),
            "s_per_record": round(seconds / given.records, 3),
        }
        rows.append(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    notes = [f"{given.records} records each; before: loss {before[0]:.4f}, accuracy {before[1]:.3f}"]
    report("one_byte_reviews_search", rows, notes)


def train(given: argparse.Namespace) -> None:
    """Found a run, start the other peers as processes of their own, and evaluate now and then."""
    threads = max(1, (os.cpu_count() or 1) // given.peers)
    with tempfile.TemporaryDirectory() as home:
        spec = RunSpec.custom(
            "reviews",
            method="spsa",
            min_peers=given.peers,
            lr=given.lr[0],
            epsilon=given.epsilon[0],
            clip=given.clip[0],
            total_records=given.records,
            decay_records=given.records,
            mark_every=512,
        )
        network = NodeConfig(listen=LOOPBACK)
        with p2ptrain.Run.found(spec, config=network, home=Path(home) / "0") as run:
            others: list[subprocess.Popen[str]] = []

            def start_others() -> None:
                for number in range(1, given.peers):
                    command = [*AGAIN, "join", given.model, given.data, "--batch-size"]
                    command += [str(given.batch_size[0]), "--home", f"{home}/{number}", "--invite", str(run.invite())]
                    others.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))

            try:
                facts = take_part(given, run, threads, every=given.every, ready=start_others)
                told = [json.loads(other.communicate(timeout=300)[0].splitlines()[-1]) for other in others]
            finally:
                for other in others:
                    other.kill()
                    other.wait()
    peers = [{key: found[key] for key in ("state", "own", "s_per_step", "peak_mb")} for found in (facts, *told)]
    report("one_byte_reviews_peers", peers, [f"{given.peers} peers, {threads} thread(s) each"])
    points = facts["curve"]
    report("one_byte_reviews", points, ["one state on all peers" if len({p["state"] for p in peers}) == 1 else "APART"])
    if given.curve:
        draw(
            given.curve,
            f"{given.peers} peers, one byte a gradient: held-out reviews",
            "records of all peers",
            {
                "cross-entropy": [(point["records"], point["loss"]) for point in points],
                "accuracy": [(point["records"], point["accuracy"]) for point in points],
            },
        )


def join(given: argparse.Namespace) -> None:
    config = NodeConfig(listen=LOOPBACK)
    with p2ptrain.Run.join(given.invite, config=config, home=given.home) as run:
        print(json.dumps(take_part(given, run, 1)))


def take_part(
    given: argparse.Namespace,
    run: p2ptrain.Run,
    threads: int,
    every: int | None = None,
    ready: Callable[[], None] = lambda: None,
) -> dict[str, object]:
    """Train to the run's end; evaluate every so many records, if asked to."""
    torch.set_num_threads(threads)
    reviews = Reviews(given.model, given.data).eval()
    curve: list[dict[str, float]] = []
    with p2ptrain.OneByteSPSA(reviews, reviews.loss, run) as spsa:

        def look() -> None:
            spsa.global_parameters()  # brings the weights back from where the last measurement left them
            loss, accuracy = reviews.evaluate()
            curve.append({"records": spsa.records, "s": round(busy, 1), "loss": round(loss, 4), "accuracy": accuracy})
            print("  ".join(f"{name} {value}" for name, value in curve[-1].items()), file=sys.stderr, flush=True)

        ready()
        spsa.wait_until_ready()
        seed = int.from_bytes(blake3(run.swarm.peer_id.encode()).digest()[:4], "big")
        busy, steps = 0.0, 0
        if every:
            look()
        while not spsa.is_complete:
            began = time.perf_counter()
            spsa.step(reviews.batch(seed, steps, given.batch_size[0]))
            busy, steps = busy + time.perf_counter() - began, steps + 1
            if every and spsa.records - curve[-1]["records"] >= every:
                look()
        spsa.finish(timeout=120)
        if every:
            look()
        state = spsa.save().digest
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
    return {"state": state.hex()[:16], "own": steps, "s_per_step": busy / steps, "peak_mb": peak, "curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["search", "train", "join"])
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-5])
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--clip", type=float, nargs="+", default=[64.0])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[64])
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--peers", type=int, default=2)
    parser.add_argument("--every", type=int, default=250, help="records between two evaluations")
    parser.add_argument("--curve", type=Path, help="SVG file to draw")
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--invite", help=argparse.SUPPRESS)
    given = parser.parse_args()
    {"search": search, "train": train, "join": join}[given.what](given)


if __name__ == "__main__":
    main()
