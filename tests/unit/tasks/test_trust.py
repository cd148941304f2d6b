"""No code that a run names is run: each of these would leave a file behind if it were."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import DataError, SpecError
from p2ptrain.tasks.model import build_model, count_parameters, exported_parameters
from p2ptrain.tasks.tokenizer import ByteTokenizer, load_tokenizer
from p2ptrain.tasks.trust import BRINGS_CODE, code_in
from tests.unit.tasks.samples import tiny_spec

BYTES = ByteTokenizer()
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its tokenizer that bring no code."""
    folder = tmp_path_factory.mktemp("model")
    build_model(tiny_spec(), BYTES).save_pretrained(folder)
    BYTES.save(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What code that runs writes."""
    return tmp_path / "the code has run"


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers asks whether it may run code where nobody has told it."""

    def ask(prompt: str = "") -> str:
        raise AssertionError(prompt)

    monkeypatch.setattr(builtins, "input", ask)


def write_code(path: Path, marker: Path, *classes: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"import pathlib\npathlib.Path({str(marker)!r}).write_text('ran')\n"
        + "".join(f"class {name}:\n    pass\n" for name in classes)
    )


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def loads(folder: Path) -> list[Callable[[], Any]]:
    """All ways in which a folder becomes a model."""
    return [
        lambda: build_model(tiny_spec(pretrained=str(folder)), BYTES),
        lambda: build_model(tiny_spec(pretrained="nobody/has-this"), BYTES, override=str(folder)),
        lambda: count_parameters(tiny_spec(pretrained=str(folder))),
        lambda: exported_parameters(tiny_spec(), folder),
    ]


def assert_refused(load: Callable[[], Any], marker: Path, *words: str) -> None:
    with pytest.raises(DataError, match="wants code of its own to be run") as refused:
        load()
    assert all(word in refused.value.why for word in words), refused.value.why
    assert "no code from the network" in refused.value.next_step
    assert not marker.exists()


# Models --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["llama", "its-own"])
def test_a_model_that_brings_its_class_is_refused(folder: Path, marker: Path, model_type: str) -> None:
    write_code(folder / "modeling_x.py", marker, "Config", "Model")
    classes = {"AutoConfig": "modeling_x.Config", "AutoModelForCausalLM": "modeling_x.Model"}
    change(folder / "config.json", model_type=model_type, auto_map=classes)
    for load in loads(folder):
        assert_refused(load, marker, "auto_map", "config.json")


def test_a_model_that_brings_its_way_to_generate_is_refused(folder: Path, marker: Path) -> None:
    write_code(folder / "custom_generate" / "generate.py", marker, "generate")
    for load in loads(folder):
        assert_refused(load, marker, "custom_generate")


def test_a_model_whose_attention_is_fetched_from_a_repository_is_refused(folder: Path, marker: Path) -> None:
    for said in ("kernels-community/flash-attn2", "somebody/attention@v1:forward", {"": "somebody/attention"}):
        change(folder / "config.json", attn_implementation=said)
        for load in loads(folder):
            assert_refused(load, marker, "attn_implementation", "a repository whose code would be fetched")


def test_quantized_weights_are_refused(folder: Path, marker: Path) -> None:
    change(folder / "config.json", quantization_config={"quant_method": "mxfp4"})
    for load in loads(folder):
        assert_refused(load, marker, "quantization_config")


def test_an_adapter_is_no_model(folder: Path) -> None:
    """transformers would load the model that the adapter names, which nobody has been told of."""
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/else"}))
    for load in loads(folder):
        with pytest.raises(DataError, match="is an adapter, not a model"):
            load()


def test_what_is_only_mentioned_is_no_reason_to_refuse(folder: Path) -> None:
    change(
        folder / "config.json",
        auto_map={},
        quantization_config=None,
        trust_remote_code=False,
        attn_implementation="sdpa",
    )
    for load in loads(folder):
        load()


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [False, True])
def test_pickled_weights_can_hold_nothing_but_weights(folder: Path, marker: Path, zipped: bool) -> None:
    import torch

    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.is_dir(), "this is how it would run"
    marker.rmdir()
    (folder / "model.safetensors").unlink()
    if zipped:
        torch.save({"x": Payload(marker)}, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Payload(marker)}, protocol=2))
    with pytest.raises(DataError, match="can't load the model") as refused:
        build_model(tiny_spec(pretrained=str(folder)), BYTES)
    assert "Weights only load failed" in refused.value.why
    assert not marker.exists()


def test_pickled_weights_that_are_weights_are_loaded(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    model = build_model(tiny_spec(pretrained=str(folder)), BYTES)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize("content", ["[]", "{", '"text"', '{"model_type": []}', "[" * 100_000])
def test_a_malformed_configuration_is_one_clear_error(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(DataError, match="can't load the model"):
        build_model(tiny_spec(pretrained=str(folder)), BYTES)


# The configuration in a spec -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("llama", {"auto_map": {"AutoModelForCausalLM": "somebody/repo--file.Class"}}),
        ("llama", {"trust_remote_code": True}),
        ("llama", {"attn_implementation": "kernels-community/flash-attn2"}),
        ("llama", {"_attn_implementation": "somebody/attention"}),
        ("llama", {"_attn_implementation_internal": "somebody/attention"}),
        ("mixtral", {"experts_implementation": "somebody/experts"}),
        ("llama", {"use_kernels": True}),
        ("llama", {"kernel_config": {"RMSNorm": "somebody/repo:Layer"}}),
        ("llama", {"quantization_config": {"quant_method": "fbgemm_fp8"}}),
        ("gemma3", {"vision_config": {"model_args": {"checkpoint_path": "x.pth"}}}),
        ("gemma3", {"vision_config": {"auto_map": {"AutoModel": "somebody/repo--file.Class"}}}),
        ("gemma3", {"text_config": {"attn_implementation": "somebody/attention"}}),
        ("gemma3", {"text_config": {"layers": [{"attn_implementation": {"": "somebody/attention"}}]}}),
    ],
)
def test_a_spec_can_not_name_code(architecture: str, config: dict[str, Any]) -> None:
    spec = tiny_spec(architecture, **config)
    for load in (lambda: build_model(spec, BYTES), lambda: count_parameters(spec)):
        with pytest.raises(SpecError, match="would run code from elsewhere") as refused:
            load()
        assert "don't join" in refused.value.next_step


def test_the_parts_of_a_composite_model_run_no_code_either(marker: Path, tmp_path: Path) -> None:
    """transformers builds them without being told about code, and then asks on the terminal."""
    from p2ptrain.tasks.trust import transformers_without_code

    write_code(tmp_path / "repository" / "x.py", marker, "X")
    library = transformers_without_code()
    named = {"model_type": "encoder-decoder", "auto_map": {"AutoModel": f"{tmp_path / 'repository'}--x.X"}}
    config = library.AutoConfig.for_model("gemma3", vision_config=named)
    with pytest.raises(ValueError, match="custom code"):
        library.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    assert not marker.exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=5), part, max_size=3),
    max_leaves=10,
)


@given(
    st.lists(st.one_of(st.text(max_size=5), st.integers(0, 2)), max_size=30), st.sampled_from(sorted(BRINGS_CODE)), JSON
)
def test_a_key_is_found_at_any_depth(path: list[str | int], key: str, beside: Any) -> None:
    fields: Any = {key: {"any": "thing"}}
    for step in path:
        fields = {step: fields, "beside": beside} if isinstance(step, str) else [beside] * step + [fields]
    found = code_in(fields)
    assert found is not None
    assert found[0].endswith(key)


@given(JSON)
def test_other_values_hold_no_code(fields: Any) -> None:
    assert code_in(fields) is None


# Kernels -------------------------------------------------------------------------------------------------------------

KERNELS = """
import pathlib
def get_kernel(*args, **kwargs):
    pathlib.Path({marker!r}).write_text("fetched")
    raise SystemExit("fetched")
class _Any:
    def __init__(self, *args, **kwargs): pass
CUDAProperties = Device = KernelizeFallback = LayerRepository = LocalLayerRepository = Mode = ROCMProperties = _Any
def _same(*args, **kwargs):
    return lambda cls: cls
register_kernel_mapping = replace_kernel_forward_from_hub = use_kernel_mapping = kernelize = _same
use_kernel_forward_from_hub = use_kernelized_func = _same
"""
LOAD = """
import sys
folder, guarded = sys.argv[1:]
if guarded == "guarded":
    from p2ptrain.tasks.trust import transformers_without_code
    transformers_without_code()
from transformers import AutoModelForCausalLM
try:
    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize("guarded", [True, False])
def test_no_kernel_is_fetched_where_the_kernels_library_is_installed(
    folder: Path, marker: Path, tmp_path: Path, guarded: bool
) -> None:
    """transformers fetches and runs one although trust_remote_code is False: then only its absence helps. Were the
    configuration not looked at (a newer transformers may know other keys), this is what still holds."""
    site = tmp_path / "site"
    (site / "kernels" / "layer").mkdir(parents=True)
    (site / "kernels" / "__init__.py").write_text(KERNELS.format(marker=str(marker)))
    (site / "kernels" / "layer" / "__init__.py").write_text("")
    (site / "kernels" / "layer" / "mode.py").write_text("class Mode: pass")
    about = site / f"kernels-{_version_of_kernels()}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kernels\nVersion: {_version_of_kernels()}\n")
    change(folder / "config.json", attn_implementation="kernels-community/attention")
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOAD), str(folder), "guarded" if guarded else "as it is"],
        env={**os.environ, "PYTHONPATH": f"{site}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert marker.exists() is not guarded, result.stderr
    if guarded:
        assert "`kernels` is either not installed" in result.stdout


def _version_of_kernels() -> str:
    from transformers.utils import import_utils

    return str(import_utils.KERNELS_MIN_VERSION)


# Tokenizers ----------------------------------------------------------------------------------------------------------


def test_a_tokenizer_that_brings_its_class_is_refused(folder: Path, marker: Path) -> None:
    write_code(folder / "tokenization_x.py", marker, "Tokenizer")
    for classes in ({"AutoTokenizer": ["tokenization_x.Tokenizer", None]}, ["tokenization_x.Tokenizer", None]):
        change(folder / "tokenizer_config.json", auto_map=classes)
        assert_refused(lambda: load_tokenizer(str(folder)), marker, "auto_map", "tokenizer_config.json")
