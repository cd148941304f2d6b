"""Check, before a run is founded or joined, that the model can do the run's task.

The model is tried out. One row of the run's sequence length goes through it, forward and, if the method computes
gradients, backward: that is what a training step takes. A short row shows whether the model looks ahead (`leaks`).
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
import torch

from p2ptrain.errors import DataError, P2PTrainError, SpecError, UsageError
from p2ptrain.parameters import Buffers, check_shareable
from p2ptrain.run import RunSpec
from p2ptrain.run.task import Classification
from p2ptrain.tasks.batch import is_out_of_memory
from p2ptrain.tasks.causal_lm import CausalLM
from p2ptrain.tasks.classification import TextClassification
from p2ptrain.tasks.documents import text_data
from p2ptrain.tasks.leaks import is_loss_of_next_token, look_ahead, padding_changes
from p2ptrain.tasks.reasons import enough_memory, reason
from p2ptrain.tasks.task import Task
from p2ptrain.tasks.tokenizer import Tokenizer, Tokens

SHORT = 32
"""Tokens of the row that shows whether the model looks ahead."""
SHORTEST = 8
"""The smallest sequence length of a run."""
SAMPLE = "The quick brown fox jumps over the lazy dog, 0123456789 times; (then) it sleeps. Who knows why?"
POSITION_FIELDS = ("max_position_embeddings", "max_seq_len")
"""What configurations call the number of positions. transformers maps other names (n_positions) to the first one."""


def check_fit(spec: RunSpec, task: Task, override: str | None = None) -> None:
    """Check that the task's model can be trained. Takes about as long as a training step on one row; changes nothing.

    Args:
        override: the folder that was loaded instead of the pretrained model that the spec names.

    Raises:
        SpecError: the spec's model, tokenizer or sequence length does not fit the task.
        DataError: the pretrained model does not fit it.
        MemoryLimitError: one row does not fit into memory.
    """
    check_sizes(spec, task.model, task.tokenizer)
    trial = _Trial(spec, task, override or spec.model.pretrained)
    with _undisturbed(task), enough_memory("for a batch of one row"):
        if not spec.method.computes_gradients:
            task.model.eval()  # as `OneByteSPSA` does
        trial.check_step()
        trial.check_round_trip()
        task.model.eval()
        trial.check_reading()


def check_sizes(spec: RunSpec, model: torch.nn.Module, tokenizer: Tokenizer) -> None:
    """Compare what the model's configuration says with the tokenizer and the sequence length.

    Raises:
        SpecError: the model embeds fewer tokens or positions.
    """
    data, config = text_data(spec), getattr(model, "config", None)
    embedded = getattr(config, "vocab_size", None)
    if isinstance(embedded, int) and embedded < tokenizer.vocab_size:
        raise SpecError(
            "the tokenizer does not fit the model",
            f"{data.tokenizer!r} has {tokenizer.vocab_size} tokens, the model embeds {embedded}",
            "use the model's own tokenizer, or leave out model.config.vocab_size",
        )
    if (found := _positions(model)) is not None:
        field, count, unused = found
        if count - unused < data.sequence_length:
            why = f" ({unused} of its {count} positions are for padding)" if unused else ""
            _refuse_length(spec, count - unused, why, field)


def _positions(model: torch.nn.Module) -> tuple[str, int, int] | None:
    """(field of the configuration, number of positions, how many of them no token has); None if there is no limit, as
    far as is known.

    RoBERTa and its relatives count positions from behind the padding token's id. So they take fewer tokens than they
    have positions.
    """
    config = getattr(model, "config", None)
    for field in POSITION_FIELDS:
        count = getattr(config, field, None)
        if not isinstance(count, int) or count < 1:  # some say -1 for no limit
            continue
        tables = (table for name, table in model.named_modules() if name.endswith("position_embeddings"))
        padding = (table.padding_idx for table in tables if isinstance(table, torch.nn.Embedding))
        return field, count, max((at + 1 for at in padding if at is not None), default=0)
    return None


def _refuse_length(spec: RunSpec, longest: int, why: str, field: str = "") -> NoReturn:
    steps = [f"set data.sequence_length to {longest} or less"] if longest >= SHORTEST else []
    steps += [f"raise model.config.{field}"] if spec.model.pretrained is None and field else ["use another model"]
    raise SpecError(
        "data.sequence_length is more than the model can take",
        f"it is {text_data(spec).sequence_length} tokens, and the model takes {max(longest, 0)}{why}",
        ", or ".join(steps),
    )


class _Trial:
    """The trial of one model. If it fails, the spec's configuration is wrong, or the pretrained model is."""

    def __init__(self, spec: RunSpec, task: Task, pretrained: str | None) -> None:
        self._spec, self._task, self._model = spec, task, task.model
        self._name = f"the model {pretrained or spec.model.architecture!r}"
        self._error = DataError if pretrained else SpecError
        self._correct = "use another model" if pretrained else "correct [model.config], or use another architecture"
        known = np.unique(task.tokenizer.encode(SAMPLE))  # no special tokens: they may stand for pictures or padding
        self._known = known if len(known) else np.asarray([task.tokenizer.end])

    def _row(self, length: int, seed: int = 0) -> Tokens:
        return np.random.default_rng(seed).choice(self._known, length).astype(np.int32)

    def _refuse(self, what: str, why: str, next_step: str = "") -> NoReturn:
        raise self._error(f"{self._name} {what}", why, next_step or self._correct)

    # What training takes ---------------------------------------------------------------------------------------------

    def check_step(self) -> None:
        """Check what peers share of the model, and take the method's step on one row. A method that computes no
        gradients takes it without a backward pass, which would need memory that training does not need."""
        length, backward = text_data(self._spec).sequence_length, self._spec.method.computes_gradients
        try:
            check_shareable(self._model)
            buffers = Buffers(self._model)
            if not self._task.loss_of_row(self._row(SHORTEST)).requires_grad:
                what = "no parameter that is trained changes the loss"
                raise SpecError(what, "", "choose others with model.trainable or model.lora.targets")
            loss = self._step(length, backward)
            buffers.check()
        except UsageError as error:
            self._refuse("can't be shared by peers", error.brief)
        except Exception as error:  # any: it is the architecture's own code
            if isinstance(error, P2PTrainError) or is_out_of_memory(error):
                raise
            longest = _longest(length, self._works)
            if longest >= SHORTEST:
                _refuse_length(self._spec, longest, f"; with more it fails ({reason(error)})")
            self._refuse("fails on a row of text", _uneven(getattr(self._model, "config", None)) or reason(error))
        if not torch.isfinite(loss):
            self._refuse("computes no finite loss", f"on a row of text it is {float(loss)}")
        for name, parameter in self._model.named_parameters():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                self._refuse("can't be trained", f"the gradient of {name} is not finite")

    def _step(self, length: int, backward: bool) -> torch.Tensor:
        with torch.set_grad_enabled(backward):
            loss = self._task.loss_of_row(self._row(length))
            if backward:
                loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _works(self, length: int) -> bool:
        try:
            self._step(length, False)
        except Exception:  # as in `check_step`
            return False
        return True

    def check_round_trip(self) -> None:
        """Check that what `export` writes can be read again: the configuration, and the weights that it makes."""
        model: Any = self._model
        with tempfile.TemporaryDirectory(prefix="p2ptrain-") as folder:
            try:
                model.config.save_pretrained(folder)
                if model.can_generate():
                    model.generation_config.save_pretrained(folder)
                config = type(model.config).from_pretrained(folder)
                with torch.random.fork_rng(devices=[]), torch.device("meta"):  # no weights are made
                    read = type(model)(config).state_dict()
            except Exception as error:  # as in `check_step`
                self._refuse("could not be loaded from an export", reason(error))
        if self._spec.model.lora is not None:
            return  # an export has the adapters merged into the weights that the configuration makes
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        for name in shapes | read:
            if name not in shapes or name not in read or shapes[name] != read[name].shape:
                self._refuse("could not be loaded from an export", f"its configuration makes other weights {name!r}")

    # What a task asks for --------------------------------------------------------------------------------------------

    def check_reading(self) -> None:
        """Check that the model does not look ahead; in a classification, that it does not look at padding."""
        try:
            if isinstance(self._task, TextClassification) and isinstance(self._spec.task, Classification):
                self._check_padding(self._task, len(self._spec.task.labels))
            else:
                self._check_causality()
        except Exception as error:  # as in `check_step`
            if isinstance(error, P2PTrainError) or is_out_of_memory(error):
                raise
            self._refuse("fails on a short row", reason(error))

    def _check_causality(self) -> None:
        length = min(SHORT, text_data(self._spec).sequence_length)
        tokens = self._row(length)
        row, other = (torch.from_numpy(each).long().to(self._task.device) for each in (tokens, self._row(length, 1)))
        seen, logits = look_ahead(self._model, row, other)
        if seen is not None:
            self._refuse(
                "looks ahead: it sees the tokens that it should predict",
                f"other tokens from number {seen + 1} on change what the model predicts before them",
                self._make_causal(),
            )
        if isinstance(self._task, CausalLM):
            with torch.no_grad():
                loss = self._task.loss_of_row(tokens)
            if not is_loss_of_next_token(loss, logits, row):
                self._refuse("learns to copy", "its own loss is not that of the next token")

    def _make_causal(self) -> str:
        """What to do with a model that looks ahead."""
        instead = "use a model for language modelling, e.g. a llama or a gpt2"
        config: Any = self._model.config
        if self._error is SpecError and getattr(config, "is_decoder", None) is False:
            return f"set model.config.is_decoder = true, or {instead}"
        return instead

    def _check_padding(self, task: TextClassification, labels: int) -> None:
        length = min(SHORT, text_data(self._spec).sequence_length)
        long, short = self._row(length), self._row(length // 2, 1)
        with torch.no_grad():
            alone, both = task.scores([short]), task.scores([long, short])
        if both.shape != (2, labels):
            self._refuse("does not classify texts", f"for 2 texts it gives scores of the shape {tuple(both.shape)}")
        if padding_changes(alone[0], both[1]):
            what, why = "is not made for padded rows", "the scores of a text differ if other texts beside it are longer"
            self._refuse(what, why, "use another architecture")


def _uneven(config: Any) -> str:
    """Which numbers of a configuration do not divide as attention needs it, in words; empty if all do."""
    heads = getattr(config, "num_attention_heads", None)
    for field, whole in (("num_key_value_heads", heads), ("num_attention_heads", getattr(config, "hidden_size", None))):
        part = getattr(config, field, None)
        if isinstance(part, int) and isinstance(whole, int) and part > 0 and whole % part:
            name = "num_attention_heads" if whole is heads else "hidden_size"
            return f"{field} = {part} does not divide {name} = {whole}"
    return ""


def _longest(length: int, works: Callable[[int], bool]) -> int:
    """The largest number of tokens, below `length`, that works; 0 if none does."""
    least, most = 0, length  # `least` works, `most` does not
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if works(middle) else (least, middle)
    return least


@contextlib.contextmanager
def _undisturbed(task: Task) -> Iterator[None]:
    """Afterwards the model has its modes and no gradients, and the random generators are where they were."""
    modes = [(module, module.training) for module in task.model.modules()]
    try:
        with torch.random.fork_rng(devices=[task.device] if task.device.type == "cuda" else []):
            yield
    finally:
        task.model.zero_grad(set_to_none=True)
        for module, mode in modes:
            module.training = mode
