"""Requests to the server of the search page, and what it answers."""

import http.client
import json
from urllib.parse import urlsplit


def ask(address: str, path: str, body: object = None, method: str = '', **headers: str) -> tuple[int, bytes]:
    """Sends a request with this very path; returns the status and the body of the answer."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    try:
        connection.request(
            method or ('POST' if body is not None else 'GET'),
            path,
            body,
            {name.replace('_', '-'): value for name, value in headers.items()},
        )
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def found(answer: tuple[int, bytes]) -> list[dict]:
    assert answer[0] == 200, answer
    return json.loads(answer[1])['found']


def refusal(answer: tuple[int, bytes], status: int) -> str:
    assert answer[0] == status, answer
    return json.loads(answer[1])['error']


TOP = 5  # images that the served page finds
