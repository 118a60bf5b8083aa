"""The start page, in this process."""

from fastapi.testclient import TestClient


def test_questions(client: TestClient) -> None:
    assert client.get("/v1/questions").json()["questions"][0]["name"] == "project_name"
