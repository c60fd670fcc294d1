"""Asks the hub whether a model or a data set exists, may be read, and which files it has.

Asks once before a sweep starts, within seconds; the downloads of huggingface_hub retry for up to half a minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SECONDS = 5.0
"""The timeout of one request."""
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True)
class HubReply:
    """The answer of the hub; one of the three fields is set."""

    files: frozenset[str] = frozenset()
    """Names of the files at the revision, without those in folders."""
    refusal: str | None = None
    """Why the hub refuses access: its own reason, and what to do."""
    unreachable: str | None = None
    """Why the hub did not answer."""


def ask(name: str, kind: Literal["model", "dataset"], revision: str | None) -> HubReply:
    """Asks the hub. Downloads the configuration of a model into the local cache."""
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
        return HubReply(files=files)
    except OfflineModeIsEnabled:
        return HubReply(unreachable="it is switched off by HF_HUB_OFFLINE")
    except HfHubHTTPError as error:
        return _judged(error)
    # Errors of the HTTP library, whose types differ by version, and answers of a proxy instead of the hub.
    except Exception as error:
        return HubReply(unreachable=_line(str(error)) or type(error).__name__)


def _judged(error: Exception) -> HubReply:
    """Turns an HTTP error into an answer. Only an error of the hub itself is a refusal, not one of a proxy."""
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
            return HubReply(unreachable=_line(str(error)))
    return HubReply(refusal=f"the hub says: {reason}: {way_out}")


def _line(text: str) -> str:
    """Returns the first line that is not blank, without its full stop."""
    return next((line.strip().rstrip(".") for line in text.splitlines() if line.strip()), "")
