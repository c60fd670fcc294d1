"""QLoRA and LoRA fine-tuning on transformers, PEFT and bitsandbytes: the trainable that sweeps are for.

Functions import torch and the Hugging Face libraries where they use them, so that `validate` and `plan` stay fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from trainables import evaluation_metrics, hub
from trainables.base import architectures, devices, model_source
from trainables.base.devices import import_bitsandbytes
from trainables.contract import (
    Device,
    LookedUp,
    Need,
    Pack,
    Prepared,
    Preview,
    RowShape,
    Target,
    TargetModules,
)
from trainables.data import preview as preview_rows
from trainables.data import questions, sources
from trainables.engine_paths import SelfTest, Settled
from trainables.errors import GradingError, ModelError
from trainables.grading import catalogue
from trainables.objective import EVAL_BITS, Direction
from trainables.packing import memory, pass_limits, path_tests, targets, work
from trainables.scoring.requests import Scorer
from trainables.specs import ModelSpec, TrialSpec

REQUIRES = frozenset({"model", "data"})
METRICS: Mapping[str, Direction] = {**evaluation_metrics.directions(), EVAL_BITS: "min"}
NESTS_ROWS = True


def check(base: TrialSpec) -> list[str]:
    """Lists problems with the local model, the local data files, the graders and the names of target modules."""
    in_model = [] if base.model is None else model_source.check_model(base.model)
    in_data = [] if base.data is None else sources.check_data(base.data)
    wrong = targets.check_name(base.adapter.target_modules)
    if wrong is None and base.model is not None and not in_model:
        wrong = _wrong_layers(base.model, base.adapter.target_modules)
    in_scores = [] if base.data is None else _check_evaluation(base, reads_rows=not in_data)
    return [*in_model, *in_data, *in_scores, *([] if wrong is None else [wrong])]


def _check_evaluation(base: TrialSpec, reads_rows: bool) -> list[str]:
    try:
        graders = catalogue.graders(base.evaluation)
    except GradingError as error:
        return list(error.problems)
    return questions.check_questions(base.data_spec, graders) if graders and reads_rows else []


def metrics(base: TrialSpec) -> Mapping[str, Direction]:
    """Returns METRICS with the metrics of the graders of `evaluation`."""
    return {**METRICS, **catalogue.directions(base.evaluation)}


def _wrong_layers(model: ModelSpec, target_modules: TargetModules) -> str | None:
    kind = model_source.model_type(model)
    if kind is None or model.trust_remote_code:
        return None
    if isinstance(target_modules, str) and architectures.is_state_space(kind):
        return (
            f"adapter.target_modules: {target_modules!r} matches no layer of model_type {kind!r}: presets mean "
            "attention and feed-forward layers, and it has neither; list the names of the linear layers to adapt"
        )
    return targets.check_known(target_modules, kind)


def look_up(base: TrialSpec, cache: Path) -> LookedUp:
    """Asks the hub about the model and the data, where these are hub ids."""
    return hub.look_up(base, cache)


def preview(base: TrialSpec) -> Preview:
    """Looks at the place of the model and at the first rows of local data; at doubtful rows as tokens too."""
    seen = preview_rows.preview(base.data_spec)
    labels: list[str] = []
    with suppress(GradingError):  # the check says why
        labels = questions.rare_labels(base.data_spec, catalogue.graders(base.evaluation))
    if base.model is None:
        return seen.model_copy(update={"warnings": (*labels, *seen.warnings)})
    if seen.is_doubtful:
        from trainables.base import base_model

        seen = preview_rows.preview(base.data_spec, tokenizer=base_model.local_tokenizer(base))
    told = filter(None, (model_source.guess(base.model), model_source.assumed(base.model)))
    return seen.model_copy(update={"warnings": (*told, *labels, *seen.warnings)})


def fetch_config(base: TrialSpec) -> bool:
    """Fetches the model's configuration from the hub if a plan lacks facts. Returns whether it was fetched."""
    model = base.base_model
    is_known = model_source.facts(model) is not None and model_source.model_type(model) is not None
    if is_known and model_source.shipped(model) is None:
        return False
    return hub.fetch_config(model)


def fingerprint(base: TrialSpec) -> Mapping[str, str]:
    """Identifies the base model and the rows, local files by their content."""
    parts = {f"model.{name}": digest for name, digest in model_source.read_with_it(base.base_model).items()}
    data = {f"data.{name}": digest for name, digest in sources.fingerprint(base.data_spec).items()}
    return {"model": model_source.fingerprint(base.base_model)} | parts | data


def resolve_targets(base: TrialSpec, values: Sequence[TargetModules], cache: Path) -> list[Target]:
    """Returns the base's own modules that each value selects, or why no adapter can be trained there."""
    from trainables.base import base_model

    import_bitsandbytes()
    model = base_model.skeleton(base, cache)
    return [targets.answer(model, value) for value in values]


def prepare(base: TrialSpec, cache: Path) -> Prepared:
    """Tokenises the rows with the base's own tokenizer and chat template. Caches the result by fingerprint."""
    from trainables.base import base_model

    tokenizer = base_model.load_tokenizer(base, cache)
    return questions.prepare(base.data_spec, base.evaluation, catalogue.graders(base.evaluation), tokenizer, cache)


def settle_path(base: TrialSpec, data: bytes, cache: Path) -> Settled | None:
    """Returns the fastest path that the self-test finds right on this GPU; None on a CPU, or with nothing to test."""
    test = self_test(base, data, cache) if devices.first().type == "cuda" else None
    return None if test is None else test.settled(base)


def self_test(base: TrialSpec, data: bytes, cache: Path, anew: bool = False) -> SelfTest | None:
    """Returns the results of the base's paths on this process's device; tests now if no results are kept.

    None with nothing to test: only PEFT's own layers can train this base, or the specification names them.
    """
    if engine(base) == pass_limits.PEFT:
        return None
    return path_tests.found(base, _kind(base), data, cache, anew)


def open_pack(base: TrialSpec, data: bytes, cache: Path) -> Pack:
    """Loads the base onto this process's device or devices, ready for adapters. Call `settle_auto` next."""
    import_bitsandbytes()
    from trainables.base import base_checks, base_model
    from trainables.data import dataset
    from trainables.packing import evaluation
    from trainables.packing.adapter_pack import AdapterPack, choose_engine
    from trainables.packing.answers import Grading

    loaded = base_model.load(base, cache)
    device: Device = "cuda" if loaded.device.type == "cuda" else "cpu"
    if base.training.gradient_checkpointing is True:
        base_model.checkpoint_gradients(loaded.model)
    if is_dequantised(devices.in_own_type(base), device):
        base_model.dequantise(loaded.model)
    rows_of_sweep = dataset.load(data)
    splits = rows_of_sweep.train, rows_of_sweep.eval
    asked = questions.read_questions(data)
    base_checks.refuse_long_rows(loaded.model, base, max(map(dataset.longest, splits)))
    if asked is not None:
        base_checks.refuse_long_rows(loaded.model, base, asked.longest_prompt, asked.longest_answer)
    base_checks.refuse_unknown_tokens(loaded.model, base, max(map(dataset.highest_token, splits)))
    identity = base_model.identity(base, loaded.device, loaded.dtype, loaded.origin)
    known = None
    if identity is not None:
        rows = dataset.split_fingerprint(rows_of_sweep.eval)
        known = evaluation.base_file(cache, *identity, devices.kind(loaded.device), rows)
    facts = model_source.facts(base.base_model)
    tokens = pass_limits.trained_tokens(base, None if facts is None else facts.parameters, device)
    engine, name = choose_engine(loaded, base.training.engine)
    pack = AdapterPack(engine, rows_of_sweep, known_base=known, engine_name=name, pass_tokens=tokens)
    if asked is not None:
        pack.score_answers(Grading(asked, base.evaluation, base_model.load_tokenizer(base, cache)))
    return pack


def settle_auto(
    pack: Pack, base: TrialSpec, largest: Sequence[TrialSpec], rows: RowShape | None, usable: int
) -> Need | None:
    """Switches `gradient_checkpointing: auto` on if not even one of the largest trials fits without checkpointing.

    Call this before the first trial. Returns the memory that the pack then needs, on the fullest of several GPUs; None
    if the model's sizes are unknown.
    """
    from trainables.packing.adapter_pack import AdapterPack

    device: Device = "cuda" if devices.first().type == "cuda" else "cpu"
    count = max(1, len(devices.gpus()))
    if not isinstance(pack, AdapterPack):
        return need_of_gpus(base, largest, device, rows, count)
    base, *trials = map(devices.in_own_type, (base, *largest))
    estimate = need_of_gpus(base, trials, device, rows, count)
    is_open = base.training.gradient_checkpointing == "auto"
    if estimate is None or not is_open or estimate.total(1) <= usable:
        return estimate
    pack.recompute()
    base, *trials = map(_recomputing, (base, *trials))
    return need_of_gpus(base, trials, device, rows, count)


def _recomputing(spec: TrialSpec) -> TrialSpec:
    return spec.model_copy(update={"training": spec.training.model_copy(update={"gradient_checkpointing": True})})


def blindness() -> str | None:
    """Returns why PyTorch sees no GPU in this process, and the way out; None if PyTorch sees one."""
    import torch

    if torch.cuda.is_available():
        return None
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs only"
    return (
        f"PyTorch {torch.__version__} ({built}) sees none of the GPUs: install the PyTorch build for the driver's CUDA "
        "(pytorch.org), or a newer driver; cluster.gpus_per_host=0 trains on the CPU"
    )


def is_dequantised(base: TrialSpec, device: Device) -> bool:
    """Tells whether `open_pack` dequantises the base once; with `auto` False if the model's sizes are unknown."""
    facts = model_source.facts(base.base_model)
    if facts is None:
        return base.quantization.residency == "dequantised" and base.quantization.traits.is_quantised
    return memory.is_dequantised(base, facts, device)


def engine(base: TrialSpec) -> str | None:
    """Names the engine that will train on this base; None if unknown before the base is loaded."""
    found = pass_limits.expected_engine(base, _kind(base))
    is_grouped = found == pass_limits.FLAT and base.training.engine == pass_limits.GROUPED
    return f"{pass_limits.FLAT}, {pass_limits.GROUPED}" if is_grouped else found


def _kind(base: TrialSpec) -> str | None:
    try:
        known = model_source.model_type(base.base_model)
        return "llama" if known is None and base.base_model.own_facts is not None else known
    except ModelError:
        return None


def open_scorer(base: TrialSpec, cache: Path) -> Scorer:
    """Loads the base onto this process's device or devices, to score adapters of this base on its data."""
    import_bitsandbytes()
    from trainables.scoring.adapter_scorer import AdapterScorer

    return AdapterScorer(base, cache)


def weight_bytes(base: TrialSpec) -> int | None:
    """Estimates the bytes of the base's weights on a server; None if the model's sizes are unknown."""
    facts = model_source.facts(base.base_model)
    return None if facts is None else memory.weight_bytes(facts, base.quantization)


def scoring_bytes(base: TrialSpec, device: Device, gpus: int = 1) -> int | None:
    """Estimates the memory of a scorer, on the fullest of several GPUs; None if the model's sizes are unknown."""
    facts = model_source.facts(base.base_model)
    return None if facts is None else memory.scoring_bytes(base, facts, device, gpus)


def need(base: TrialSpec, largest: Sequence[TrialSpec], device: Device) -> Need | None:
    """Estimates the memory for the largest specs of a space; None if the model's sizes are unknown."""
    return need_of_gpus(base, largest, device, None, 1)


def need_of_rows(base: TrialSpec, largest: Sequence[TrialSpec], device: Device, rows: RowShape) -> Need | None:
    """Estimates as `need`, for rows of a known shape."""
    return need_of_gpus(base, largest, device, rows, 1)


def need_of_gpus(
    base: TrialSpec, largest: Sequence[TrialSpec], device: Device, rows: RowShape | None, gpus: int
) -> Need | None:
    """Estimates as `need`, for the fullest of the GPUs that share the base."""
    facts = model_source.facts(base.base_model)
    if facts is None:
        return None
    estimated = memory.need(base, largest, facts, device, rows, _kind(base), gpus)
    expected = pass_limits.expected_engine(base, _kind(base))
    # Where DoRA is searched, each slot may have it.
    dora = {"use_dora": any(spec.adapter.use_dora for spec in (base, *largest))}
    counted = base.model_copy(update={"adapter": base.adapter.model_copy(update=dora)})
    return estimated.model_copy(update={"work": work.counted(counted, facts, rows, expected)})
