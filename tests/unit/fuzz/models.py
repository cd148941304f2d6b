"""Random small models: configurations that work, and configurations with one fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

Fields = dict[str, Any]

LLAMA = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "inner": "intermediate_size",
    "positions": "max_position_embeddings",
}
GROUPED = {**LLAMA, "groups": "num_key_value_heads"}
SIZED = {**GROUPED, "size": "head_dim"}
GPT2 = {"width": "n_embd", "layers": "n_layer", "heads": "n_head", "positions": "n_positions"}


@dataclass(frozen=True)
class Family:
    """An architecture of transformers."""

    name: str
    fields: dict[str, str]
    """What its configuration calls the width, the layers, the heads, …"""
    also: Fields = field(default_factory=dict)
    kind: str = "decoder"
    """"decoder", "encoder" or "encoder-decoder"."""
    unused: int = 0
    """Positions that no token can take."""
    classifies: bool = True
    """transformers has a classification head for it. False: some versions have."""


FAMILIES = (
    Family("llama", GROUPED),
    Family("mistral", GROUPED, {"sliding_window": 8}),
    Family("qwen2", GROUPED),
    Family("qwen3", SIZED),
    Family("gemma", SIZED),
    Family("gemma2", SIZED),
    Family("phi", GROUPED),
    Family("phi3", GROUPED, {"pad_token_id": 0}),
    Family("olmo2", GROUPED),
    Family("stablelm", GROUPED),
    Family("starcoder2", GROUPED),
    Family("granite", GROUPED, classifies=False),
    Family("mixtral", GROUPED, {"num_local_experts": 2, "num_experts_per_tok": 1}),
    Family("gpt_neox", LLAMA),
    Family("falcon", {name: LLAMA[name] for name in ("width", "layers", "heads", "positions")}),
    Family("gpt2", GPT2),
    Family("gptj", GPT2, {"rotary_dim": 4}),
    Family("bloom", {"width": "hidden_size", "layers": "n_layer", "heads": "n_head"}),
    Family("mpt", {"width": "d_model", "layers": "n_layers", "heads": "n_heads", "positions": "max_seq_len"}),
    Family("opt", {**LLAMA, "inner": "ffn_dim"}, {"word_embed_proj_dim": None}),
    Family("mamba", {"width": "hidden_size", "layers": "num_hidden_layers"}, {"state_size": 4}, classifies=False),
    Family("modernbert-decoder", LLAMA),
    Family("bert", LLAMA, kind="encoder"),
    Family("roberta", LLAMA, kind="encoder", unused=2),
    Family("electra", LLAMA, {"embedding_size": 8}, kind="encoder"),
    Family("albert", LLAMA, {"embedding_size": 8}, kind="encoder"),
    Family("modernbert", LLAMA, kind="encoder"),
    Family("t5", {"width": "d_model", "layers": "num_layers", "heads": "num_heads"}, kind="encoder-decoder"),
    Family("bart", {"width": "d_model", "layers": "decoder_layers"}, kind="encoder-decoder"),
)
LENGTH = 32
"""Tokens of the runs' sequences."""


@dataclass
class Model:
    """A configuration, and what must come of it."""

    family: Family
    config: Fields
    refused: str | None = None
    """The message must match this pattern; None: it must train."""
    is_open: bool = False
    """It may be refused, too: nobody here knows whether this configuration makes a model."""


def working(random: Random, family: Family) -> Fields:
    """A configuration that makes a model."""
    heads, size = random.choice((1, 2, 4)), random.choice((4, 8))
    groups = random.choice([count for count in (1, 2, 4) if heads % count == 0])
    width = heads * size
    sizes = {
        "width": width,
        "layers": random.choice((1, 2, 3)),
        "heads": heads,
        "groups": groups,
        "size": size,
        "inner": random.choice((8, 16, 12)),
        "positions": random.choice((LENGTH, LENGTH + 1, 100)) + family.unused,
    }
    config = {name: sizes[role] for role, name in family.fields.items()} | family.also
    if "word_embed_proj_dim" in config:
        config["word_embed_proj_dim"] = width
    return config


def _positions(random: Random, model: Model) -> None:
    name = model.family.fields["positions"]
    model.config[name] = random.choice((1, 8, LENGTH - 1))
    model.refused = "sequence_length|positions|does not make"


def _vocabulary(random: Random, model: Model) -> None:
    model.config["vocab_size"] = random.choice((1, 100, 256))
    model.refused = "the tokenizer does not fit the model|does not make"


def _unknown(random: Random, model: Model) -> None:
    model.config[random.choice(("n_leyers", "hiden_size", "x", "learning_rate", "attn"))] = 1
    model.refused = "has no such field"


def _groups(random: Random, model: Model) -> None:
    if "groups" not in model.family.fields:
        return _unknown(random, model)
    model.config[model.family.fields["groups"]] = model.config[model.family.fields["heads"]] + 1
    model.refused = "num_key_value_heads|num_attention_heads|heads"
    return None


def _activation(random: Random, model: Model) -> None:
    name = "activation_function" if model.family.fields is GPT2 else "hidden_act"
    if model.family.name in (
        "falcon",
        "bloom",
        "mpt",
        "mamba",
        "opt",
        "t5",
        "bart",
        "modernbert",
        "modernbert-decoder",
    ):
        return _unknown(random, model)
    model.config[name] = random.choice(("nonsense", "", 3))
    model.refused, model.is_open = "does not make|fails", model.family.name in ("gemma", "gemma2", "starcoder2")
    return None


def _code(random: Random, model: Model) -> None:
    model.config["auto_map"] = {"AutoModelForCausalLM": "nobody/nothing--model.Model"}
    model.refused = "would run code"


def _odd_value(random: Random, model: Model) -> None:
    """A wrong type or a strange number somewhere."""
    role, name = random.choice(list(model.family.fields.items()))
    wrong: tuple[Any, ...] = (
        0,
        -1,
        -(10**6),
        3,
        5,
        7,
        33,
        "32",
        "",
        None,
        2.0,
        1.5,
        True,
        False,
        [],
        [8],
        {},
        {"a": 1},
    )
    if role != "layers":  # so many layers would be made one by one until the memory is full
        wrong += (10**13,) * 2
    model.config[name] = random.choice(wrong)
    model.is_open = True


def _odd_field(random: Random, model: Model) -> None:
    """A strange value of a field that many architectures have."""
    strange: dict[str, tuple[Any, ...]] = {
        "pad_token_id": (None, 0, 256, 257, 10**6, -1, -300, "0"),
        "eos_token_id": (None, [1, 2], 300, -1, "x"),
        "bos_token_id": (0, 300, None),
        "tie_word_embeddings": (True, False, None, "yes"),
        "initializer_range": (0.0, 1e-9, 1e30, -1.0, "0.02", None),
        "rms_norm_eps": (0.0, -1.0, 1e30, "x"),
        "layer_norm_eps": (0.0, -1.0, 1e30),
        "attention_dropout": (0.5, 1.0, 2.0, -0.1, "0"),
        "hidden_dropout_prob": (0.5, 1.0, 2.0),
        "rope_theta": (0.0, -1.0, 1e30, "x"),
        "rope_scaling": ({}, {"type": "nothing"}, {"rope_type": "linear", "factor": 2.0}, "x", []),
        "rope_parameters": ({}, {"rope_type": "dynamic"}, {"rope_type": "default", "rope_theta": 100.0}),
        "layer_types": ([], ["full_attention"], ["nothing"]),
        "use_cache": (False, True, None),
        "is_decoder": (True, False),
        "sliding_window": (0, 1, -1, None, "x"),
        "num_labels": (1, 3, 0),
        "dtype": ("float16", "bfloat16", "nothing", "complex64"),
        "return_dict": (False,),
        "output_hidden_states": (True,),
        "chunk_size_feed_forward": (1, 3, -1),
        "pruned_heads": ({"0": [0]},),
        "problem_type": ("regression", "x"),
        "vocab_size": (257, 258, 1000, "300", 300.0, None, -1),
    }
    name = random.choice(list(strange))
    model.config[name] = random.choice(strange[name])
    model.is_open = True


FAULTS: tuple[Callable[[Random, Model], None], ...] = (
    _positions,
    _vocabulary,
    _unknown,
    _groups,
    _activation,
    _code,
    _odd_value,
    _odd_value,
    _odd_value,
    _odd_field,
    _odd_field,
    _odd_field,
)


def make_model(random: Random, kind: str) -> Model:
    """A model for a task of this kind."""
    family = random.choice(FAMILIES)
    model = Model(family, working(random, family))
    if random.random() < 0.5:
        fault = random.choice(FAULTS)
        fault(random, model) if fault is not _positions or "positions" in family.fields else _unknown(random, model)
    if family.kind == "encoder-decoder":
        model.refused = f"encoder-decoder|{model.refused or 'no such field'}"
    if family.kind == "encoder" and kind != "classification":
        model.refused = f"looks ahead|no model for|{model.refused or 'looks ahead'}"
        if model.config.get("is_decoder") is True:
            model.refused, model.is_open = None, True
    if kind == "classification" and not family.classifies:
        model.is_open = True
    return model
