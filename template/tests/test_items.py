"""The example resource: create, read, list, change, delete."""

from typing import Any

import pytest
from fastapi.testclient import TestClient


def create(client: TestClient, name: str = "lamp", **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/items", json={"name": name, **fields})
    assert answer.status_code == 201
    created: dict[str, Any] = answer.json()
    return created


def test_a_new_item_is_where_its_location_says(client: TestClient) -> None:
    created = client.post("/v1/items", json={"name": "lamp", "description": "", "quantity": 3})
    assert created.status_code == 201
    assert created.headers["etag"] == '"1"'
    read = client.get(created.headers["location"])
    assert read.status_code == 200
    assert read.headers["etag"] == '"1"'
    assert read.json() == created.json()
    assert read.json() == {
        "id": read.json()["id"],
        "name": "lamp",
        "description": "",
        "quantity": 3,
        "version": 1,
    }


def test_a_name_is_taken_once(client: TestClient) -> None:
    create(client)
    answer = client.post("/v1/items", json={"name": "lamp"})
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert [item["name"] for item in client.get("/v1/items").json()["items"]] == ["lamp"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"{}", "/body/name"),
        (b'{"name": ""}', "/body/name"),
        (b'{"name": null}', "/body/name"),
        (b'{"name": "%s"}' % (b"a" * 101), "/body/name"),
        (b'{"name": "a\\u0000b"}', "/body/name"),
        (b'{"name": "a\\ud800b"}', "/body/name"),
        (b'{"name": "a", "description": "\\u0000"}', "/body/description"),
        (b'{"name": "a", "quantity": -1}', "/body/quantity"),
        (b'{"name": "a", "quantity": 2147483648}', "/body/quantity"),
        (b'{"name": "a", "quantity": 1e999}', "/body/quantity"),
        (b'{"name": "a", "colour": "red"}', "/body/colour"),
    ],
)
def test_what_no_column_can_hold_is_refused(client: TestClient, body: bytes, pointer: str) -> None:
    answer = client.post("/v1/items", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_the_longest_text_and_the_largest_number_are_kept(client: TestClient) -> None:
    fields = {"description": "é\n" * 500, "quantity": 2**31 - 1}
    assert create(client, "😀" * 100, **fields).items() >= fields.items()


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    ("path", "status"), [("9223372036854775807", 404), ("9223372036854775808", 422), ("0", 422)]
)
def test_there_is_no_such_item(client: TestClient, method: str, path: str, status: int) -> None:
    body = {"quantity": 1} if method == "PATCH" else None
    answer = client.request(method, f"/v1/items/{path}", json=body, headers={"If-Match": "*"})
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        ('"1"', 304),
        ('W/"1"', 304),
        ('"7", "1"', 304),
        ("*", 304),
        ('"2"', 200),
        ("1", 200),
        ("", 200),
        ('"99999999999999999999"', 200),
    ],
)
def test_who_has_this_version_gets_no_copy(client: TestClient, tags: str, status: int) -> None:
    item = create(client)
    answer = client.get(f"/v1/items/{item['id']}", headers={"If-None-Match": tags})
    assert answer.status_code == status
    assert answer.headers["etag"] == '"1"'
    assert bool(answer.content) == (status == 200)


def test_pages_hold_each_item_once_though_others_come_and_go(client: TestClient) -> None:
    items = [create(client, f"item {number}") for number in range(5)]
    first = client.get("/v1/items", params={"limit": 2}).json()
    assert first["items"] == items[:2]
    client.delete(f"/v1/items/{items[1]['id']}")
    later = create(client, "later")
    second = client.get("/v1/items", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert second["items"] == items[2:4]
    last = client.get("/v1/items", params={"limit": 2, "cursor": second["next_cursor"]}).json()
    assert last == {"items": [items[4], later], "next_cursor": None}


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("cursor=me", "/query/cursor"),
        ("cursor=~~~~~~~~~~~", "/query/cursor"),
        ("cursor=", "/query/cursor"),
        ("limit=0", "/query/limit"),
        ("limit=101", "/query/limit"),
        ("limit=many", "/query/limit"),
    ],
)
def test_a_bad_page_is_refused(client: TestClient, query: str, pointer: str) -> None:
    answer = client.get(f"/v1/items?{query}")
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


@pytest.mark.parametrize("cursor", ["AAAAAAAAAAA", "___________", "-----------", "f_________8"])
def test_a_cursor_that_nobody_gave_is_some_place(client: TestClient, cursor: str) -> None:
    assert client.get("/v1/items", params={"cursor": cursor}).status_code == 200


def test_a_change_leaves_the_other_fields_alone(client: TestClient) -> None:
    item = create(client, description="bright", quantity=3)
    url = f"/v1/items/{item['id']}"
    answer = client.patch(url, json={"quantity": 4}, headers={"If-Match": '"1"'})
    assert answer.status_code == 200
    assert answer.headers["etag"] == '"2"'
    assert answer.json() == {**item, "quantity": 4, "version": 2}
    answer = client.patch(url, json={"description": None}, headers={"If-Match": '"2"'})
    assert client.get(url).json() == {**item, "quantity": 4, "description": None, "version": 3}


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        ('"1"', 200),
        ('"7", "1"', 200),
        ("*", 200),
        (None, 428),
        ('W/"1"', 412),
        ('"2"', 412),
        ("1", 412),
        ("", 412),
        ('"99999999999999999999"', 412),
    ],
)
def test_only_who_knows_the_version_changes_it(
    client: TestClient, tags: str | None, status: int
) -> None:
    item = create(client)
    headers = {} if tags is None else {"If-Match": tags}
    answer = client.patch(f"/v1/items/{item['id']}", json={"quantity": 9}, headers=headers)
    assert answer.status_code == status
    quantity = client.get(f"/v1/items/{item['id']}").json()["quantity"]
    assert quantity == (9 if status == 200 else 0)


@pytest.mark.parametrize("change", [{"name": None}, {"colour": "red"}, {"id": 2}, {"version": 2}])
def test_a_change_that_fits_no_schema_is_refused(
    client: TestClient, change: dict[str, Any]
) -> None:
    item = create(client)
    answer = client.patch(f"/v1/items/{item['id']}", json=change, headers={"If-Match": "*"})
    assert answer.status_code == 422
    assert client.get(f"/v1/items/{item['id']}").json() == item


def test_a_change_can_not_take_another_items_name(client: TestClient) -> None:
    create(client)
    other = create(client, "chair")
    url = f"/v1/items/{other['id']}"
    answer = client.patch(url, json={"name": "lamp"}, headers={"If-Match": '"1"'})
    assert answer.status_code == 409
    assert client.get(url).json() == other


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 204), ({"If-Match": '"1"'}, 204), ({"If-Match": '"2"'}, 412)]
)
def test_a_deleted_item_is_gone(client: TestClient, headers: dict[str, str], status: int) -> None:
    url = f"/v1/items/{create(client)['id']}"
    assert client.delete(url, headers=headers).status_code == status
    assert client.get(url).status_code == (404 if status == 204 else 200)


def test_every_status_is_documented(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    documented = {
        f"{method} {path}": set(operation["responses"]) - {"4XX", "5XX"}
        for path in ("/v1/items", "/v1/items/{item_id}")
        for method, operation in paths[path].items()
    }
    assert documented == {
        "post /v1/items": {"201", "409"},
        "get /v1/items": {"200"},
        "get /v1/items/{item_id}": {"200", "304", "404"},
        "patch /v1/items/{item_id}": {"200", "404", "409", "412", "428"},
        "delete /v1/items/{item_id}": {"204", "404", "412"},
    }
