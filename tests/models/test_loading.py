"""Names become models; what is no model that burnish can train is refused with a message that says why."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from burnish.errors import ModelError
from burnish.models import hub
from burnish.models.catalog import CATALOG, materialise
from burnish.models.loading import NO_CONTEXT_LIMIT, context_length, load_model, resolve_model

from .families import FAMILIES, tiny, tiny_config, tiny_tokenizer

Change = Callable[[Path], None]
N_TOKENS = len(tiny_tokenizer())
IDS = torch.tensor([[1, 40, 7, 90, 200, 33, 61, 8, 77]])


def save(model: PreTrainedModel, directory: Path, **options: Any) -> Path:
    """A model directory with the tiny tokenizer."""
    model.save_pretrained(directory, **options)
    tiny_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save(tiny("llama", vocab_size=N_TOKENS), tmp_path / "llama")


def edit(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None takes a key away."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def refused(model: str | Path) -> str:
    """The message with which `load_model` refuses."""
    with pytest.raises(ModelError) as caught:
        load_model(str(model), dtype=torch.float32)
    return str(caught.value)


# --- what loads


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_from_its_directory_and_computes_the_same(family: str, tmp_path: Path) -> None:
    # More rows than tokens, as many models have; transformers gives every tokenizer of a Qwen2 model one token more.
    model = tiny(family, vocab_size=N_TOKENS + 3)
    loaded = load_model(str(save(model, tmp_path)), dtype=torch.float32)
    assert type(loaded.model) is type(model)
    assert not loaded.model.training
    assert loaded.context_length == 256
    assert loaded.source.kind == "directory"
    assert loaded.source.adapter is None
    assert loaded.attn_implementation == ("eager" if family == "gemma2" else "sdpa")
    assert loaded.notices == ()
    assert loaded.tokenizer("the answer")["input_ids"] == tiny_tokenizer()("the answer")["input_ids"]
    tied = loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    assert tied == model.config.tie_word_embeddings
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(IDS).logits, model(IDS).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_come_in_the_dtype_that_was_asked_for(llama: Path, dtype: torch.dtype) -> None:
    loaded = load_model(str(llama), dtype=dtype)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {dtype}


def test_weights_in_several_shards_load_and_a_missing_shard_is_named(tmp_path: Path) -> None:
    model = tiny("llama", vocab_size=N_TOKENS)
    save(model, tmp_path, max_shard_size="30KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    loaded = load_model(str(tmp_path), dtype=torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.model.parameters(), strict=True))
    shards[1].unlink()
    assert f"where: {shards[1]}" in refused(tmp_path)


def test_loading_shows_no_progress_bar_and_leaves_the_setting_as_it_was(
    llama: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    assert logging.is_progress_bar_enabled()
    load_model(str(llama), dtype=torch.float32)
    assert logging.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")


def test_a_model_that_states_no_length_takes_the_tokenizers_or_none() -> None:
    tokenizer = tiny_tokenizer()
    assert context_length(tiny_config("gpt2"), tokenizer) == 256
    config = BloomConfig()  # ALiBi: no position embeddings
    assert context_length(config, tokenizer) == 256  # the tokenizer's model_max_length
    tokenizer.model_max_length = int(1e30)
    assert context_length(config, tokenizer) == NO_CONTEXT_LIMIT


# --- names


@pytest.mark.parametrize("name", list(CATALOG))
def test_names_of_the_catalog_come_first(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    source = resolve_model(name)
    assert (source.kind, source.id, str(source)) == ("catalog", name, name)


def test_hub_ids_may_name_a_revision() -> None:
    source = resolve_model("openai-community/gpt2@v1.0")
    assert (source.kind, source.id, source.revision) == ("hub", "openai-community/gpt2", "v1.0")
    assert resolve_model("openai-community/gpt2").revision is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gemma-3-270", "did you mean 'gemma-3-270m'?"),
        ("smollm2-135m", "did you mean 'smollm2-135m-instruct'?"),
        ("gpt2", "openai-community/gpt2"),
        ("", "unknown model ''"),
        ("./nowhere", "no such directory: ./nowhere"),
        ("/nowhere/at/all", "no such directory"),
        ("runs/sft/final", "no such directory: runs/sft/final"),
        ("openai:http://localhost:8000#m", "is an endpoint"),
    ],
)
def test_a_name_that_means_nothing_is_answered_with_a_suggestion(name: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve_model(name)
    assert said in str(caught.value)


def test_resolving_does_not_import_torch_or_transformers() -> None:
    script = (
        "import sys; from burnish.models.loading import resolve_model; resolve_model('gemma-3-270m');"
        "print(*({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


# --- what is refused


def test_a_directory_without_a_model_says_so_and_points_at_the_model_inside(llama: Path) -> None:
    assert f"did you mean {llama}?" in refused(llama.parent)
    (llama.parent / "empty").mkdir()
    assert "not a model directory" in refused(llama.parent / "empty")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pytorch_model.bin", "can run any code"),
        ("model.gguf", "a GGUF file holds quantised weights"),
        ("model.safetensors", "a model is a directory"),
    ],
)
def test_a_file_is_no_model(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert said in refused(tmp_path / name)


def test_pickled_weights_are_refused_with_why_and_how_to_convert(llama: Path) -> None:
    state = load_file(llama / "model.safetensors")
    (llama / "model.safetensors").unlink()
    torch.save(state, llama / "pytorch_model.bin")
    said = refused(llama)
    assert "pytorch_model.bin" in said
    assert "can run any code when it is opened" in said
    assert "save_pretrained" in said


def test_pickles_beside_safetensors_are_no_obstacle(llama: Path) -> None:
    (llama / "pytorch_model.bin").write_bytes(b"never opened")
    (llama / "training_args.bin").write_bytes(b"never opened")
    load_model(str(llama), dtype=torch.float32)


def _no_weights(path: Path) -> None:
    (path / "model.safetensors").unlink()


def _cut_weights(path: Path) -> None:
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _lfs_pointer(path: Path) -> None:
    (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")


def _lacking_weights(path: Path) -> None:
    state = load_file(path / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})


def _config(**changes: Any) -> Change:
    return lambda path: edit(path / "config.json", **changes)


def _tokenizer_config(**changes: Any) -> Change:
    return lambda path: edit(path / "tokenizer_config.json", **changes)


def _write(name: str, text: str) -> Change:
    def change(path: Path) -> None:
        (path / name).write_text(text)

    return change


def _no_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").unlink()
    (path / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_no_weights, "the directory has no weights"),
        (_cut_weights, "the weights can't be loaded"),
        (_lfs_pointer, "Git LFS pointer"),
        (_lacking_weights, "lack 1 tensors that the model needs, the first is model.layers.1.mlp.up_proj.weight"),
        (_config(hidden_size=64), "the weights can't be loaded"),
        (_write("config.json", "{"), "can't read the file"),
        (_write("config.json", "[]"), "not a JSON object"),
        (_config(model_type=None), "names no model_type"),
        (_config(model_type="own", auto_map={"AutoModelForCausalLM": "own.Model"}), "which burnish never runs"),
        (_config(model_type="martian"), "does not know the architecture 'martian'"),
        (_config(model_type="t5", is_encoder_decoder=True), "t5 is an encoder-decoder model"),
        (_config(model_type="vit"), "vit is not a language model"),
        (_config(model_type="gemma3", vision_config={"a": 1}), "a multi-modal model (gemma3, with a vision_config)"),
        (_config(quantization_config={"quant_method": "gptq"}), "quantised (gptq)"),
        (_config(num_attention_heads="many"), "the configuration can't be used"),
        (_no_tokenizer, "tokenizer"),
        (_tokenizer_config(eos_token=None), "the tokenizer has no EOS token"),
    ],
)
def test_what_can_not_be_used_is_refused_in_words(change: Change, said: str, llama: Path) -> None:
    change(llama)
    message = refused(llama)
    assert said in message
    assert f"where: {llama}" in message


def test_code_in_the_directory_is_not_run(llama: Path) -> None:
    (llama / "own.py").write_text(f"open({str(llama / 'ran')!r}, 'w')")
    names = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    edit(llama / "config.json", auto_map=names)
    edit(llama / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Tokenizer", None]})
    load_model(str(llama), dtype=torch.float32)  # transformers knows llama itself
    assert not (llama / "ran").exists()


def test_an_encoder_only_model_is_refused(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=N_TOKENS, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    save(BertForMaskedLM(config), tmp_path)
    assert "bert is an encoder-only model" in refused(tmp_path)


def test_a_classifier_is_refused(tmp_path: Path) -> None:
    save(LlamaForSequenceClassification(tiny_config("llama", vocab_size=N_TOKENS)), tmp_path)
    assert "this is a classifier or a reward model" in refused(tmp_path)


def test_a_missing_output_projection_is_refused_by_name(llama: Path) -> None:
    state = load_file(llama / "model.safetensors")
    del state["lm_head.weight"]
    save_file(state, llama / "model.safetensors", metadata={"format": "pt"})
    assert "lm_head.weight" in refused(llama)


def test_tensors_that_are_not_used_are_mentioned(llama: Path) -> None:
    state = load_file(llama / "model.safetensors") | {"value_head.weight": torch.zeros(1, 32)}
    save_file(state, llama / "model.safetensors", metadata={"format": "pt"})
    loaded = load_model(str(llama), dtype=torch.float32)
    assert loaded.notices == ("1 tensors of the weights are not used, the first is value_head.weight.",)


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    message = refused(save(tiny("llama", vocab_size=97), tmp_path))
    assert f"ids up to {N_TOKENS - 1}, the model has 97 embedding rows" in message


def test_added_tokens_without_a_row_only_earn_a_notice(llama: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(llama)
    loaded = load_model(str(llama), dtype=torch.float32)
    assert loaded.notices == ("1 added tokens of the tokenizer have no embedding row.",)
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    tokenizer.save_pretrained(llama)
    assert "embedding rows" in refused(llama)


def test_a_device_that_is_not_there_is_one_clear_error(llama: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(ModelError, match="can't be moved to cuda"):
        load_model(str(llama), dtype=torch.float32, device="cuda")


# --- adapters


def _adapter(path: Path, base: str | None) -> Path:
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    return path


def test_an_adapter_brings_its_base_and_its_own_tokenizer(llama: Path, tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "adapter", str(llama))
    loaded = load_model(str(adapter), dtype=torch.float32)
    assert loaded.source.adapter == adapter
    assert loaded.directory == llama
    assert loaded.tokenizer.chat_template is None
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(adapter)
    assert load_model(str(adapter), dtype=torch.float32).tokenizer.chat_template == "{{ messages[0].content }}"


def test_an_adapters_base_may_be_a_catalog_name_or_relative_to_the_adapter(llama: Path, tmp_path: Path) -> None:
    by_name = resolve_model(str(_adapter(tmp_path / "one", "gemma-3-270m")))
    assert by_name.plain.kind == "catalog"
    beside = resolve_model(str(_adapter(tmp_path / "two", "../llama")))
    assert beside.base is not None
    assert beside.base.path is not None
    assert beside.base.path.resolve() == llama.resolve()


def test_an_adapter_whose_base_is_gone_unsaid_or_an_adapter_is_refused(llama: Path, tmp_path: Path) -> None:
    gone = refused(_adapter(tmp_path / "gone", "/moved/away"))
    assert "the adapter's base model can't be found: no such directory: /moved/away" in gone
    assert "adapter_config.json: base_model_name_or_path" in gone
    assert "does not say which base model" in refused(_adapter(tmp_path / "unsaid", None))
    first = _adapter(tmp_path / "first", str(llama))
    assert "stands on another adapter" in refused(_adapter(tmp_path / "second", str(first)))
    (first / "adapter_config.json").write_text("{")
    assert "can't read the adapter's configuration" in refused(first)


# --- the hub


class Api:
    """A hub that answers with given files, or fails."""

    def __init__(self, files: list[str], error: Exception | None = None) -> None:
        self.files, self.error = files, error

    def model_info(self, repo: str, *, revision: str | None, timeout: float) -> Any:
        if self.error is not None:
            raise self.error
        names = [type("File", (), {"rfilename": name}) for name in self.files]
        return type("Info", (), {"siblings": names, "sha": "abc"})


def _hub(
    monkeypatch: pytest.MonkeyPatch, directory: Path | None, files: list[str], error: Exception | None = None
) -> list[dict[str, Any]]:
    """Put a hub in place; `directory` is what a download, or the local cache, gives."""
    import huggingface_hub

    calls: list[dict[str, Any]] = []

    def download(repo: str, **options: Any) -> str:
        calls.append({"repo": repo, **options})
        if directory is None:
            raise FileNotFoundError("not in the cache")
        return str(directory)

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Api(files, error))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls


def test_a_hub_model_is_downloaded_at_the_commit_that_was_looked_at(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _hub(monkeypatch, llama, ["config.json", "model.safetensors", "pytorch_model.bin"])
    loaded = load_model("someone/llama@main", dtype=torch.float32)
    assert loaded.source.kind == "hub"
    assert (calls[0]["repo"], calls[0]["revision"]) == ("someone/llama", "abc")
    assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in calls[0]["allow_patterns"])


def test_a_hub_model_of_pickles_is_refused_before_the_download(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _hub(monkeypatch, llama, ["config.json", "pytorch_model.bin", "onnx/model.safetensors"])
    assert "can run any code" in refused("someone/llama")
    assert calls == []


def test_an_adapter_on_the_hub_brings_its_base(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = _adapter(tmp_path / "adapter", str(llama))
    _hub(monkeypatch, adapter, ["adapter_config.json", "adapter_model.safetensors"])
    loaded = load_model("someone/adapter", dtype=torch.float32)
    assert (loaded.source.adapter, loaded.directory) == (adapter, llama)


def _http_error(kind: str) -> Exception:
    import huggingface_hub.errors as errors

    cls = getattr(errors, kind)
    error = cls.__new__(cls)
    Exception.__init__(error, f"404 {kind}")
    return error


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("GatedRepoError", "is gated"),
        ("RepositoryNotFoundError", "the hub has no model someone/llama, or it is private"),
        ("RevisionNotFoundError", "has no revision 'v9'"),
        ("HFValidationError", "is not a hub id"),
        ("HfHubHTTPError", "the hub can't be reached"),
    ],
)
def test_what_the_hub_refuses_is_said_in_words(kind: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _hub(monkeypatch, None, [], _http_error(kind))
    assert said in refused("someone/llama@v9")


def test_without_a_network_an_earlier_download_is_used_and_else_the_error_is_clear(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _hub(monkeypatch, llama, [], ConnectionError("Name or service not known"))
    assert load_model("someone/llama", dtype=torch.float32).directory == llama
    assert calls[-1]["local_files_only"] is True
    _hub(monkeypatch, None, [], ConnectionError("Name or service not known"))
    message = refused("someone/llama")
    assert "the hub can't be reached, and someone/llama was not downloaded before" in message
    assert "Name or service not known" in message


def test_offline_mode_is_not_reached_over_the_network(tmp_path: Path) -> None:
    script = (
        "import torch; from burnish.errors import ModelError; from burnish.models.loading import load_model\n"
        "try: load_model('someone/llama', dtype=torch.float32)\n"
        "except ModelError as error: print(error)"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "/usr/bin", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert "the hub can't be reached, and someone/llama was not downloaded before" in done.stdout, done.stderr


def test_a_download_that_fills_the_disk_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _hub(monkeypatch, None, [], OSError(28, "No space left on device"))
    with pytest.raises(ModelError, match="the disk is full"):
        hub.fetch_from_hub("someone/llama")


# --- the real models


@pytest.mark.real
def test_gemma_270m_is_itself(tmp_path: Path) -> None:
    loaded = load_model("gemma-3-270m", dtype=torch.bfloat16)
    assert loaded.context_length == 32_768
    assert loaded.tokenizer.chat_template is None
    assert loaded.tokenizer("The capital of France is")["input_ids"] == [2, 818, 5279, 529, 7001, 563]
    text = "Paris is the capital of"
    ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
    out = loaded.model.generate(ids, max_new_tokens=3, do_sample=False)
    assert loaded.tokenizer.decode(out[0, ids.shape[1] :]).startswith(" France")
    # Prose costs the published model about 3 nats a token; a wrong norm, rope base or window costs over 4.
    prose = (
        "The river rises in the hills above the town and runs for sixty miles through farmland before it reaches the "
        "sea. In spring, when the snow melts, the water covers the lower fields, and the villages along its banks "
        "were built on the few places that stay dry. A stone bridge was finished in 1742 and still carries the road."
    )
    ids = loaded.tokenizer(prose, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        assert loaded.model(ids, labels=ids).loss.item() < 3.4


@pytest.mark.real
def test_smollm2_answers_in_its_chat_template() -> None:
    loaded = load_model("smollm2-135m-instruct", dtype=torch.bfloat16)
    assert loaded.context_length == 8192
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    ids = loaded.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    out = loaded.model.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
    assert "Paris" in loaded.tokenizer.decode(out)
    assert loaded.tokenizer.eos_token_id in out


@pytest.mark.real
def test_a_copy_of_a_catalog_model_is_a_plain_directory(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(materialise("smollm2-135m-instruct"), copy)
    loaded = load_model(str(copy), dtype=torch.bfloat16)
    assert loaded.source.kind == "directory"
    assert AutoTokenizer.from_pretrained(copy).tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
