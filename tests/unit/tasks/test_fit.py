"""Whether a model can do a run's task is found out before anything is founded, and said in one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from p2ptrain.errors import DataError, MemoryLimitError, SpecError
from p2ptrain.run import RunSpec
from p2ptrain.tasks import LocalOptions, open_task
from p2ptrain.tasks.causal_lm import CausalLM
from p2ptrain.tasks.fit import check_fit
from p2ptrain.tasks.model import count_parameters
from tests.unit.tasks.samples import (
    CLASSIFICATION,
    COMPLETION,
    TINY_LLAMA,
    example_spec,
    framing_tokenizer,
    opened,
    refusal,
    tiny_spec,
)

SPSA = {"name": "spsa", "lr": 1e-3, "epsilon": 1e-3, "clip": 8.0}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
TINY: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": 8, "n_layer": 1, "n_head": 2},
    "electra": {**TINY_LLAMA, "embedding_size": 8},
    "gemma": {**TINY_LLAMA, "head_dim": 4, "num_key_value_heads": 1},
    "gpt_neo": {"hidden_size": 8, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]},
    "fnet": {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 16},
    "gptj": {"n_embd": 8, "n_head": 2, "n_layer": 1},
    "reformer": {"hidden_size": 8},
    "mamba": {"hidden_size": 8, "num_hidden_layers": 1, "state_size": 4},
    "mixtral": {**TINY_LLAMA, **EXPERTS, "num_key_value_heads": 1},
    "mpt": {"d_model": 8, "n_layers": 1, "n_heads": 2, "max_seq_len": 64},
    "opt": {
        "hidden_size": 8,
        "ffn_dim": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "word_embed_proj_dim": 8,
    },
    "qwen3": {**TINY_LLAMA, "head_dim": 4, "num_key_value_heads": 1},
    "xlm": {"emb_dim": 8, "n_layers": 1, "n_heads": 2},
    "xlnet": {"d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 16, "d_head": 4},
    "trocr": {"d_model": 8, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16},
    "albert": {**TINY_LLAMA, "embedding_size": 8},
    "distilbert": {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16},
}
DECODERS = ["bloom", "gemma", "gpt2", "gpt_neo", "gpt_neox", "llama", "mamba", "mixtral", "modernbert-decoder", "mpt"]
DECODERS += ["opt", "phi", "qwen3"]
ENCODERS = ["albert", "bert", "distilbert", "electra", "modernbert", "roberta"]


def spec_of(architecture: str, method: dict[str, Any] | None = None, length: int = 32, **config: Any) -> RunSpec:
    known = {} if architecture in ("llama", "gpt2", "bert") else TINY.get(architecture, TINY_LLAMA)
    data = {"source": "stdlib-python", "sequence_length": length}
    spec = tiny_spec(architecture, data=data, **{**known, **config})
    return RunSpec.model_validate({**spec.model_dump(), "method": method}) if method else spec


def classifying(folder: Path, architecture: str, **config: Any) -> RunSpec:
    known = {} if architecture in ("llama", "gpt2", "bert") else TINY.get(architecture, TINY_LLAMA)
    return example_spec(folder, CLASSIFICATION, architecture=architecture, **{**known, **config})


# Architectures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", DECODERS)
def test_a_decoder_fits_language_modelling(architecture: str) -> None:
    spec = spec_of(architecture)
    task = opened(spec)
    assert count_parameters(spec)[0] == sum(parameter.numel() for parameter in task.model.parameters())


@pytest.mark.parametrize("architecture", ["bert", "electra", "roberta"])
def test_an_encoder_looks_ahead_unless_it_is_made_a_decoder(architecture: str) -> None:
    error = refusal(spec_of(architecture))
    assert "looks ahead" in error.what
    assert "model.config.is_decoder = true" in error.next_step
    opened(spec_of(architecture, is_decoder=True))


@pytest.mark.parametrize(
    ("architecture", "problem"), [("xlm", "looks ahead"), ("xlnet", "looks ahead"), ("trocr", "copy")]
)
def test_other_models_that_do_not_predict_the_next_token_are_refused(architecture: str, problem: str) -> None:
    assert problem in refusal(spec_of(architecture)).what


def test_a_decoder_that_is_told_to_look_both_ways_is_refused() -> None:
    both_ways = spec_of("gemma3_text", head_dim=4, num_key_value_heads=1, use_bidirectional_attention=True)
    assert "looks ahead" in refusal(both_ways).what


def test_an_encoder_looks_ahead_in_a_one_byte_run_and_in_completions_too(tmp_path: Path) -> None:
    assert "looks ahead" in refusal(spec_of("bert", SPSA)).what
    assert "looks ahead" in refusal(example_spec(tmp_path, COMPLETION, architecture="bert")).what
    opened(example_spec(tmp_path, COMPLETION))


def test_a_folder_with_a_masked_language_model_is_refused(tmp_path: Path) -> None:
    spec = spec_of("bert")
    with pytest.raises(SpecError):
        opened(spec)
    task = open_task(spec, LocalOptions(device="cpu"), trains=False)
    task.export({}, tmp_path / "bert")
    error = refusal(tiny_spec(pretrained=str(tmp_path / "bert")), DataError)
    assert f"the model {str(tmp_path / 'bert')!r} looks ahead" in error.what
    assert "is_decoder" not in error.next_step, "the spec can't set it"
    assert (
        "looks ahead" in refusal(tiny_spec(pretrained="nobody/has-this"), DataError, model=str(tmp_path / "bert")).what
    )


@pytest.mark.parametrize("architecture", [*ENCODERS, "gpt2", "llama", "gemma"])
def test_encoders_and_decoders_classify(tmp_path: Path, architecture: str) -> None:
    opened(classifying(tmp_path, architecture))


@pytest.mark.parametrize("architecture", ["xlnet", "fnet"])
def test_a_classifier_that_reads_padding_is_refused(tmp_path: Path, architecture: str) -> None:
    error = refusal(classifying(tmp_path, architecture))
    assert "padded rows" in error.what


# Configurations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "config", "told"),
    [
        ("llama", {"hidden_size": 33}, "33"),
        ("llama", {"hidden_size": "32"}, "hidden_size"),
        ("llama", {"num_key_value_heads": 3}, "num_key_value_heads = 3 does not divide num_attention_heads = 2"),
        ("llama", {"num_hidden_layers": None}, "num_hidden_layers"),
        ("llama", {"hidden_act": 5}, "hidden_act"),
        ("llama", {"rms_norm_eps": "small"}, "rms_norm_eps"),
        ("llama", {"rope_parameters": {"rope_type": "nonsense"}}, "nonsense"),
        ("gptj", {"initializer_range": 1e39}, ""),
        ("llama", {"rms_norm_eps": -5.0}, "nan"),
        ("llama", {"pad_token_id": 400}, ""),
        ("llama", {"head_dim": 0}, ""),
        ("llama", {"num_attention_heads": 0}, ""),
        ("qwen3", {"layer_types": ["full_attention"]}, "layer_types"),
        ("qwen3", {"layer_types": ["full_attention", "no_attention"]}, "layer_types"),
        ("gpt2", {"n_head": 3}, "3"),
        ("gpt2", {"n_layer": "two"}, "n_layer"),
        ("gpt2", {"activation_function": "none"}, "none"),
        ("gpt_neo", {"attention_types": [[["global"], 5]]}, ""),
        ("gptj", {"rotary_dim": 64}, ""),
        ("mamba", {"conv_kernel": 0}, ""),
        ("mamba", {"hidden_size": 0}, ""),
        ("mixtral", {"num_experts_per_tok": 5}, ""),
        ("bert", {"is_decoder": True, "hidden_size": 9}, "9"),
        ("reformer", {}, ""),
    ],
)
def test_a_configuration_that_makes_no_working_model_is_one_clear_error(
    architecture: str, config: dict[str, Any], told: str
) -> None:
    error = refusal(spec_of(architecture, **config))
    assert told in error.brief
    assert error.why


@pytest.mark.parametrize("config", [{"hidden_size": "32"}, {"hidden_size": 33}, {"num_attention_heads": 0}])
def test_parameters_of_a_wrong_configuration_can_not_be_counted(config: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="does not make a llama"):
        count_parameters(spec_of("llama", **config))


@pytest.mark.parametrize(
    ("architecture", "config", "most"),
    [
        ("gpt2", {"n_positions": 31}, 31),
        ("llama", {"max_position_embeddings": 31}, 31),
        ("mpt", {"max_seq_len": 31}, 31),
        ("opt", {"max_position_embeddings": 31}, 31),
        ("bert", {"is_decoder": True, "max_position_embeddings": 31}, 31),
        ("roberta", {"is_decoder": True, "max_position_embeddings": 32}, 31),  # 1: the padding token's id is 0
        ("roberta", {"is_decoder": True, "max_position_embeddings": 33, "pad_token_id": 1}, 31),
    ],
)
def test_a_row_longer_than_the_positions_is_refused_and_the_longest_one_is_not(
    architecture: str, config: dict[str, Any], most: int
) -> None:
    error = refusal(spec_of(architecture, **config))
    assert error.what == "data.sequence_length is more than the model can take"
    assert f"the model takes {most}" in error.why
    assert f"set data.sequence_length to {most} or less" in error.next_step
    opened(spec_of(architecture, length=most, **config))


def test_minus_one_position_is_no_limit() -> None:
    opened(spec_of("llama", max_position_embeddings=-1))
    refusal(spec_of("gpt2", n_positions=-1))


def test_a_padding_token_is_given_to_architectures_that_need_one_only(tmp_path: Path) -> None:
    assert opened(spec_of("modernbert-decoder")).model.config.pad_token_id == 0
    assert opened(spec_of("roberta", is_decoder=True)).model.config.pad_token_id == 0
    assert opened(spec_of("llama")).model.config.pad_token_id is None
    framing_tokenizer(tmp_path)  # it has none
    data = {"source": "stdlib-python", "sequence_length": 32, "tokenizer": str(tmp_path)}
    error = refusal(tiny_spec("modernbert-decoder", data=data, **TINY_LLAMA))
    assert "model.config.pad_token_id" in error.next_step


# The trial itself ----------------------------------------------------------------------------------------------------


def test_a_trial_leaves_no_trace() -> None:
    spec = spec_of("gpt2")
    task = open_task(spec, LocalOptions(device="cpu"), trains=False)
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    task.model.train()
    task.model.transformer.drop.eval()
    torch.manual_seed(3)
    check_fit(spec, task)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    assert [name for name, module in task.model.named_modules() if not module.training] == ["transformer.drop"]
    assert all(parameter.grad is None for parameter in task.model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.model.state_dict().items())


class _Recording(CausalLM):
    """Counts what each loss was computed for."""

    def loss_of_row(self, tokens: Any) -> torch.Tensor:
        self.tried.append((len(tokens), torch.is_grad_enabled(), self.model.training))
        return super().loss_of_row(tokens)


@pytest.mark.parametrize(("method", "whole"), [(None, (48, True, True)), (SPSA, (48, False, False))])
def test_a_method_without_gradients_is_tried_without_a_backward_pass(
    method: dict[str, Any] | None, whole: tuple[int, bool, bool]
) -> None:
    spec = spec_of("gpt2", method, length=48)
    task = _Recording(spec, LocalOptions(device="cpu"))
    task.tried = []
    check_fit(spec, task)
    assert [each for each in task.tried if each[0] == 48] == [whole]


class _Failing(CausalLM):
    error: Exception = RuntimeError("out of memory")

    def loss_of_row(self, tokens: Any) -> torch.Tensor:
        if len(tokens) > 20:
            raise self.error
        return super().loss_of_row(tokens)


def test_a_row_that_does_not_fit_into_memory_is_no_fault_of_the_spec() -> None:
    spec = spec_of("gpt2")
    with pytest.raises(MemoryLimitError, match="not enough memory for a batch of one row"):
        check_fit(spec, _Failing(spec, LocalOptions(device="cpu")))


def test_a_limit_that_no_field_names_is_found_by_trying() -> None:
    spec, failing = spec_of("gpt2"), type("_Short", (_Failing,), {"error": IndexError("index out of range in self")})
    with pytest.raises(SpecError, match="sequence_length is more than the model can take") as refused:
        check_fit(spec, failing(spec, LocalOptions(device="cpu")))
    assert refused.value.why.startswith("it is 32 tokens, and the model takes 20; with more it fails (IndexError")


class _Aside(CausalLM):
    def loss_of_row(self, tokens: Any) -> torch.Tensor:
        return super().loss_of_row(tokens).detach()


def test_trained_parameters_that_change_no_loss_are_refused() -> None:
    spec = spec_of("gpt2")
    with pytest.raises(SpecError, match="no parameter that is trained changes the loss"):
        check_fit(spec, _Aside(spec, LocalOptions(device="cpu")))


def test_adapters_and_parts_of_a_model_are_tried_too(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    lora = {"lora": {"rank": 2, "alpha": 4, "targets": ["q_proj"]}}
    opened(tiny_spec(model=lora))
    opened(tiny_spec(model={"trainable": ["*.layers.1.*"]}))
    query = {"lora": {"rank": 2, "alpha": 4, "targets": ["query"]}}
    assert "looks ahead" in refusal(tiny_spec("bert", model=query)).what
    opened(example_spec(tmp_path, CLASSIFICATION, model=lora))


def test_statistics_that_training_changes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of("gpt2")
    task = open_task(spec, LocalOptions(device="cpu"), trains=False)
    task.model.transformer.drop = torch.nn.Sequential(task.model.transformer.drop, torch.nn.BatchNorm1d(32))
    task.model.train()
    with pytest.raises(SpecError, match="can't be shared by peers") as refused:
        check_fit(spec, task)
    assert "running_mean" in refused.value.why
