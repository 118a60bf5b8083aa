"""${d.title}: create, read, list, change, delete."""

import datetime as dt
import json
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from .chassis.database.rows import insert

<% client = "client" if d.refs else "" %>\
URL = "${d.path}"
% if d.unique:
NUMBERS = count(1)
% endif


def body(${"client: TestClient, " if client else ""}**fields: Any) -> dict[str, Any]:
    """Return what creates ${d.an}${", with values that no other one has" if d.unique else ""}."""
% if any("number" in field.sample for field in d.unique):
    number = next(NUMBERS)
% endif
    return {
% for field in d.fields:
        "${field.name}": ${field.sample},
% endfor
        **fields,
    }


def post(client: TestClient, body: dict[str, Any]) -> Response:
    # Not with `json=`, which refuses some of the values below.
    headers = {"Content-Type": "application/json"}
    return client.post(URL, content=json.dumps(body), headers=headers)


def create(client: TestClient, **fields: Any) -> dict[str, Any]:
    response = post(client, body(${"client, " if client else ""}**fields))
    assert response.status_code == 201
    created: dict[str, Any] = response.json()
    return created


def test_a_new_${d.one}_is_at_its_location(client: TestClient) -> None:
    sent = body(${client})
    created = post(client, sent)
    assert created.status_code == 201
    assert created.headers["etag"] == '"1"'
    read = client.get(created.headers["location"])
    assert read.status_code == 200
    assert read.headers["etag"] == '"1"'
    assert read.json() == created.json()
    assert read.json() == {**sent, "id": read.json()["id"], "version": 1}


% if any(field.may_be_left_out for field in d.fields):
def test_fields_that_are_left_out_have_their_defaults(client: TestClient) -> None:
    defaults = {
% for field in d.fields:
% if field.may_be_left_out:
        "${field.name}": ${field.left_out},
% endif
% endfor
    }
    sent = {name: value for name, value in body(${client}).items() if name not in defaults}
    created = post(client, sent)
    assert created.status_code == 201
    assert created.json() == {**created.json(), **sent, **defaults}


% endif
% if d.unique:
@pytest.mark.parametrize("field", [${", ".join(f'"{field.name}"' for field in d.unique)}])
def test_a_taken_value_is_a_409(client: TestClient, field: str) -> None:
    taken = create(client)
    response = post(client, body(${"client, " if client else ""}**{field: taken[field]}))
    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert client.get(URL).json()["items"] == [taken]


@pytest.mark.parametrize("field", [${", ".join(f'"{field.name}"' for field in d.unique)}])
def test_a_change_to_a_taken_value_is_a_409(client: TestClient, field: str) -> None:
    taken, other = create(client), create(client)
    url = f"{URL}/{other['id']}"
    response = client.patch(url, json={field: taken[field]}, headers={"If-Match": '"1"'})
    assert response.status_code == 409
    assert client.get(url).json() == other


% endif
% if d.refs:
@pytest.mark.parametrize("field", [${", ".join(f'"{ref.name}"' for ref in d.refs)}])
def test_a_reference_to_nothing_is_a_422(client: TestClient, field: str) -> None:
    response = post(client, body(client, **{field: 2**63 - 1}))
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


% endif
@pytest.mark.parametrize(
    ("field", "value"),
    [
% for field in d.fields:
% if not field.optional:
        ("${field.name}", None),
% endif
% for value in field.kind.wrong:
        ("${field.name}", ${value}),
% endfor
% endfor
        ("unknown${"_field" if any(field.name == "unknown" for field in d.fields) else ""}", "red"),
    ],
)
def test_an_invalid_value_is_a_422(client: TestClient, field: str, value: Any) -> None:
    response = post(client, body(${"client, " if client else ""}**{field: value}))
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == [f"/body/{field}"]


<% boundary = [(field, value) for field in d.fields for value in field.kind.boundary] %>\
% if boundary:
@pytest.mark.parametrize(
    ("field", "value"),
    [
% for field, value in boundary:
        ("${field.name}", ${value}),
% endfor
    ],
)
def test_values_at_the_limits_are_stored(client: TestClient, field: str, value: Any) -> None:
    created = create(client, **{field: value})
    assert created[field] == value
    assert client.get(f"{URL}/{created['id']}").json() == created


% endif
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize(("key", "status"), [(2**63 - 1, 404), (2**63, 422), (0, 422)])
def test_an_unknown_${d.one}_is_a_404_and_an_impossible_id_a_422(
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


def test_pages_list_each_${d.one}_once_while_others_are_created_and_deleted(client: TestClient) -> None:
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
    change = {"${d.changed.name}": ${f'body({client})["{d.changed.name}"]' if d.changed.unique else d.changed.kind.other}}
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


@pytest.mark.parametrize("change", [{"id": 2}, {"version": 2}${", " if any(not field.optional for field in d.fields) else ""}${next(('{"%s": None}' % field.name for field in d.fields if not field.optional), "")}])
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
def test_a_deleted_${d.one}_is_a_404(client: TestClient, headers: dict[str, str], status: int) -> None:
    url = f"{URL}/{create(client)['id']}"
    assert client.delete(url, headers=headers).status_code == status
    assert client.get(url).status_code == (404 if status == 204 else 200)


def test_every_status_is_documented(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    documented = {
        f"{method} {path.removeprefix(URL)}": set(paths[path][method]["responses"]) - {"4XX", "5XX"}
        for path in (URL, URL + "/{${d.one}_id}")
        for method in paths[path]
    }
    assert documented == {
        "post ": {"201"${', "409"' if d.unique else ""}},
        "get ": {"200"},
        "get /{${d.one}_id}": {"200", "304", "404"},
        "patch /{${d.one}_id}": {"200", "404", ${'"409", ' if d.unique else ""}"412", "428"},
        "delete /{${d.one}_id}": {"204", "404", "412"},
    }
