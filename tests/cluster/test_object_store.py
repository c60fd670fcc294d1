"""What an object store refuses is told in words, and of its answers, which may hold credentials, only the code."""

from __future__ import annotations

import pytest
import web_servers

from cluster.doctor import stores
from cluster.doctor.contract import Needs, Site
from sweeps.mirror.store import Store, StoreError

SECRETS = {"AWS_ACCESS_KEY_ID": "AKIA4711", "AWS_SECRET_ACCESS_KEY": "sk0815", "AWS_SESSION_TOKEN": "FwoGZXIv0815"}
XML = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>{}</Code><Message>It is AKIA4711</Message><Token-0>FwoGZXIv0815</Token-0>\
<AWSAccessKeyId>AKIA4711</AWSAccessKeyId><StringToSign>sk0815</StringToSign></Error>"""
JSON = '{{"error": "{}", "token": "FwoGZXIv0815", "key": "AKIA4711"}}'


@pytest.mark.parametrize(
    ("status", "code", "body", "told"),
    [
        (
            400,
            "ExpiredToken",
            XML,
            "the credentials have expired (ExpiredToken): get new ones; AWS_SESSION_TOKEN belon",
        ),
        (400, "InvalidToken", XML, "the credentials have expired (InvalidToken): get new ones"),
        (403, "SignatureDoesNotMatch", XML, "access is denied to these credentials: set AWS_ACCESS_KEY_ID"),
        (403, "RequestTimeTooSkewed", XML, "where a role gives them (RequestTimeTooSkewed)"),
        (400, "AuthorizationHeaderMalformed", XML, "400 Bad Request: AuthorizationHeaderMalformed"),
        (400, "Odd", JSON, "400 Bad Request"),
    ],
)
def test_of_a_refusal_the_code_is_told_and_no_credential(monkeypatch, status, code, body, told):
    shown = refusals(monkeypatch, status, body.format(code))
    assert [told in text for text in shown] == [True] * 4, shown
    assert not any("Odd" in text for text in shown), "an answer that is no XML is not shown"


def refusals(monkeypatch: pytest.MonkeyPatch, status: int, body: str) -> list[str]:
    """What a mirror says of each request, and the doctor; none holds a credential."""
    with web_servers.answering(status, body) as address:
        for name, value in {**SECRETS, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://{address}"}.items():
            monkeypatch.setenv(name, value)
        store = Store("s3://bucket/sweeps/toy")
        shown = []
        for asks in (lambda: store.read("a"), lambda: store.write("a", b"1", None), lambda: store.names("objects")):
            with pytest.raises(StoreError) as told:
                asks()
            shown.append(str(told.value))
        answer = stores.storage(Site(needs=Needs(storage="s3://bucket/sweeps")))
    assert answer.state == "fail"
    shown.append(answer.seen)
    assert [text for text in shown if any(secret in text for secret in SECRETS.values())] == []
    return shown
