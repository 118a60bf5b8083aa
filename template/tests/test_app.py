"""Tests of your application; `client` sends valid credentials, if there are any."""

from fastapi.testclient import TestClient


def test_every_response_has_a_request_id(client: TestClient) -> None:
    response = client.get("/")
    assert response.headers["x-request-id"]
