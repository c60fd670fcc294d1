"""Whatever a sweep file says in any of its fields is taken or told: never a traceback, never a long wait."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from sweep_files import QLORA, TOY, write_rows

from sweeps.config import components, load
from sweeps.config.model import SweepConfig
from sweeps.errors import ConfigError
from sweeps.planning import this_machine

SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
LONG = "a" * 300
VALUES = [
    *("9" * 400, "-" + "9" * 400, "1e400", "1e308", "1e-320", "-0.0", "0x" + "f" * 900, "1:59:59"),
    *("1_0", ".nan", "-.inf"),
    *(str(2**63), str(2**31), "9" * 400 + "GB", "9" * 400 + ".5h", "1e9d", "0.0000000001s", "0.0000000001MB"),
    *(LONG, f"./{LONG}", f"{LONG}/x", "a/" * 3000, f"{LONG}.jsonl", f"{LONG}.csv", f"{LONG}/x.parquet", f"{LONG}.gguf"),
    *(f"{LONG}.yaml", f"sqlite:///{LONG}/x.db", f"{LONG}.{LONG}", "'~nobody/x'", "'~'", "/", "..", ".", "''", "' '"),
    *("folder.jsonl", "folder.yaml", "folder.gguf", "loop", "loop.jsonl", "loop.yaml", "/proc/self/mem", "/dev/full"),
    *("[]", "{}", "[[[]]]", "{a: {b: {c: 1}}}", "null", "true", "[1, 2, 3]", "[q, q]", "{choice: [1]}", "auto"),
    *("!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!binary aGVsbG8=", "2026-01-01", "2026-01-01 10:00:00"),
    *("'('", "'%s'", "'{}'", "'{0.__class__}'", "'{{{'", '"\\u2028"', '"\\x1b[31m"', "größe", "'\U0001f600'"),
    *("sqlite:///", "sqlite:////", "http://", "'http://['", "'http://[::1'", "postgresql://x", "'postgresql://[x'"),
    *("package:../x.gguf", "package:os/x.gguf", "package:__main__/x.gguf", "'a:b:c'", "'owner/name:'", "'s3://a'"),
]  # fmt: skip


def fields(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """The dotted names of a section and of those inside it."""
    for name, field in model.model_fields.items():
        yield before + name
        for inner in get_args(field.annotation) or (field.annotation,):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from fields(inner, f"{before}{name}.")


def keys(kind: components.ComponentKind, section: str) -> list[str]:
    """The dotted keys of the components of a kind."""
    return [f"{section}.{key}" for name in components.modules(kind) for key in components.keys(kind, name)]


FIELDS = sorted({*fields(SweepConfig), *keys("schedulers", "scheduler"), *keys("searchers", "searcher")})
assert {"model.facts.layers", "budget.disk", "scheduler.grace_steps", "searcher.kind", "seed"} <= set(FIELDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder, with what the values name."""
    made = tmp_path_factory.mktemp("any")
    write_rows(made)
    for name in ("folder.jsonl", "folder.yaml", "folder.gguf"):
        (made / name).mkdir()
    for name in ("loop", "loop.jsonl", "loop.yaml"):
        (made / name).symlink_to(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        yield made


def taken_or_told(folder: Path, text: str, *changes: str) -> None:
    """Fails on any other error than those that print in a line, on a text that cannot be written, on what was made."""
    (folder / "s.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        sweep = load.load("s.yaml", changes, folder)
        this_machine.plan_here(sweep)
        sweep.config.model_dump_json().encode()
    except ConfigError as error:
        assert all(error.problems)
    assert not [name for name in os.listdir(folder) if name.startswith(("results", "mlflow"))]  # noqa: PTH208 - names


@settings(SETTINGS, max_examples=250)
@given(text=st.sampled_from([TOY, QLORA]), field=st.sampled_from(FIELDS), value=st.sampled_from(VALUES))
def test_any_value_of_any_field_is_taken_or_told(folder: Path, text: str, field: str, value: str) -> None:
    taken_or_told(folder, text, f"{field}={value}")


@settings(SETTINGS, max_examples=80)
@given(
    field=st.sampled_from(["adapter.r", "training.learning_rate", "adapter.target_modules", "training.schedule"]),
    form=st.sampled_from(["choice", "grid", "uniform", "loguniform", "randint", "quniform", "qloguniform", "qrandint"]),
    arguments=st.lists(st.sampled_from(VALUES), min_size=1, max_size=3),
)
def test_any_domain_is_taken_or_told(folder: Path, field: str, form: str, arguments: list[str]) -> None:
    taken_or_told(folder, TOY, f"search_space.{field}={{{form}: [{', '.join(arguments)}]}}")


@settings(SETTINGS, max_examples=150)
@given(
    text=st.lists(
        st.sampled_from(
            [*"[]{},:-?&*!|>'\"%@#~\n\t ", "<<: ", "&a ", "*a", "- ", "? ", ": ", "name: x\n", *VALUES[:10]]
        )
        | st.text(max_size=3),
        max_size=12,
    ).map("".join)
)
def test_any_text_is_taken_or_told(folder: Path, text: str) -> None:
    taken_or_told(folder, text)
