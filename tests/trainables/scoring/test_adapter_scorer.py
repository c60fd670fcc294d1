"""A second evaluation by plain PEFT gives what the training engine reported, and only takes adapters that are none but
that."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promotions
import pytest
import torch

from trainables import qlora
from trainables.base import base_model
from trainables.data import preview
from trainables.errors import DataError, ModelError
from trainables.scoring import adapter_scorer, requests
from trainables.scoring.requests import BASE, MOST_SAMPLES, ScoringRequest, ScoringResult, row_digest
from trainables.specs import EvaluationSpec, TrialSpec


@dataclass
class World:
    """A base, its adapters, and a scorer."""

    base: TrialSpec
    adapters: dict[str, promotions.Trained]
    scorer: Any
    root: Path

    @property
    def files(self) -> dict[str, Any]:
        return {name: adapter.files for name, adapter in self.adapters.items()}

    def config(self) -> dict[str, Any]:
        return json.loads(self.files["weak"]["adapter_config.json"])

    def changed(self, **data: Any) -> TrialSpec:
        return self.base.model_copy(update={"data": self.base.data_spec.model_copy(update=data)})

    def scorer_of(self, **data: Any) -> Any:
        return qlora.open_scorer(self.changed(**data), self.root / "cache")


def made(root: Path, scheme: str) -> World:
    promotions.write_data(root, odd_rows=12)
    quantization = {"scheme": scheme, "compute_dtype": "float32"}
    config = promotions.config(root, "sqlite:///none.db", quantization=quantization)
    adapters = promotions.train(config, root / "cache")
    return World(config.base, adapters, qlora.open_scorer(config.base, root / "cache"), root)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> World:
    return made(tmp_path_factory.mktemp("scoring"), "none")


@pytest.fixture(scope="module")
def quantised(tmp_path_factory) -> World:
    return made(tmp_path_factory.mktemp("nf4"), "nf4")


def write(file: Path, *lines: object) -> Path:
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line) + "\n") for line in lines))
    return file


def of_base(scorer: Any, rows: object = "test", **fields: Any) -> ScoringResult:
    """What the base scores, and adapters that `fields` name."""
    return scorer.score(ScoringRequest(rows=str(rows), with_base=True, **fields))


def of_adapters(scorer: Any, **adapters: Any) -> ScoringResult:
    return scorer.score(ScoringRequest(rows="eval", adapters=adapters))


def with_config(files: Any, config: object) -> dict[str, bytes]:
    return {**files, "adapter_config.json": config if isinstance(config, bytes) else json.dumps(config).encode()}


@pytest.mark.parametrize("which", ["trained", "quantised"])
def test_plain_peft_gives_what_training_reported_and_adapters_leave_nothing_behind(request, which):
    world = request.getfixturevalue(which)
    answer = of_adapters(world.scorer, **world.files)
    for name, adapter in world.adapters.items():
        assert answer.scores[name].row_tokens == adapter.evaluation.row_tokens
        # The same numbers by two routes; test_adapter_pack.py holds 1e-5 per token, rows have up to 20 tokens.
        assert answer.scores[name].row_losses == pytest.approx(adapter.evaluation.row_losses, abs=2e-4)
        assert answer.hardware == adapter.evaluation.hardware == "cpu float32"
    assert answer.fingerprint == qlora.prepare(world.base, world.root / "cache").summary.fingerprint
    alone = of_base(world.scorer).scores[BASE]
    both = of_base(world.scorer, adapters=world.files)
    assert both.scores[BASE] == alone
    assert of_base(world.scorer, adapters=world.files) == both
    assert both.scores["strong"].loss < both.scores["weak"].loss < alone.loss


def test_on_a_cpu_a_base_of_4_bits_is_dequantised_once_and_its_numbers_stay(quantised, tmp_path, monkeypatch):
    base, dequantise, scored, models = quantised.base, base_model.dequantise, [], []

    def counted(model):
        models.append(model)
        dequantise(model)

    monkeypatch.setattr(base_model, "dequantise", counted)
    for residency in ("4bit", "auto"):
        quantization = base.quantization.model_copy(update={"residency": residency})
        spec = base.model_copy(update={"quantization": quantization})
        scored.append(of_base(qlora.open_scorer(spec, tmp_path / residency), "eval", adapters=quantised.files).scores)
    assert len(models) == 1
    assert scored[0] == scored[1]


def test_each_name_of_rows_means_its_rows(trained):
    data = trained.base.data_spec
    more, nowhere = write(trained.root / "more.jsonl", {"question": "q", "answer": "a"}), trained.root / "nowhere.jsonl"
    for rows, scored, counted in (("eval", 8, 8), ("held_out", 20, 20), ("test", 40, 40), (str(more), 1, 1)):
        assert len(of_base(trained.scorer, rows).scores[BASE].row_losses) == scored
        assert requests.count_rows(data, rows) == counted
    assert requests.count_rows(data, str(nowhere)) is None
    with pytest.raises(DataError, match=r"nowhere.jsonl does not exist"):
        of_base(trained.scorer, nowhere)
    scorer = trained.scorer_of(eval=None)
    evaluated, held_out = (of_base(scorer, rows, samples=3) for rows in ("eval", "held_out"))
    assert evaluated.scores == held_out.scores, "rows held out of the training rows are all of them"
    assert evaluated.samples[0].columns == {"question": "32 and 4?"}


def test_a_file_to_decide_by_is_told_of_by_its_option(trained, tmp_path):
    data, file = trained.base.data_spec, write(tmp_path / "file.jsonl", {"question": "q", "answer": "a"})
    train = trained.root / "train.jsonl"
    assert requests.check_rows(data, str(file)) == []
    assert requests.check_rows(data.model_copy(update={"train": f"{train}.gone"}), str(file)) == []
    write(file, train.read_text())
    way_out = "give rows that are not trained on, or leave it out"
    assert requests.check_rows(data, str(file)) == [f"--eval-data: {file} is a copy of data.train: {way_out}"]
    write(file, {"question": "q", "reply": "a"})
    (problem,) = requests.check_rows(data, str(file))
    told = f"--eval-data: data.completion: {{answer}} is not a column of {file}; columns: question, reply"
    assert (problem.startswith(told), "data.test" in problem) == (True, False)


def test_a_file_to_decide_by_is_compared_with_the_training_rows_by_content(trained, tmp_path, monkeypatch):
    """Before the evaluation with the first ones, in the evaluation with all."""
    data = trained.base.data_spec
    seen = (trained.root / "train.jsonl").read_text().splitlines(keepends=True)
    new = [{"question": f"new {n}", "answer": "a"} for n in range(30)]
    file = write(tmp_path / "file.jsonl", *new[:10], seen[3])
    look = requests.look_at_rows(data, str(file))
    assert look.problems == ()
    warning, unlike = look.warnings
    assert unlike.startswith("--eval-data: rows unlike those of data.train, far beyond chance: other ")
    assert warning.startswith("--eval-data: rows that are also in data.train, 1 of 11, the first on line 11")
    write(file, *seen[3:5])
    (problem,) = requests.look_at_rows(data, str(file)).problems
    assert problem.startswith("--eval-data: all rows are also in data.train, 2 of 2, ")
    monkeypatch.setattr(preview, "LOOKED_ROWS", 20)
    write(file, *new, *seen[30:32])
    (line,) = requests.look_at_rows(data, str(file)).warnings
    assert line == "--eval-data: only the first 20 rows were looked at; the evaluation looks at all"
    answer = of_base(trained.scorer, file, leave_out=["train", "eval"], samples=32)
    assert (answer.left_out, len(answer.row_digests), len(answer.samples)) == ({"train": 2}, 30, 30)
    assert [each.columns["question"] for each in answer.samples] == [line["question"] for line in new]
    write(file, *seen[30:32])
    with pytest.raises(DataError, match=r"^--eval-data: all 2 rows are also in data.train, or ranked the trials: give"):
        of_base(trained.scorer, file, leave_out=["train"])


@pytest.mark.parametrize("named", ["test", "file"])
def test_rows_that_were_trained_on_or_ranked_the_trials_are_left_out_with_their_values(trained, tmp_path, named):
    """Of all that is kept per row: losses, scores, digests, groups, slices. The rest is scored as in a file alone."""
    lines = {name: (trained.root / f"{name}.jsonl").read_text().splitlines() for name in ("train", "eval")}
    new = [{"question": f"{n} new?", "answer": f"a {n}"} for n in range(4)]
    known = [json.loads(line) for line in (*lines["train"][:3], *lines["eval"][:2], lines["eval"][10])]
    marked = [{**row, "half": str(place % 2)} for place, row in enumerate([*known, *new])]
    mixed, alone = write(tmp_path / "mixed.jsonl", *marked), write(tmp_path / "alone.jsonl", *marked[5:])
    base = trained.changed(test=str(mixed)).model_copy(update={"evaluation": EvaluationSpec(metrics=("exact_match",))})
    scorer = qlora.open_scorer(base, tmp_path / "cache")
    asked = {"leave_out": ["train", "eval"], "slice_by": "half", "samples": 8}
    found = of_base(scorer, "test" if named == "test" else mixed, **asked)
    # Of data.eval the first 8 rows ranked the trials; the eleventh did not.
    assert found.left_out == {"train": 3, "eval": 2}
    expected = of_base(scorer, alone, slice_by="half", samples=8)
    assert expected.left_out == {}
    told = [each.model_dump(exclude={"left_out": True, "scores": {BASE: {"answers"}}}) for each in (found, expected)]
    assert told[0] == told[1]
    answers = [each.scores[BASE].answers for each in (found, expected)]
    assert [each.model_dump(exclude={"place"}) for each in answers[0]] == [
        each.model_dump(exclude={"place"}) for each in answers[1]
    ]
    assert found.slices == tuple(row["half"] for row in marked[5:])
    assert len(found.scores[BASE].row_values["exact_match"]) == len(found.row_digests) == 5
    kept = of_base(scorer, mixed, leave_out=["train"])
    assert (kept.left_out, len(kept.row_digests)) == ({"train": 3}, 7)


def test_rows_that_the_search_has_seen_are_known_by_their_bytes(trained, tmp_path):
    data, copy = trained.base.data_spec, write(tmp_path / "copy.jsonl", (trained.root / "eval.jsonl").read_text())
    assert requests.seen_by_search(data, str(copy))
    assert not requests.seen_by_search(data, str(data.test))
    assert not requests.seen_by_search(data.model_copy(update={"eval": None}), str(copy))


def test_a_bad_row_is_of_the_option_or_the_field_that_named_its_file(trained, tmp_path):
    file = write(tmp_path / "file.jsonl", {"question": "q", "answer": "a"}, {"question": "q", "answer": None})
    for scorer, rows, field in (
        (trained.scorer, file, "--eval-data"),
        (trained.scorer_of(test=str(file)), "test", "data.test"),
    ):
        with pytest.raises(DataError, match=f"^{field}: {file}, line 2: column 'answer' is null"):
            of_base(scorer, rows)


@pytest.mark.parametrize("which", ["eval", "test", "file"])
def test_samples_are_of_the_rows_that_were_scored_also_after_rows_that_were_left_out(trained, tmp_path, which):
    long = {"question": "0 1 2 3 4 5 6 7 8 9 " * 20, "answer": "none is left of it"}
    lines = [long, *({"question": f"{n}?", "answer": f"{n} it is"} for n in range(3)), long, {**long, "question": "3?"}]
    file = write(tmp_path / "rows.jsonl", *lines)
    scorer = trained.scorer_of(eval=str(file), test=str(file))
    answer = of_base(scorer, file if which == "file" else which, samples=4)
    assert [sample.columns["question"] for sample in answer.samples] == ["0?", "1?", "2?", "3?"]
    scored = answer.scores[BASE]
    for sample, row_loss, tokens in zip(answer.samples, scored.row_losses, scored.row_tokens, strict=True):
        assert len(sample.labelled) == tokens
        ids = torch.tensor([sample.ids])
        with torch.no_grad():
            logits = scorer._base.model(input_ids=ids).logits[0, sample.labelled[0] - 1 : -1]
        # The same sums in another order, over up to 20 tokens.
        found = torch.nn.functional.cross_entropy(logits, ids[0, sample.labelled[0] :], reduction="sum")
        assert float(found) == pytest.approx(row_loss, abs=2e-4)


def test_groups_go_with_the_rows_that_are_scored(trained, tmp_path):
    files = {}
    for name, start in (("train", 0), ("test", 100)):
        lines = ({"question": f"q{n}", "answer": f"a{n}", "doc": (n * 7) % 15} for n in range(start, start + 30))
        files[name] = str(write(tmp_path / f"{name}.jsonl", *lines))
    scorer = trained.scorer_of(**files, eval=None, eval_examples=8, hold_out="drawn", group_by="doc")
    for rows, count in (("eval", 4), ("test", 15), (files["test"], 15)):
        answer = of_base(scorer, rows, samples=2)
        groups = answer.scores[BASE].row_groups
        assert len(groups) == len(answer.scores[BASE].row_losses)
        assert [groups.count(group) for group in range(count)] == [2] * count
        assert [sample.columns["question"][0] for sample in answer.samples] == ["q"] * 2


@pytest.mark.parametrize(
    "data", [{"prompt": None, "completion": None, "text": "{question} {answer}"}, {"prompt": "Say something."}]
)
def test_samples_of_a_plain_text_and_of_a_constant_prompt_have_no_columns(trained, data):
    scorer = trained.scorer_of(**data)
    assert [sample.columns for sample in of_base(scorer, samples=3).samples] == [{}, {}, {}]
    assert scorer.base_facts().columns == ("prompt",)


def test_a_chat_of_which_all_counts_is_scored_on_every_answer(trained, tmp_path):
    roles = ["user", "assistant", "user", "assistant"]
    chats = [{"chat": [{"role": role, "content": f"{n}{role}"} for role in roles]} for n in range(12)]
    file = str(write(tmp_path / "chats.jsonl", *chats))
    scorer = trained.scorer_of(prompt=None, completion=None, messages="chat", train_on="all", test=file)
    answer, facts = of_base(scorer, samples=2), scorer.base_facts()
    for sample, tokens in zip(answer.samples, answer.scores[BASE].row_tokens, strict=False):
        assert len(sample.labelled) == tokens < len(sample.ids) - sample.labelled[0]
    # What a caller gives is the chat up to the last answer.
    assert (facts.form["train_on"], facts.columns) == ("all", ("chat",))
    assert [json.loads(sample.columns["chat"]) for sample in answer.samples] == [chats[n]["chat"][:-1] for n in (0, 1)]
    assert answer.ends == {"<|end|>": 1}


def test_rows_that_may_be_cut_do_not_say_where_an_answer_ends(trained):
    """The shortest row ends at max_length, the others are cut there."""
    answer = of_base(trained.scorer, samples=40)
    assert answer.ends == {"<|end|>": 1}
    cut = trained.scorer_of(max_length=min(len(sample.ids) for sample in answer.samples))
    assert cut.score(ScoringRequest(rows="test")).ends == {}


def test_the_parts_say_how_to_find_the_base(trained):
    facts = trained.scorer.base_facts()
    assert (facts.source, facts.kind, facts.columns) == (trained.base.base_model.source, "folder", ("question",))
    assert facts.quantization["compute_dtype"] == "float32"
    assert len(facts.files["model.safetensors"]) == 64
    assert {"tokenizer.json", "chat_template.jinja"} <= facts.tokenizer.keys()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"adapter_model.bin": b""}, "adapter_model.bin: an adapter is adapter_config.json and"),
        ({"model.py": b""}, "model.py: an adapter is"),
        ({"adapter_model.safetensors": None}, "no *.safetensors"),
        ({"adapter_config.json": None}, "adapter_config.json: missing, or not JSON"),
        ({"adapter_config.json": b"[]"}, "not a LoRA adapter"),
        ({"adapter_config.json": b"[" * 100_000}, "adapter_config.json: missing, or not JSON"),
        ({"auto_mapping": {"parent_library": "os"}}, "auto_mapping names code to import"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4': it may change the base"),
        ({"init_lora_weights": ["loftq"]}, "init_lora_weights is ['loftq']: it may change the base"),
        ({"bias": "all"}, "bias is 'all': it may change the base"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set: only plain LoRA is scored"),
        ({"target_modules": "(a+)+$"}, "target_modules is '(a+)+$', not a list of modules' names"),
        ({"target_modules": [1]}, "target_modules is [1], not a list"),
        ({"rank_pattern": {"(": 4}}, "rank_pattern is set: only plain LoRA is scored"),
        ({"\x1b[31m": 1}, "\\x1b[31m is set: only plain LoRA is scored"),
    ],
)
def test_what_is_no_adapter_of_this_base_is_refused(trained, change, problem):
    assert requests.problems(trained.base, trained.files["weak"]) == []
    (name,) = change
    if "." in name:
        files = {name: content for name, content in {**trained.files["weak"], **change}.items() if content is not None}
    else:
        files = with_config(trained.files["weak"], trained.config() | change)
    assert any(problem in line for line in requests.problems(trained.base, files))
    with pytest.raises(ModelError, match="adapter bad: "):
        of_adapters(trained.scorer, bad=files)


def test_what_peft_cannot_load_is_told_and_leaves_nothing_behind(trained):
    good = trained.files["weak"]
    before = of_adapters(trained.scorer, good=good)
    cut_short = good | {"adapter_model.safetensors": good["adapter_model.safetensors"][:-100]}
    others = ({"r": 10**12}, {"r": None}, {"lora_alpha": "x"}, {"task_type": "NONE"}, {"init_lora_weights": 1})
    for bad in (cut_short, *(with_config(good, trained.config() | other) for other in others)):
        with pytest.raises(ModelError, match="adapter bad: PEFT cannot load it: "):
            of_adapters(trained.scorer, bad=bad)
        assert of_adapters(trained.scorer, good=good) == before


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"base_model_name_or_path": "other"}, "base_model_name_or_path is 'other', the sweep's is"),
        ({"revision": "v2"}, "revision is 'v2', the sweep's is 'main'"),
        ({"revision": "main"}, None),
    ],
)
def test_a_candidate_names_the_sweeps_base_and_a_champion_may_name_another_place(trained, change, problem):
    files = with_config(trained.files["weak"], trained.config() | change)
    assert [str(problem) in line for line in requests.problems(trained.base, files)] == ([True] if problem else [])
    assert requests.problems(trained.base, files, same_source=False) == []
    before = of_adapters(trained.scorer, champion=trained.files["weak"])
    assert of_adapters(trained.scorer, champion=files) == before


def test_an_adapter_with_another_harmless_initialisation_is_scored_and_leaves_nothing_behind(trained):
    before = of_base(trained.scorer, "eval", adapters=trained.files)
    for init in ("gaussian", "eva", False):
        config = trained.config() | {"init_lora_weights": init, "r": 4}
        found = of_adapters(trained.scorer, other=with_config(trained.files["weak"], config))
        assert found.scores["other"] == before.scores["weak"], init
    assert of_base(trained.scorer, "eval", adapters=trained.files) == before


def test_a_loss_that_is_not_finite_is_named_and_the_others_have_their_scores(trained, tmp_path):
    before = of_base(trained.scorer, "eval", adapters=trained.files)
    bad = promotions.broken(trained.files["weak"])
    answer = of_base(trained.scorer, "eval", adapters={"bad": bad, **trained.files})
    assert (answer.not_finite, answer.scores) == (("bad",), before.scores)
    scorer = qlora.open_scorer(trained.base, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter_scorer, "padded_losses", lambda _model, batch, _device: batch.answers * float("nan"))
        assert of_base(scorer, "eval").not_finite == (BASE,)
    assert of_base(scorer, "eval").scores.keys() == {BASE}, "it was not kept"


@pytest.fixture
def counted(monkeypatch) -> list[object]:
    """Each pass through a model that scores, and each base that is loaded, adds to this list."""
    calls: list[object] = []
    for module, name in ((adapter_scorer, "padded_losses"), (base_model, "load")):
        inner = getattr(module, name)

        def noted(*words, _inner=inner, _name=name):
            calls.append(_name)
            return _inner(*words)

        monkeypatch.setattr(module, name, noted)
    return calls


def test_what_was_scored_before_is_known_without_loading_the_base(trained, tmp_path, counted):
    request = ScoringRequest(rows="test", with_base=True, adapters=trained.files, samples=3)
    first = qlora.open_scorer(trained.base, tmp_path).score(request)
    assert "load" in counted
    counted.clear()
    again = qlora.open_scorer(trained.base, tmp_path)
    # By content: another name is the same adapter.
    renamed = request.model_copy(update={"adapters": {"x": trained.files["strong"]}})
    assert again.score(renamed).scores == {BASE: first.scores[BASE], "x": first.scores["strong"]}
    assert again.score(request) == first
    assert again.base_facts().columns == ("question",)
    assert counted == []
    of_base(again, "eval")
    assert counted == ["load", "padded_losses"]


def test_a_kept_score_is_of_one_adapter_base_set_of_rows_and_versions_of_libraries(
    trained, tmp_path, counted, monkeypatch
):
    base, strong, version = trained.base, trained.files["strong"], adapter_scorer.version

    def passes(spec: TrialSpec, adapter: Any) -> list[object]:
        counted.clear()
        of_adapters(qlora.open_scorer(spec, tmp_path), tuned=adapter)
        return counted

    assert passes(base, strong) == ["load", "padded_losses"]
    assert passes(base, strong) == []
    rescaled = with_config(strong, json.loads(strong["adapter_config.json"]) | {"lora_alpha": 4})
    requantised = base.model_copy(update={"quantization": base.quantization.model_copy(update={"scheme": "nf4"})})
    for spec, adapter in ((base, rescaled), (trained.changed(max_length=16), strong), (requantised, strong)):
        assert "padded_losses" in passes(spec, adapter)
    for library in ("qlora-sweeps", "torch", "peft", "math-verify", "jsonschema"):
        monkeypatch.setattr(
            adapter_scorer, "version", lambda name, of=library: "0.0.1" if name == of else version(name)
        )
        assert passes(base, strong) == ["load", "padded_losses"], library


def test_a_damaged_file_is_scored_again(trained, tmp_path, counted):
    first = of_base(qlora.open_scorer(trained.base, tmp_path), "eval")
    (file,) = (tmp_path / "scores").iterdir()
    content = file.read_bytes()
    digit = content.index(b'"row_losses":[') + 15  # after the point or before it: another number
    another = content[:digit] + (b"1" if content[digit:][:1] != b"1" else b"2") + content[digit + 1 :]
    for damaged in (another, content[: len(content) // 2], b""):
        file.write_bytes(damaged)
        counted.clear()
        assert of_base(qlora.open_scorer(trained.base, tmp_path), "eval") == first
        assert counted == ["load", "padded_losses"]
        assert file.read_bytes() == content


def test_the_first_rows_come_with_the_log_probabilities_of_their_tokens(trained):
    answer = of_base(trained.scorer, adapters=trained.files, samples=MOST_SAMPLES)
    assert len(answer.samples) == MOST_SAMPLES
    assert [row_digest(sample.ids, sample.labelled) for sample in answer.samples] == list(answer.row_digests[:32])
    assert (len(answer.row_digests), len(set(answer.row_digests))) == (40, 40)
    for name in (BASE, "weak", "strong"):
        rows = answer.logprobs[name]
        assert [len(row) for row in rows] == [len(sample.labelled) for sample in answer.samples]
        # Rounded to 6 decimals, for up to 20 tokens.
        assert [-sum(row) for row in rows] == pytest.approx(answer.scores[name].row_losses[:32], abs=2e-5)
    assert of_base(trained.scorer).logprobs == {BASE: ()}
