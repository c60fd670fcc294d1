"""Serves a packaged adapter in a process of its own and prints its answers. Run by path; imports nothing of ours.

argv: the model's folder. stdin: {"samples": [{"columns", "ids", "labelled"}], "answers": [columns], "new_tokens": n,
"refused": [package]}. The last line of stdout: {"losses": [...], "texts": [...], "label_losses": [{label: loss}],
"prompts": [...]}; `prompts` tells of each sample with columns whether its prompt has the tokens of training up to the
last answer.
"""

import importlib.abc
import json
import os
import sys
from typing import Any


class _Refusing(importlib.abc.MetaPathFinder):
    """Refuses to import packages that the model must do without."""

    def __init__(self, names: list[str]) -> None:
        self._names = set(names)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"the packaged model may not import {fullname}")


def main() -> None:
    """Loads the model, scores the samples and answers prompts."""
    job = json.load(sys.stdin)
    sys.meta_path.insert(0, _Refusing(job["refused"]))
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import mlflow
    import pandas

    model = mlflow.pyfunc.load_model(sys.argv[1])
    inner = model.unwrap_python_model()
    samples = job["samples"]
    losses = [inner.score(sample["ids"], sample["labelled"]) for sample in samples]
    asked = job["answers"]
    texts = model.predict(pandas.DataFrame(asked), params={"max_new_tokens": job["new_tokens"]}) if asked else []
    ranked = [inner.label_losses(row) for row in asked]
    prompts = [is_prompt(inner.prompt_ids(sample["columns"]), sample) for sample in samples if sample["columns"]]
    print(json.dumps({"losses": losses, "texts": texts, "label_losses": ranked, "prompts": prompts}))


def is_prompt(ids: list[int], sample: dict[str, Any]) -> bool:
    """Tells whether `ids` are the tokens of a sample before its last answer."""
    labelled = set(sample["labelled"])
    start = max(place for place in labelled if place - 1 not in labelled)
    return bool(ids[:start] == sample["ids"][:start])


if __name__ == "__main__":
    main()
