"""What `stop`, `add` and `extend` share: they read values, and print the answer to a request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sweeps.cli.shared import as_words, say
from sweeps.cli.submitted import CommandOutput, end_with

if TYPE_CHECKING:
    from sweeps.record.events import RequestAnswered
    from sweeps.record.folder import SweepFolder

NO_JSON = "must be a finite number, true, false, null, text (a date needs quotes), or a list of such values"


def tell(folder: SweepFolder, answer: RequestAnswered, as_json: bool) -> None:
    """Prints the answer, and ends the command: exit code 0 if the request was accepted, else 2."""
    from sweeps.record.folder import is_driven

    if (answer.point is not None or answer.changes) and not is_driven(folder):
        say(f"the sweep is not running: qsweep resume {folder.path} goes on with it")
    line = f"{'' if answer.is_accepted else 'refused: '}{answer.message}"
    closing = {"dir": str(folder.path), "accepted": answer.is_accepted, "message": answer.message}
    end_with(CommandOutput((line,), closing, 0 if answer.is_accepted else 2), as_json)


def values_of(words: list[str]) -> dict[str, Any]:
    """Reads words such as learning_rate=3e-4; returns key -> value, parsed as YAML.

    Raises:
        ConfigError: a word is not KEY=VALUE, a value cannot travel as JSON, or a key stands twice.
    """
    import yaml

    from sweeps.config import yaml_files
    from sweeps.errors import ConfigError

    values: dict[str, Any] = {}
    wrong = []
    for word in as_words(words):
        key, equals, text = word.partition("=")
        if not equals or not key:
            wrong.append(f"{word}: is not KEY=VALUE")
            continue
        if word.encode(errors="replace").decode() != word:
            wrong.append(f"{word!a}: holds bytes that are not UTF-8")
            continue
        if key in values:
            wrong.append(f"{key}: stands twice")
        try:
            values[key] = yaml_files.parse(text)
            # A request travels as JSON, which has no dates and no infinite numbers.
            json.dumps(values[key], allow_nan=False)
        except yaml_files.OldNumber as error:
            wrong.append(f"{key}: {error.problem}")
        except yaml.YAMLError:
            wrong.append(f"{key}: {text!r} is not a YAML value")
        except (TypeError, ValueError):
            wrong.append(f"{key}: {text!r} {NO_JSON}")
    if wrong:
        raise ConfigError(wrong)
    return values
