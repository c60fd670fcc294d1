"""Serves a promoted LoRA adapter as an MLflow model. A package holds a copy of this file as the model's code.

The model loads the base of training from its source in `base.json`, checks that it is the same base, quantises it as in
training, and adds the adapter. Beside the standard library it needs only what requirements.txt lists.
"""

import copy
import datetime
import hashlib
import importlib.util
import inspect
import json
import logging
import string
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow

_MIB = 1 << 20
# The most tokens whose keys and values, and whose logits, exist at one time while labels are ranked.
_CACHED_TOKENS, _LOGIT_TOKENS = 8192, 512
# Templates that write today's date write this one, as in the prompts of training.
_TODAY = datetime.datetime(2024, 7, 26, tzinfo=datetime.timezone.utc)  # noqa: UP017 - runs on any Python 3


class _Adapter:
    """The methods of `PromotedAdapter`. MLflow advises type hints for a `predict` of the model's own class."""

    def load_context(self, context: Any) -> None:
        """Loads base, adapter and tokenizer."""
        self._base = json.loads(Path(context.artifacts["base"]).read_text(encoding="utf-8"))
        with _quiet():
            from peft import PeftModel
            from transformers import AutoTokenizer

            trusted = self._base["trust_remote_code"]
            self._tokenizer = AutoTokenizer.from_pretrained(context.artifacts["tokenizer"], trust_remote_code=trusted)
            self._tokenizer.padding_side = "left"
            self._model = PeftModel.from_pretrained(_load(self._base), context.artifacts["adapter"])
            self._model.eval()

    # MLflow would read type hints here as a schema, which the signature gives.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        """Returns the answer to each row of `model_input`.

        The answer is the likeliest of base.json's labels. Without labels, or with `generate`, it is generated: greedy
        unless `temperature` is above 0. It then ends at an end token of training or of the base, or after
        `max_new_tokens`. Settings of the base that punish repetition are off: adapters are evaluated without them.
        """
        import torch

        asked = {"max_new_tokens": 256, "temperature": 0.0, "generate": False, **(params or {})}
        if self._base["labels"] and not asked["generate"]:
            ranked = (self.label_losses(row) for row in model_input.to_dict("records"))
            return [min(losses, key=losses.__getitem__) for losses in ranked]
        sampling = {"do_sample": True, "temperature": asked["temperature"]} if asked["temperature"] > 0 else {}
        ends = self._ends()
        answers = []
        for row in model_input.to_dict("records"):
            ids = torch.tensor([self.prompt_ids(row)], device=self._model.device)
            with torch.no_grad():
                made = self._model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=int(asked["max_new_tokens"]),
                    pad_token_id=self._tokenizer.pad_token_id,
                    repetition_penalty=1.0,
                    no_repeat_ngram_size=0,
                    use_cache=True,
                    **({"eos_token_id": ends} if ends else {}),
                    **(sampling or {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}),
                )
            answers.append(self._tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
        return answers

    def _ends(self) -> list[int]:
        """Returns the tokens that end an answer: the base's own and those of training."""
        own = self._model.generation_config.eos_token_id
        own = [own] if isinstance(own, int) else own or []
        return sorted({*own, *self._base.get("ends", {}).values()})

    def label_losses(self, row: dict[str, Any]) -> dict[str, float]:
        """Returns label -> negative log-likelihood of the label and an end token as the answer to a row, in nats."""
        import torch

        asked, inner, device = self._asked(row), self._model.get_base_model(), self._model.device
        prompt, whole = self._ids(asked), {label: self._ids(asked, label) for label in self._base["labels"]}
        alike = enumerate(zip(prompt, *whole.values(), strict=False))
        # As in the metric, the last token that all have in common predicts the first one that counts.
        start = max(1, next((place for place, tokens in alike if len({*tokens}) > 1), len(prompt))) - 1
        own, before, losses = [ids[start:] for ids in whole.values()], {}, []
        longest = max(map(len, own), default=1)
        most = max(1, min(_CACHED_TOKENS // (start + longest), _LOGIT_TOKENS // longest))
        with torch.no_grad():
            if start:
                known = inspect.signature(inner.forward).parameters
                name = "cache" if "cache" in known else "past_key_values"  # before transformers 5.24
                ids = torch.tensor([prompt[:start]], device=device)
                before = {name: inner.base_model(input_ids=ids, use_cache=True)[name]}
            for first in range(0, len(own), most):
                # Padded on the right, where causal attention needs no mask; -100 is no token, and has no loss.
                padded = [each + [-100] * (longest - len(each)) for each in own[first : first + most]]
                ids = torch.tensor(padded, device=device)
                cached = copy.deepcopy(before)
                for cache in cached.values():
                    cache.reorder_cache(torch.zeros_like(ids[:, 0]))
                logits = self._model(input_ids=ids.clamp(min=0), use_cache=True, **cached).logits[:, :-1]
                found = torch.nn.functional.cross_entropy(logits.float().mT, ids[:, 1:], reduction="none")
                losses += found.double().sum(1).tolist()
        return dict(zip(whole, losses, strict=True))

    def prompt_ids(self, row: dict[str, Any]) -> list[int]:
        """Returns the tokens of a row's prompt, as in training."""
        return self._ids(self._asked(row))

    def _asked(self, row: dict[str, Any]) -> str | list[dict[str, Any]]:
        """Returns a row's prompt: a text, or the messages of a chat."""
        form = self._base["form"]
        if form.get("messages") is not None:
            return _chat(row, form["messages"])
        prompt = _filled(form["prompt"], row) if form["prompt"] is not None else str(row["prompt"])
        if form["text"] is not None or not self._tokenizer.chat_template:
            return prompt
        system = [] if form["system"] is None else [{"role": "system", "content": form["system"]}]
        return [*system, {"role": "user", "content": prompt}]

    def _ids(self, asked: str | list[dict[str, Any]], answer: str | None = None) -> list[int]:
        """Returns the tokens of a prompt; of prompt, answer and end token where there is an answer."""
        tokenizer = self._tokenizer
        begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        if not isinstance(asked, str):
            text = tokenizer.apply_chat_template(
                asked if answer is None else [*asked, {"role": "assistant", "content": answer}],
                chat_template=_with_fixed_date(tokenizer.get_chat_template()),
                tokenize=False,
                add_generation_prompt=answer is None,
            )
            return list(tokenizer(text if answer is None else self._ended(text), add_special_tokens=False)["input_ids"])
        ids = list(tokenizer(asked + (answer or ""))["input_ids"])
        if begin is not None and ids[:2] == [begin, begin]:
            ids = ids[1:]
        while end is not None and ids[-1:] == [end] and ids != [begin]:
            ids = ids[:-1]
        return ids if answer is None or end is None else [*ids, end]

    def _ended(self, text: str) -> str:
        """Removes white space after the end token of a chat, or adds an end token if there is none."""
        own, added = self._tokenizer.eos_token or "", self._tokenizer.added_tokens_decoder.values()
        ends = tuple({token.content for token in added if token.special} | {own} - {""})
        return text.rstrip() if text.rstrip().endswith(ends) else text + own

    def score(self, ids: list[int], labelled: list[int]) -> float:
        """Returns the total negative log-likelihood, in nats, of the tokens at the positions `labelled`."""
        import torch

        whole = torch.tensor([ids], device=self._model.device)
        with torch.no_grad():
            logits = self._model(input_ids=whole, use_cache=False).logits[0, [place - 1 for place in labelled]]
        return float(torch.nn.functional.cross_entropy(logits.float(), whole[0, labelled], reduction="sum"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides progress bars and advice of libraries while the model is loaded."""
    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging as told

    # On CPUs with AVX512-BF16 bitsandbytes advises a kernel, which the model does not use (backends/cpu/ops.py, 0.50).
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    level, has_bars = told.get_verbosity(), told.is_progress_bar_enabled()
    told.set_verbosity_error()
    told.disable_progress_bar()
    gguf.tqdm = told.tqdm  # from now on this bar obeys the same switch
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # they are for the callers of each other's functions
            yield
    finally:
        told.set_verbosity(level)
        if has_bars:
            told.enable_progress_bar()


def _load(base: dict[str, Any]) -> Any:
    """Loads the base, quantised and frozen as in training."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    trusted, dtype = base["trust_remote_code"], getattr(torch, base["quantization"]["compute_dtype"])
    device: Any = {"": "cuda:0" if torch.cuda.is_available() else "cpu"}
    # Fills the first of several GPUs, and further ones only with the rest.
    device = "sequential" if torch.cuda.device_count() > 1 else device
    options: dict[str, Any] = {"dtype": dtype, "device_map": device, "trust_remote_code": trusted}
    if base["loading"]:
        options["quantization_config"] = BitsAndBytesConfig(**base["loading"])
    with tempfile.TemporaryDirectory() as work:
        origin = _located(base)
        if base["kind"] == "gguf":
            origin = _dequantised(origin, work)
        revision = base["revision"] if base["kind"] == "hub" else None
        model = AutoModelForCausalLM.from_pretrained(origin, revision=revision, use_safetensors=True, **options)
    for module in model.modules():
        # On a CPU with AVX512-BF16, bitsandbytes 0.50 computes otherwise than training did.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model.requires_grad_(False).eval()


def _dequantised(file: str, work: str) -> str:
    """Writes the weights of a GGUF file to a folder in float32, and returns the folder."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    plain = AutoModelForCausalLM.from_pretrained(
        str(Path(file).parent),
        gguf_file=Path(file).name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    plain.save_pretrained(work)
    return work


def _located(base: dict[str, Any]) -> str:
    """Checks the weights of the base, and returns what `from_pretrained` loads it from."""
    source = str(base["source"])
    if base["kind"] == "hub":
        from huggingface_hub import hf_hub_download

        _check(base, {name: Path(hf_hub_download(source, name, revision=base["revision"])) for name in base["files"]})
        return source
    if source.startswith("package:"):
        package, _, file = source.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package) or importlib.util.find_spec(package.replace("-", "_"))
        folders = list(spec.submodule_search_locations or ()) if spec is not None else []
        path = next((Path(folder) / file for folder in folders if (Path(folder) / file).is_file()), None)
        if path is None:
            known = "that was installed where the adapter was trained"
            raise FileNotFoundError(f"the base {source} is not here: install the package {package} {known}")
    else:
        path = Path(source).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"the base {source} is not there: put it where the adapter was trained on it")
    _check(base, {name: path / name if path.is_dir() else path for name in base["files"]})
    return str(path)


def _check(base: dict[str, Any], files: dict[str, Path]) -> None:
    """Raises ValueError if a weight file is not the one of training."""
    for name, digest in base["files"].items():
        if _sampled_digest(files[name]) != digest:
            where = f"{base['source']} at {base['revision']}" if base["kind"] == "hub" else base["source"]
            raise ValueError(f"the base {where} is not the one that the adapter was trained on: {name} differs")


def _sampled_digest(path: Path) -> str:
    """Returns a digest over a file's size, its first and last MiB, and 63 pages between."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}\n".encode())
    pages = [(size * part // 64, 4096) for part in range(1, 64)]
    with path.open("rb", buffering=0) as file:
        for start, length in [(0, _MIB), *pages, (max(0, size - _MIB), _MIB)]:
            file.seek(start)
            digest.update(file.read(length))
    return digest.hexdigest()


def _chat(row: dict[str, Any], column: str) -> list[dict[str, Any]]:
    """Returns the chat in a column. Raises ValueError if there is none."""
    try:
        chat = [{key: said for key, said in message.items() if said is not None} for message in json.loads(row[column])]
        for message in chat:
            # In OpenAI's form, an answer that calls a tool may lack a text. The text is then empty, as in training.
            if message.get("tool_calls"):
                message.setdefault("content", "")
        known = [(message["role"], message["content"]) for message in chat]
    except (AttributeError, TypeError, ValueError, KeyError):
        known = []
    if not known or not all(isinstance(word, str) for message in known for word in message):
        way_out = "" if isinstance(row.get(column), str) else ", as one text: json.dumps(chat)"
        raise ValueError(
            f"column {column!r} must be the JSON of a chat, a list of {{role, content}}, such as "
            f'[{{"role": "user", "content": "Hello"}}]{way_out}'
        )
    if chat[-1]["role"] == "assistant":
        warnings.warn(
            f"column {column!r} ends with a message of the assistant, and the answer follows on it: leave that out for "
            "an answer to the message before",
            stacklevel=2,
        )
    return chat


def _filled(template: str, row: dict[str, Any]) -> str:
    parts = string.Formatter().parse(template)
    return "".join(text + ("" if column is None else str(row[column])) for text, column, _, _ in parts)


def _with_fixed_date(template: str) -> str:
    if "strftime_now" not in template:
        return template
    codes = "".join(f"|replace('%{code}', '{_TODAY.strftime('%' + code)}')" for code in "aAbBdHIjmMpSyY")
    return "{% macro strftime_now(format) %}{{ format" + codes + " }}{% endmacro %}" + template


class PromotedAdapter(_Adapter, mlflow.pyfunc.PythonModel):
    """Answers prompts: the inputs are the columns of the training prompt, or a chat as JSON."""


mlflow.models.set_model(PromotedAdapter())
