"""What to tell a person whom a Ray cluster does not let in: it wants a token, and got none or another."""

from __future__ import annotations


def not_let_in(text: str) -> str | None:
    """The words for what Ray says of a token (2.60: ray/_private/authentication, and its dashboard), or None."""
    if text.startswith("Authentication required") or "no authentication token was found" in text:
        return (
            "the cluster wants a token and got none (401): set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH (ray get-auth-token on the head node prints the token)"
        )
    if text.startswith("Authentication failed") or "token is invalid or incorrect" in text:
        return (
            "the cluster does not accept this token (403): compare RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH or "
            "~/.ray/auth_token with that of the head node (ray get-auth-token)"
        )
    return None
