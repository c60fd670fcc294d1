"""`qsweep export`: what is kept scores as what was promoted, or was forced.

What each form holds is tested in `tests/trainables/scoring/test_adapter_exporter.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
from promotion_worlds import package_of
from promotions import MODEL, in_process
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.errors import Failed, SweepError
from sweeps.promotion.export import export, spec_for
from sweeps.record import digests
from trainables.scoring import adapter_exporter
from trainables.scoring.requests import ExportResult


def exported(world, form, out, force=False, named=MODEL):
    return export(named, form, out, force, world.uri, scored_by=in_process)


def test_a_peft_folder_is_that_of_the_version_and_a_merged_model_is_in_16_bits(replaced, tmp_path):
    told = exported(replaced, "peft", tmp_path / "out", named=f"{MODEL}@previous")
    package = package_of(replaced, "1") / "artifacts" / "adapter"
    assert digests.read_files(tmp_path / "out") == digests.read_files(package)
    assert (told.version, told.tolerance, told.holds) == ("1", 1e-4, True)
    assert told.loss == pytest.approx(told.promoted_loss, abs=1e-5)
    told = exported(replaced, "merged", tmp_path / "merged")
    assert (told.version, told.tolerance, told.holds) == ("2", 0.04, True)
    assert str(AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype) == "torch.bfloat16"
    assert 0 < abs(told.loss - told.promoted_loss) < 0.04
    assert f"{MODEL} version 2 as merged on the base without quantisation: on" in told.in_words


def test_what_scores_otherwise_is_kept_by_force_only(replaced, tmp_path, monkeypatch):
    """What is written scores half a nat a token worse."""
    write = adapter_exporter.export

    def worse(spec, request, cache):
        told = write(spec, request, cache)
        losses = [loss + 0.5 * len(row.labelled) for loss, row in zip(told.row_losses, request.rows, strict=True)]
        return ExportResult(hardware=told.hardware, row_losses=tuple(losses))

    monkeypatch.setattr(adapter_exporter, "export", worse)
    with pytest.raises(Failed, match=r"rows differ by 0\.5 a token, not within 0\.0001: nothing is kept") as error:
        exported(replaced, "peft", tmp_path / "out")
    assert error.value.exit_code == 1
    assert list(tmp_path.glob("*out*")) == list(tmp_path.glob(".qsweep-export-*")) == []
    told = exported(replaced, "peft", tmp_path / "out", force=True)
    assert not told.holds
    assert told.difference == pytest.approx(0.5, abs=1e-4)
    assert (tmp_path / "out" / "adapter_config.json").exists()


def test_a_merged_model_is_of_the_base_as_in_training_or_on_request_without_quantisation():
    base = {
        "source": "org/base", "revision": "0" * 40, "trust_remote_code": False,
        "quantization": {"scheme": "nf4", "double_quant": True, "compute_dtype": "float16"},
        "form": {"prompt": "{q}", "completion": "{a}", "max_length": 64},
    }  # fmt: skip
    plain, merged = (spec_for(base, "merged", on_plain).quantization for on_plain in (True, False))
    adapter = spec_for(base, "gguf").quantization
    assert (plain.scheme, plain.compute_dtype, adapter.scheme) == ("none", "float16", "nf4")
    assert (merged.scheme, merged.compute_dtype, merged.residency) == ("nf4", "float16", "dequantised")
    with pytest.raises(SweepError, match=r"^--base: plain goes with a merged model only, and the format is gguf"):
        export(MODEL, "gguf", Path("out"), False, "sqlite:///nowhere.db", on_plain=True)


def test_files_of_the_version_that_were_changed_are_refused(replaced, tmp_path):
    (package_of(replaced, "2") / "artifacts" / "adapter" / "adapter_model.safetensors").write_bytes(b"other")
    with pytest.raises(SweepError, match="not those that were promoted"):
        exported(replaced, "peft", tmp_path / "out")


@pytest.mark.parametrize(("out", "told"), [("here", "is there already"), ("no/where", "is no folder")])
def test_a_folder_that_cannot_be_made_is_refused_first(tmp_path, out, told):
    (tmp_path / "here").mkdir()
    with pytest.raises(SweepError, match=f"^--out: .*{told}"):
        export(MODEL, "peft", tmp_path / out, False, "sqlite:///nowhere.db")


@pytest.mark.parametrize(
    ("merged", "form", "tensors"),
    [((), "gguf", 2 * 14), (("--merged",), "gguf-merged on the base without quantisation", 2 * 9 + 3)],
)
def test_the_command_exports_in_a_process_of_its_own(replaced, tmp_path, merged, form, tensors):
    asked = ["export", MODEL, "--format", "gguf", *merged, "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*asked, "--tracking-uri", replaced.uri, "--json"])
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["model"], told["version"], told["form"], told["holds"]) == (MODEL, "2", form.split()[0], True)
    rows = "the first 32 of 40 rows that decided (data.test)"
    assert (
        f"{MODEL} version 2 as {form}: on {rows} loss {told['loss']:.4f}, promoted with {told['promoted_loss']:.4f}; "
    ) in done.stderr
    assert told["rows"] == rows
    assert len(gguf.GGUFReader(tmp_path / "out" / f"{MODEL}-v2.gguf").tensors) == tensors
    assert list(tmp_path.glob(".qsweep-export-*")) == []


def test_a_peft_folder_is_not_merged():
    done = CliRunner().invoke(app, ["export", MODEL, "--format", "peft", "--merged", "--out", "out"])
    assert done.exit_code == 2
    assert "--merged: a PEFT folder holds the adapter alone: leave it out, or give --format merged" in done.stderr
