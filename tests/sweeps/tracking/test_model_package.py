"""What a package lists as needed, and what it shows to callers."""

from __future__ import annotations

import json

import pytest
from mlflow.models import Model
from mlflow.utils.requirements_utils import _parse_requirements
from promotions import base_facts

from sweeps.tracking import model_package
from trainables.scoring.requests import Sample

INSTALLED = "# The base is installed by itself: pip install --no-deps no-base"
ROW, BARE = (Sample(columns=columns, ids=(1, 2), labelled=(1,)) for columns in ({"question": "Hi"}, {}))


@pytest.mark.parametrize(
    ("source", "kind", "comments", "example", "row"),
    [
        ("package:no_base/a.gguf", "gguf", [INSTALLED], ROW, "Hi"),
        # Of plain text a row has no columns.
        ("owner/name", "hub", [], BARE, "Hello"),
        ("owner/name", "hub", [], None, "Hello"),
    ],
)
def test_a_package_lists_what_it_needs_and_shows_a_row_that_a_caller_could_give(
    tmp_path, source, kind, comments, example, row
):
    facts = base_facts(source=source, kind=kind, columns=("question",))
    folder = tmp_path / "model"
    adapter = {"adapter_config.json": b"{}"}
    model_package.write(folder, model_package.Contents(adapter, facts, "card", example, {"<|end|>": 1}))
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line.startswith("#")] == comments
    # MLflow reads it as pip does.
    parsed = list(_parse_requirements(str(folder / "requirements.txt"), is_constraint=False))
    assert [line.req_str for line in parsed] == model_package.requirements(facts)
    written = json.loads((folder / "input_example.json").read_text())
    assert written == {"columns": ["question"], "data": [[row]]}
    assert json.loads((folder / "artifacts" / "base.json").read_text())["ends"] == {"<|end|>": 1}


@pytest.mark.parametrize(("labels", "more"), [((), []), (("no", " yes"), ["generate"])])
def test_a_package_that_ranks_labels_holds_them_and_its_signature_says_how_to_have_it_generate(tmp_path, labels, more):
    folder, facts = tmp_path / "model", base_facts(columns=("question",))
    model_package.write(folder, model_package.Contents({}, facts, "card", ROW, {}, labels))
    assert json.loads((folder / "artifacts" / "base.json").read_text())["labels"] == list(labels)
    params = Model.load(str(folder)).signature.params
    assert [param.name for param in params.params] == ["max_new_tokens", "temperature", *more]
