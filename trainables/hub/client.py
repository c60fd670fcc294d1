"""What the hub says of a model or a data set: whether it is there, may be read, and which files it has.

Asked once before a sweep starts, within seconds: huggingface_hub's own downloads try for up to half a minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SECONDS = 5.0
"""How long one question waits."""
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True)
class Answer:
    """What the hub says; one of the three is given."""

    files: frozenset[str] = frozenset()
    """Names of the files at that revision, those in folders left out."""
    refusal: str | None = None
    """Why it gives nothing: its own reason and the way out."""
    unreachable: str | None = None
    """Why it did not answer."""


def ask(name: str, kind: Literal["model", "dataset"], revision: str | None) -> Answer:
    """The hub's answer. Of a model the configuration is fetched, so that it is in the local cache from now on."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi()
    try:
        info = api.repo_info(name, repo_type=kind, revision=revision, timeout=SECONDS)
        siblings = getattr(info, "siblings", None) or ()
        files = frozenset(file.rfilename for file in siblings if "/" not in file.rfilename)
        if kind == "model" and "config.json" in files:
            hf_hub_download(name, "config.json", revision=revision, etag_timeout=SECONDS)
        elif getattr(info, "gated", False):
            api.auth_check(name, repo_type=kind)
        return Answer(files=files)
    except OfflineModeIsEnabled:
        return Answer(unreachable="it is switched off by HF_HUB_OFFLINE")
    except HfHubHTTPError as error:
        return _judged(error)
    # What its HTTP library raises, whose name differs by version; what a proxy answers in the hub's place.
    except Exception as error:
        return Answer(unreachable=_line(str(error)) or type(error).__name__)


def _judged(error: Exception) -> Answer:
    """An answer of the hub itself; other servers answer too (a proxy, a page to log in), which says nothing."""
    from huggingface_hub.errors import DisabledRepoError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    said = getattr(error, "server_message", None)
    reason = _line(said) if said else _line("\n".join(str(error).splitlines()[1:]))
    match error:
        case GatedRepoError():
            way_out = f"ask for access on its page, and {_LOG_IN}"
        case RepositoryNotFoundError():
            way_out = f"check the name; for a private one, {_LOG_IN}"
        case RevisionNotFoundError():
            way_out = "check the revision"
        case DisabledRepoError():
            way_out = "choose another"
        case _ if said and getattr(getattr(error, "response", None), "status_code", 0) in (401, 403):
            way_out = _LOG_IN
        case _:
            return Answer(unreachable=_line(str(error)))
    return Answer(refusal=f"the hub says: {reason}: {way_out}")


def _line(text: str) -> str:
    """The first line that says something, without its full stop."""
    return next((line.strip().rstrip(".") for line in text.splitlines() if line.strip()), "")
