"""What ends a request before its answer begins: the client's fault is told, ours is logged."""

from __future__ import annotations

import json
import logging

import pytest

from gateway.errors import InvalidRequestError
from gateway.http.errors import failure_response


def test_a_fault_of_the_client_is_told_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    response = failure_response(InvalidRequestError("no such field", param="n"), "req-1")
    assert response.status_code == 400
    assert response.headers["x-request-id"] == "req-1"
    assert json.loads(response.body)["error"]["message"] == "no such field"
    assert caplog.records == []


def test_our_own_bug_is_logged_with_its_trace_and_told_to_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    try:
        raise KeyError("a secret of the inside")
    except KeyError as error:
        with caplog.at_level(logging.ERROR):
            response = failure_response(error, "req-2")
    assert response.status_code == 500
    assert response.headers["x-request-id"] == "req-2"
    assert b"secret" not in response.body
    assert json.loads(response.body)["error"]["type"] == "server_error"
    [record] = caplog.records
    assert "req-2" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError
