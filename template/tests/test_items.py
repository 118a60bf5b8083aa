"""Items: create, read, list, change, delete."""

import json
from itertools import count
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

URL = "/v1/items"
NUMBERS = count(1)


def body(**fields: Any) -> dict[str, Any]:
    """Return what creates an item, with values that no other one has."""
    number = next(NUMBERS)
    return {
        "name": f"name {number}",
        "description": "description",
        "quantity": 3,
        **fields,
    }


def post(client: TestClient, body: dict[str, Any]) -> Response:
    # Not with `json=`, which refuses some of the values below.
    headers = {"Content-Type": "application/json"}
    return client.post(URL, content=json.dumps(body), headers=headers)


def create(client: TestClient, **fields: Any) -> dict[str, Any]:
    response = post(client, body(**fields))
    assert response.status_code == 201
    created: dict[str, Any] = response.json()
    return created


def test_a_new_item_is_at_its_location(client: TestClient) -> None:
    sent = body()
    created = post(client, sent)
    assert created.status_code == 201
    assert created.headers["etag"] == '"1"'
    read = client.get(created.headers["location"])
    assert read.status_code == 200
    assert read.headers["etag"] == '"1"'
    assert read.json() == created.json()
    assert read.json() == {**sent, "id": read.json()["id"], "version": 1}


def test_fields_that_are_left_out_have_their_defaults(client: TestClient) -> None:
    defaults = {
        "description": None,
        "quantity": 0,
    }
    sent = {name: value for name, value in body().items() if name not in defaults}
    created = post(client, sent)
    assert created.status_code == 201
    assert created.json() == {**created.json(), **sent, **defaults}


@pytest.mark.parametrize("field", ["name"])
def test_a_taken_value_is_a_409(client: TestClient, field: str) -> None:
    taken = create(client)
    response = post(client, body(**{field: taken[field]}))
    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert client.get(URL).json()["items"] == [taken]


@pytest.mark.parametrize("field", ["name"])
def test_a_change_to_a_taken_value_is_a_409(client: TestClient, field: str) -> None:
    taken, other = create(client), create(client)
    url = f"{URL}/{other['id']}"
    response = client.patch(url, json={field: taken[field]}, headers={"If-Match": '"1"'})
    assert response.status_code == 409
    assert client.get(url).json() == other


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", None),
        ("name", ""),
        ("name", "a" * 101),
        ("name", "\u0000"),
        ("name", "\ud800"),
        ("description", "a" * 1001),
        ("description", "\u0000"),
        ("description", "\ud800"),
        ("quantity", None),
        ("quantity", -1),
        ("quantity", 2**31),
        ("quantity", "1"),
        ("quantity", 1e999),
        ("unknown", "red"),
    ],
)
def test_an_invalid_value_is_a_422(client: TestClient, field: str, value: Any) -> None:
    response = post(client, body(**{field: value}))
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == [f"/body/{field}"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "😀" * 100),
        ("description", "é\n" * 500),
        ("quantity", 0),
        ("quantity", 2**31 - 1),
    ],
)
def test_values_at_the_limits_are_stored(client: TestClient, field: str, value: Any) -> None:
    created = create(client, **{field: value})
    assert created[field] == value
    assert client.get(f"{URL}/{created['id']}").json() == created


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize(("key", "status"), [(2**63 - 1, 404), (2**63, 422), (0, 422)])
def test_an_unknown_item_is_a_404_and_an_impossible_id_a_422(
    client: TestClient, method: str, key: int, status: int
) -> None:
    change: dict[str, Any] | None = {} if method == "PATCH" else None
    response = client.request(method, f"{URL}/{key}", json=change, headers={"If-Match": "*"})
    assert response.status_code == status


@pytest.mark.parametrize(("tags", "status"), [('"1"', 304), ("*", 304), ('"2"', 200)])
def test_a_client_that_has_the_newest_version_gets_a_304(
    client: TestClient, tags: str, status: int
) -> None:
    url = f"{URL}/{create(client)['id']}"
    response = client.get(url, headers={"If-None-Match": tags})
    assert response.status_code == status
    assert response.headers["etag"] == '"1"'
    assert bool(response.content) == (status == 200)


def test_pages_list_each_item_once_while_others_are_created_and_deleted(client: TestClient) -> None:
    created = [create(client) for _ in range(5)]
    first = client.get(URL, params={"limit": 2}).json()
    assert first["items"] == created[:2]
    client.delete(f"{URL}/{created[1]['id']}")
    later = create(client)
    second = client.get(URL, params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert second["items"] == created[2:4]
    last = client.get(URL, params={"limit": 2, "cursor": second["next_cursor"]}).json()
    assert last == {"items": [created[4], later], "next_cursor": None}


@pytest.mark.parametrize(
    ("query", "pointer"), [("cursor=me", "/query/cursor"), ("limit=101", "/query/limit")]
)
def test_a_bad_cursor_or_limit_is_a_422(client: TestClient, query: str, pointer: str) -> None:
    response = client.get(f"{URL}?{query}")
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]


def test_a_change_keeps_the_other_fields(client: TestClient) -> None:
    created = create(client)
    url = f"{URL}/{created['id']}"
    change = {"description": "other"}
    response = client.patch(url, json=change, headers={"If-Match": '"1"'})
    assert response.status_code == 200
    assert response.headers["etag"] == '"2"'
    assert response.json() == {**created, **change, "version": 2}
    assert client.get(url).json() == response.json()


@pytest.mark.parametrize(
    ("tags", "status"), [('"1"', 200), ('"7", "1"', 200), ("*", 200), (None, 428), ('"2"', 412)]
)
def test_a_change_needs_an_if_match_with_the_newest_version(
    client: TestClient, tags: str | None, status: int
) -> None:
    url = f"{URL}/{create(client)['id']}"
    headers = {} if tags is None else {"If-Match": tags}
    assert client.patch(url, json={}, headers=headers).status_code == status
    assert client.get(url).json()["version"] == (2 if status == 200 else 1)


@pytest.mark.parametrize("change", [{"id": 2}, {"version": 2}, {"name": None}])
def test_an_invalid_change_is_a_422_and_changes_nothing(
    client: TestClient, change: dict[str, Any]
) -> None:
    created = create(client)
    url = f"{URL}/{created['id']}"
    assert client.patch(url, json=change, headers={"If-Match": "*"}).status_code == 422
    assert client.get(url).json() == created


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 204), ({"If-Match": '"1"'}, 204), ({"If-Match": '"2"'}, 412)]
)
def test_a_deleted_item_is_a_404(client: TestClient, headers: dict[str, str], status: int) -> None:
    url = f"{URL}/{create(client)['id']}"
    assert client.delete(url, headers=headers).status_code == status
    assert client.get(url).status_code == (404 if status == 204 else 200)


def test_every_status_is_documented(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    documented = {
        f"{method} {path.removeprefix(URL)}": set(paths[path][method]["responses"]) - {"4XX", "5XX"}
        for path in (URL, URL + "/{item_id}")
        for method in paths[path]
    }
    assert documented == {
        "post ": {"201", "409"},
        "get ": {"200"},
        "get /{item_id}": {"200", "304", "404"},
        "patch /{item_id}": {"200", "404", "409", "412", "428"},
        "delete /{item_id}": {"204", "404", "412"},
    }
