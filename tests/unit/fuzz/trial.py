"""Play a trial through the product, and compare with what must happen."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from p2ptrain.errors import P2PTrainError
from p2ptrain.tasks import open_task
from p2ptrain.tasks.examples import Example
from p2ptrain.tasks.task import Task
from p2ptrain.tasks.tokenizer import ByteTokenizer, Tokens
from tests.unit.fuzz.expect import Expected, Said, expect
from tests.unit.fuzz.scenario import Trial, make_trial
from tests.unit.fuzz.truth import REFUSALS, kind_of

DRAWN = 4000
"""After so many batches, every row of a small table was drawn."""
EVALUATED = 300


class Diverged(AssertionError):
    """The loss is not finite. A peer ends with exit code 9 then."""


class Recorder(ByteTokenizer):
    """A tokenizer that remembers what it has read."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, text: str) -> Tokens:
        self.texts.append(text)
        return super().encode(text)


def play(seed: int, folder: Path) -> str:
    """Play the trial with this seed; return how it ended.

    Raises:
        AssertionError: it ended wrongly. Every other error is a fault of the product, too.
    """
    random = Random(seed)
    folder.mkdir(parents=True)
    try:
        trial = make_trial(random, folder)
        expected = expect(trial)
    except Exception as error:
        raise RuntimeError(f"the trial with the seed {seed} could not be made") from error
    try:
        return _play(trial, expected, random, folder)
    except Exception as error:
        error.add_note(
            f"seed {seed}: {trial.about}\nmust be refused for {expected.refused}, may for {expected.doubtful}"
        )
        raise


def _play(trial: Trial, expected: Expected, random: Random, folder: Path) -> str:
    try:
        task = open_task(trial.spec, trial.options)
        recorder = task.tokenizer = Recorder()
        task.load_data(random.getrandbits(128))
        at_start, recorder.texts = recorder.texts, []
        train(task)
    except P2PTrainError as error:
        check_refusal(error, expected)
        return "refused"
    assert not expected.refused, "it was not refused"
    _check_counts(task, trial, expected)
    data, is_text = trial.spec.data, trial.form == "txt"
    if is_text and not getattr(data, "streaming", False):
        _check_documents(at_start, trial)
    elif is_text and not expected.training:
        return "trained"  # nobody here knows where long texts are cut
    elif trial.spec.task.kind == "language-modelling":
        _check_texts(task, recorder, at_start, expected)
    else:
        _check_examples(task, expected)
    if random.random() < 0.1:
        check_export(task, folder.parent / f"{folder.name}-export", trial.spec.task.kind == "classification")
    return "trained"


def train(task: Task) -> None:
    """Two steps, as a peer makes them, and an evaluation."""
    for index in range(2):
        task.prepare()
        loss = task.loss(index)
        if not math.isfinite(loss.item()):
            raise Diverged(f"the loss of batch {index} is not finite")
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in task.model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad
        task.model.zero_grad()
    if len(task.rows.held_out) < EVALUATED:
        evaluation = task.evaluate(dict(task.model.named_parameters()))
        assert math.isfinite(evaluation.loss)


def check_refusal(error: P2PTrainError, expected: Expected) -> None:
    """An error is right if the trial has a fault of that kind, and if it says so."""
    told = str(error)
    assert error.exit_code in (3, 7), f"exit code {error.exit_code}: {told}"
    assert error.what, told
    assert error.next_step, f"no next step: {told}"
    assert not re.search(r"Traceback|object at 0x|<class", told), told
    kinds = {*expected.refused, *expected.doubtful}
    assert any(re.search(REFUSALS[kind], told) for kind in kinds), f"refused for another reason: {told}"
    if len(kinds) == 1:
        named = expected.refused.get(next(iter(kinds)), "")
        assert named in told, f"{named} is not named: {told}"


def _check_counts(task: Task, trial: Trial, expected: Expected) -> None:
    read, truth = task.read, trial.truth
    told = "\n".join(read.told)
    assert read.is_whole
    assert read.used + read.left_out.total() == read.rows
    if trial.form != "txt":
        assert read.rows == len(truth.rows), (read, truth.left_out, len(truth.rows))
    found = Counter[str]()
    for fault, count in read.left_out.items():
        found[kind_of(fault.reason)] += count
        assert f"{count:,} of" in told
        assert fault.reason in told
        assert fault.next_step
    assert found == truth.left_out
    assert read.replaced == truth.replaced
    assert ("replaced" in told) == bool(truth.replaced)
    for note in truth.notes:
        assert note in told
    for count, words in ((expected.repeated, "the same as another row"), (expected.cut, "are cut")):
        line = next((line for line in read.told if words in line), "0 rows")
        assert int(line.split()[0].replace(",", "")) == count, told


def _check_texts(task: Task, recorder: Recorder, at_start: list[str], expected: Expected) -> None:
    """Language modelling on tables: the start reads all that is held out, and training reads all the rest."""
    assert Counter(at_start) == Counter(expected.held_out)
    for index in range(2, DRAWN):
        if set(recorder.texts) >= expected.training:
            break
        task.batch(index)
    assert set(recorder.texts) == expected.training


def _check_examples(task: Task, expected: Expected) -> None:
    held_out = Counter(map(_as_said, task.rows.held_out))
    assert held_out == Counter(expected.held_out)
    drawn = set[Said]()
    for index in range(2, DRAWN):
        if drawn >= expected.training:
            break
        drawn |= set(map(_as_said, task.rows.batch(index, 16)))
    assert drawn == expected.training


def _as_said(example: Example) -> Said:
    return Said(example.text, example.completions, example.label)


def _check_documents(read: list[str], trial: Trial) -> None:
    """The documents of text files, laid end to end, are the files. Those that are held out were read last."""
    wanted = "".join(trial.truth.documents)
    assert sum(map(len, read)) == len(wanted), "characters were lost"

    assert any(_are_merged(wanted, read[:border], read[border:]) for border in range(len(read) + 1)), "others were read"


def _are_merged(wanted: str, first: list[str], second: list[str]) -> bool:
    """Whether a text is made of the parts of two lists, each in its order."""
    reached = {(0, 0, 0)}
    for _ in range(len(first) + len(second)):
        steps = {
            (i + 1, j, at + len(first[i])) for i, j, at in reached if i < len(first) and wanted.startswith(first[i], at)
        }
        reached = steps | {
            (i, j + 1, at + len(second[j]))
            for i, j, at in reached
            if j < len(second) and wanted.startswith(second[j], at)
        }
    return bool(reached)


def check_export(task: Task, folder: Path, classifies: bool) -> None:
    """transformers loads what was exported, with the same weights."""
    import transformers

    weights = {name: tensor.detach().clone() for name, tensor in task.model.named_parameters()}
    task.export(weights, folder)
    library: Any = transformers
    loader = library.AutoModelForSequenceClassification if classifies else library.AutoModelForCausalLM
    loaded = dict(loader.from_pretrained(folder).named_parameters())
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name].float(), weights[name].float()) for name in weights)
    ids = library.AutoTokenizer.from_pretrained(folder)("aä").input_ids
    assert np.array_equal(ids, ByteTokenizer().encode("aä"))
