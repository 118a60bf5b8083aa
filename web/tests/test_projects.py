"""The page and its API, in this process; the template repository tests them with the real Copier."""

import io
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from start_page.app import create_app
from start_page.projects import routes, service
from start_page.settings import Settings


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    # Once for all tests: the template is unpacked and compiled at start.
    with TestClient(create_app(Settings(app_env="test"))) as client:
        yield client


def preview(client: TestClient, **answers: str) -> dict[str, Any]:
    response = client.post("/v1/previews", json={"answers": answers})
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


def test_the_page_and_its_assets_come_with_a_strict_policy(client: TestClient) -> None:
    for path, kind in (("/", "html"), ("/page/page.js", "javascript"), ("/page/style.css", "css")):
        response = client.get(path)
        assert kind in response.headers["content-type"]
        policy = response.headers["content-security-policy"].split("; ")
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
    assert client.get("/page/routes.py").status_code == 404


def test_the_questions_are_those_that_a_person_is_asked(client: TestClient) -> None:
    found = client.get("/v1/questions").json()
    by_name = {question["name"]: question for question in found["questions"]}
    assert by_name["project_name"]["default"] == "My Service"
    assert by_name["database"]["choices"][0] == {"value": "none", "label": "no"}
    assert by_name["author_email"]["rule"].endswith("The address has one @ and no spaces")
    assert "is not in ['none', 'postgresql']" in by_name["jobs"]["rule"]
    assert all(question["rule"] and not question["message"] for question in found["questions"])
    assert not by_name["jobs"]["shown"]
    assert "project_slug" not in by_name


def test_a_preview_has_the_files_and_the_commands(client: TestClient) -> None:
    found = preview(client, project_name="Ada's Desk", database="sqlite")
    files = {file["path"]: file for file in found["files"]}
    assert files["README.md"]["text"].startswith("# Ada's Desk\n")
    assert files["README.md"]["mode"] == "100644"
    assert files["README.md"]["size"] == len(files["README.md"]["text"].encode())
    assert "src/ada_s_desk/items/routes.py" in files
    assert " --data database=sqlite " in found["commands"]["copier"]
    assert found["commands"]["make"].startswith("make new DEST=../ada-s-desk ARGS='--defaults ")


def test_a_refused_answer_has_a_message_and_counts_for_no_other(client: TestClient) -> None:
    found = preview(client, project_name="", package_name="desk")
    by_name = {question["name"]: question for question in found["questions"]}
    assert "Such as: Order Desk" in by_name["project_name"]["message"]
    assert by_name["project_name"]["value"] == ""
    assert by_name["package_name"]["default"] == "my_service"
    assert by_name["package_name"]["message"] is None
    assert found["files"] == []


@pytest.mark.parametrize(
    ("answers", "detail"),
    [
        ({"colour": "red"}, "There is no question 'colour'. Such as: project_name, "),
        ({"license": "GPL-3.0"}, "Invalid choice for 'license': 'GPL-3.0' is not in "),
        ({"database": "none", "jobs": "postgresql"}, "Such as: database=postgresql. "),
    ],
)
def test_an_invalid_answer_is_a_422_problem(
    client: TestClient, answers: dict[str, str], detail: str
) -> None:
    for path, body in (
        ("/v1/archives", {"answers": answers}),
        ("/v1/comparisons", {"before": {}, "after": answers}),
    ):
        response = client.post(path, json=body)
        assert response.status_code == 422
        assert detail in response.json()["detail"]


def test_a_comparison_lists_what_differs(client: TestClient) -> None:
    sides = {"before": {"cache": "redis"}, "after": {"license": "MIT"}}
    files = client.post("/v1/comparisons", json=sides).json()["files"]
    by_path = {file["path"]: file for file in files}
    assert by_path["LICENSE"]["status"] == "added"
    assert by_path["docs/cache.md"]["status"] == "removed"
    changed = by_path["pyproject.toml"]
    assert (changed["status"], changed["added"]) == ("changed", 1)
    assert '+license = "MIT"' in changed["diff"].splitlines()


def test_an_archive_has_one_folder_with_the_files_of_the_preview(client: TestClient) -> None:
    response = client.post("/v1/archives", json={"answers": {"project_name": "Desk"}})
    assert response.headers["content-disposition"] == 'attachment; filename="desk.zip"'
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        texts = {member.filename: archive.read(member).decode() for member in archive.infolist()}
    files = preview(client, project_name="Desk")["files"]
    assert texts == {f"desk/{file['path']}": file["text"] for file in files}


def highlighted(client: TestClient, path: str) -> Any:
    response = client.post("/v1/highlights", json={"answers": {"license": "MIT"}, "path": path})
    return response.json().get("lines", response.status_code)


def test_highlights_are_lines_of_parts_with_classes(client: TestClient) -> None:
    lines = highlighted(client, "src/my_service/app.py")
    assert lines[2][:3] == [["kn", "from"], ["w", " "], ["nn", "fastapi"]]
    texts = {file["path"]: file["text"] for file in preview(client, license="MIT")["files"]}
    for path in ("src/my_service/app.py", "LICENSE", "Makefile", "Dockerfile"):
        joined = ["".join(text for _, text in line) for line in highlighted(client, path)]
        assert joined == texts[path].split("\n")
    assert highlighted(client, "/etc/passwd") == 404


def at_once(client: TestClient, number: int) -> list[Response]:
    def request(_: int) -> Response:
        return client.post("/v1/previews", json={"answers": {"project_name": "Crowd"}})

    with ThreadPoolExecutor(number) as pool:
        return [*pool.map(request, range(number))]


@pytest.mark.parametrize(("limit", "status"), [("MOST_OF_A_CLIENT", 429), ("MOST", 503)])
def test_too_many_requests_at_once_are_refused(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, limit: str, status: int
) -> None:
    monkeypatch.setattr(routes, limit, 0)
    response = client.post("/v1/previews", json={"answers": {}})
    assert response.status_code == status
    assert response.headers["retry-after"] == "1"
    monkeypatch.undo()
    assert {response.status_code for response in at_once(client, 8)} == {200}


@pytest.mark.parametrize("kept", [False, True])
def test_a_request_that_takes_too_long_is_a_503_and_works_later(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    answers = {"project_name": f"Late {kept}"}
    if kept:
        preview(client, **answers)
    monkeypatch.setattr(service, "MOST_SECONDS", -1)
    late = client.post("/v1/archives", json={"answers": answers})
    assert late.status_code == 503
    assert late.headers["retry-after"] == "1"
    monkeypatch.undo()
    assert preview(client, **answers)["files"]


def test_a_render_stops_at_its_deadline(client: TestClient) -> None:
    projects = client.app.states[service.Projects]  # type: ignore[attr-defined]
    with pytest.raises(TimeoutError):
        projects.release.render({}, deadline=0)


def test_only_the_renders_that_were_used_last_are_kept(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MOST_RENDERS", 2)
    renders = client.app.states[service.Projects].renders  # type: ignore[attr-defined]
    preview(client, author_name="1")
    [*_, first] = renders.values()
    for name in ("2", "1", "3", "1"):
        preview(client, author_name=name)
    assert len(renders) == 2
    assert [*renders.values()][-1] is first
