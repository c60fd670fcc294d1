"""What the commands around promotion print. Light until a sweep is found: MLflow is imported after that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sweeps.errors import ConfigError
from sweeps.report.summary import console
from sweeps.tracking import stores
from trainables.inputs import paths

if TYPE_CHECKING:
    from sweeps.config.model import SweepConfig
    from sweeps.promotion.context import PromotionRequest
    from sweeps.promotion.promote import Outcome
    from sweeps.promotion.rollback import RolledBack


def asked(sweep: str, policy: Mapping[str, object], **options: Any) -> PromotionRequest:
    """What the command line says. Raises `SweepError` at once when the sweep or its store is not there."""
    rows = options.get("eval_data")
    if rows is not None and not paths.is_file(rows):
        raise ConfigError([f"--eval-data: {rows.absolute()} is not a file"])
    place = stores.find(sweep, options.pop("tracking_uri"))
    from sweeps.promotion.context import PromotionRequest

    return PromotionRequest(place, policy, **options)


def check(config: SweepConfig) -> None:
    """Raises `SweepError` or `HostError` when a sweep cannot be promoted at its end, whatever comes of it."""
    from cluster.scoring_host import can_score

    if config.promotion.model is None:
        raise ConfigError(["promotion.model: --promote needs it: the name of the registered model"])
    can_score(config.trainable)


def promote(request: PromotionRequest) -> Outcome:
    """Promotes, a line for each step and the gate as a table."""
    from sweeps.promotion import cards
    from sweeps.promotion import promote as promoting

    out = console()

    def say(line: str) -> None:
        out.print(line, markup=False, soft_wrap=True)

    def show(verdict: Any) -> None:
        out.print()
        out.print(cards.table(verdict))
        out.print()

    outcome = promoting.promote(request, say, show)
    for reason in outcome.reasons:
        say(f"not promoted: {reason}")
    return outcome


def roll_back(model: str, to: str | None, alias: str, tracking_uri: str | None) -> RolledBack:
    """Moves the alias back and says what changed."""
    stores.store(tracking_uri)
    from sweeps.promotion import rollback

    done = rollback.rollback(model, to, alias, tracking_uri)
    before = f" (before: version {done.before})" if done.before is not None else ""
    console().print(f"{done.model}: {done.alias} is version {done.version}{before}", markup=False, soft_wrap=True)
    return done


def show_models(model: str | None, tracking_uri: str | None) -> list[dict[str, Any]]:
    """Prints the models, and the history of one that was named; all of it as JSON data."""
    stores.store(tracking_uri)
    from sweeps.promotion import rollback

    out = console()
    found = rollback.models(model, tracking_uri)
    if not found:
        out.print("no promoted models", markup=False)
    else:
        out.print(rollback.table(found))
    if model is not None:
        out.print()
        out.print(rollback.history(found[0][0]))
    return [rollback.as_json(each) for each, _ in found]
