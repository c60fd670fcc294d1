"""Rewrites error messages for Python: options (--dry-run) become keyword arguments, and domains become calls."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from sweeps.errors import ConfigError
from trainables.errors import QsweepError

P = ParamSpec("P")
R = TypeVar("R")
_KEYWORDS = (
    "address", "alias", "dry-run", "eval-data", "force", "metric", "min-gain", "model", "offline", "output", "price",
    "resend",
    "storage", "top", "tracking-uri", "trial",
)  # fmt: skip
_SWITCHES = ("dry-run", "force", "offline", "resend")
_OPTION = re.compile(rf"qsweep [a-z-]+ [^:;,()]*|--({'|'.join(_KEYWORDS)})(?![\w-])")
"""A whole command, which stays as it is, or an option outside of a command, which is rewritten."""
_DOMAIN = re.compile(r"\{(q?(?:log)?uniform|q?randint|choice|grid): (\[[^]]*\])(?:, prior: ([^{}]*))?\}")


def with_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Wraps a function, so that its errors name keyword arguments in place of options of the command line."""

    @wraps(function)
    def called(*given: P.args, **named: P.kwargs) -> R:
        try:
            return function(*given, **named)
        except QsweepError as error:
            error.args = tuple(_in_python(each) for each in error.args)
            if isinstance(error, ConfigError):
                error.problems = tuple(_in_python(each) for each in error.problems)
            raise

    return called


def _in_python(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    text = re.sub(r'\b(prompt|completion): (?=")', r"\1=", _DOMAIN.sub(_domain, text))
    text = re.sub(r"\bwrite \{(\w+): ", r'write {"\1": ', text)
    return _OPTION.sub(_keyword, text)


def _domain(found: re.Match[str]) -> str:
    prior = "" if found[3] is None else f", prior={found[3]}"
    return f"qs.{found[1]}({found[2] if found[1] in ('choice', 'grid') else found[2][1:-1]}{prior})"


def _keyword(option: re.Match[str]) -> str:
    if option[1] is None:
        return option[0]
    return option[1].replace("-", "_") + ("=True" if option[1] in _SWITCHES else "")
