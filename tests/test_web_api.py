"""The API of the page that asks the questions: the same projects and messages as Copier's command line."""

import asyncio
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import copier
import httpx2
import pytest
import test_questions
from conftest import CHOICES, NASTY, commit, copy, files, free_port, get, run, snapshot
from covertable import make
from test_combinations import allowed
from test_update import NEXT, make_update, next_release, upstream

# A fixture, by name.
__all__ = ["upstream"]

NEEDS = ["database", "jobs", "cache", "auth", "ci", "deploy"]
# Sets in which each choice of a question that decides which files there are meets each choice of each other.
SETS = make(
    {name: CHOICES[name] for name in NEEDS},
    constraints=[{"operator": "fn", "requires": ["database", "jobs"], "evaluate": allowed}],
)
EVERYTHING = {"database": "postgresql", "jobs": "postgresql", "cache": "redis", "auth": "jwt", "deploy": "kubernetes"}


def post(url: str, path: str, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/{path}", json=body, timeout=60)


def unpack(url: str, folder: Path, **answers: str) -> Path:
    """Download a project and unpack it as `unzip` does, with its modes; return its folder."""
    response = post(url, "archives", answers=answers)
    assert response.status_code == 200, response.text
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        archive.extractall(folder)
        for member in archive.infolist():
            (folder / member.filename).chmod(member.external_attr >> 16)
    [project] = folder.iterdir()
    return project


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {name: ((folder / name).read_bytes(), (folder / name).stat().st_mode) for name in files(folder)}


@pytest.mark.parametrize("answers", [*SETS, NASTY], ids=lambda answers: "-".join(answers.values())[:60])
def test_the_archive_is_what_copier_copies(start_page: str, upstream: Path, tmp_path: Path, answers: Any) -> None:
    """From the repository, by git, at the same release: with all bytes and modes."""
    copier.run_copy(str(upstream), tmp_path / "copied", answers, defaults=True, quiet=True, vcs_ref=NEXT)
    copied = tree(tmp_path / "copied")
    assert f"_commit: {NEXT}\n_src_path: {upstream}\n" in copied[".copier-answers.yml"][0].decode()
    assert tree(unpack(start_page, tmp_path / "unpacked", **answers)) == copied
    previewed = post(start_page, "previews", answers=answers).json()["files"]
    assert {it["path"]: (it["text"].encode(), int(it["mode"], 8)) for it in previewed} == copied


def test_the_commands_write_the_same_project(start_page: str, upstream: Path, tmp_path: Path) -> None:
    """With texts that a shell would expand."""
    answers = {**NASTY, "database": "sqlite"}
    commands = post(start_page, "previews", answers=answers).json()["commands"]
    say = f'() {{ {shlex.quote(sys.executable)} -c "import json, sys; print(json.dumps(sys.argv[1:]))" "$@"; }}\n'
    words = json.loads(run("sh", "-c", f"uvx{say}{commands['copier']}").stdout)
    run(sys.executable, "-m", *words[:-1], tmp_path / "copied", cwd=tmp_path)
    assert words[-1] == "nasty-service"
    unpacked = tree(unpack(start_page, tmp_path / "unpacked", **answers))
    assert tree(tmp_path / "copied") == unpacked
    destination, given = json.loads(run("sh", "-c", f"make{say}{commands['make']}").stdout)[1:]
    assert destination == "DEST=../nasty-service"
    command = ["sh", upstream / "template/ops/with-args.sh", sys.executable, upstream / "new.py", tmp_path / "made"]
    run(*command, env={**os.environ, "ARGS": given.removeprefix("ARGS=")})
    made = tree(tmp_path / "made")
    # It records where its clone came from.
    assert {name for name in made if made[name] != unpacked[name]} <= {".copier-answers.yml"}
    assert made.keys() == unpacked.keys()


def test_an_unpacked_project_updates_to_the_next_release(start_page: str, upstream: Path, tmp_path: Path) -> None:
    project = unpack(start_page, tmp_path / "unpacked", **EVERYTHING)
    commit(project, "Start the service")
    assert make_update(project, target="update-check").returncode == 0
    news = next_release(project, upstream, tmp_path)
    told = make_update(project)
    assert told.returncode == 0, told.stdout + told.stderr
    assert news in told.stdout
    assert "No conflicts." in told.stdout
    assert "_commit: v999.1.0" in (project / ".copier-answers.yml").read_text()


@pytest.mark.parametrize(
    ("question", "answer"),
    [*((question, answer) for question, answer, _ in test_questions.REFUSED), ("jobs", "postgresql")],
)
def test_a_message_is_that_of_the_command_line(
    start_page: str, template: Path, tmp_path: Path, question: str, answer: str
) -> None:
    with pytest.raises(ValueError, match=question) as refused:
        copy(template, tmp_path / "project", **{question: answer})
    preview = post(start_page, "previews", answers={question: answer}).json()
    messages = {it["name"]: it["message"] for it in preview["questions"] if it["message"]}
    assert messages == {question: str(refused.value)}
    assert preview["files"] == []
    response = post(start_page, "archives", answers={question: answer})
    assert (response.status_code, response.json()["detail"]) == (422, str(refused.value))


def test_hostile_texts_are_refused_or_come_back_exactly(start_page: str) -> None:
    for text in test_questions.NASTY_TEXTS:
        for question in ("project_name", "package_name", "project_description", "author_email", "image_repository"):
            response = post(start_page, "previews", answers={question: text})
            if len(text) > 1000:
                assert response.status_code == 422
                continue
            assert response.status_code == 200, response.text
            by_name = {it["name"]: it for it in response.json()["questions"]}
            assert by_name[question]["value"] == text
            paths = [file["path"] for file in response.json()["files"]]
            assert bool(paths) != any(it["message"] for it in by_name.values())
            assert not [path for path in paths if path.startswith("/") or ".." in path]


@pytest.mark.parametrize(
    "body",
    [
        b'{"answers": {"project_name": "\\ud800"}}',
        b'{"answers": {"project_name": ["a"]}}',
        b'{"answers": ' + json.dumps({str(number): "" for number in range(51)}).encode() + b"}",
        b'{"answers": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"path": "a.py", "text": "' + b"(" * 100_001 + b'"}',
    ],
    ids=["surrogate", "list", "many", "deep", "long"],
)
def test_a_hostile_body_is_a_422_problem(start_page: str, body: bytes) -> None:
    path = "highlights" if b'"text"' in body else "previews"
    headers = {"Content-Type": "application/json"}
    response = httpx2.post(f"{start_page}/v1/{path}", content=body, headers=headers)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "path", ["a.py", "a.md", "a.yaml", "a.toml", "a.json", "a.sh", "Makefile", "Dockerfile", "a.mako"]
)
def test_no_text_takes_long_to_highlight(start_page: str, path: str) -> None:
    """Regular expressions that go back for each character would take minutes."""
    for part in ("(", "[", "\\", "`", "${", "'''", '"', "#", "a ", "- ", "<%", " ", "a: ", "{{"):
        started = time.monotonic()
        response = post(start_page, "highlights", path=path, text=(part * 100_000)[:100_000])
        assert response.status_code == 200
        assert time.monotonic() - started < 20, (path, part)


async def crowd(url: str, addresses: list[str], *bodies: dict[str, str]) -> list[httpx2.Response]:
    """Ask for previews at once, one from each address."""

    async def ask(address: str, answers: dict[str, str]) -> httpx2.Response:
        transport = httpx2.AsyncHTTPTransport(local_address=address)
        async with httpx2.AsyncClient(transport=transport, timeout=120) as client:
            return await client.post(f"{url}/v1/previews", json={"answers": answers})

    return await asyncio.gather(*(ask(*it) for it in zip(addresses, bodies, strict=True)))


def test_fifty_clients_at_once_are_served_within_the_memory_of_a_pod(start_page: str) -> None:
    addresses = [f"127.0.0.{number}" for number in range(2, 52)]
    bodies = [{**EVERYTHING, "project_name": f"Desk {number % 40}"} for number in range(50)]
    responses = asyncio.run(crowd(start_page, addresses, *bodies))
    assert Counter(response.status_code for response in responses) == {200: 50}
    texts = [{file["path"]: file["text"] for file in response.json()["files"]} for response in responses]
    assert [text["README.md"].splitlines()[0] for text in texts] == [f"# {body['project_name']}" for body in bodies]
    metrics = httpx2.get(f"{start_page}/metrics").text
    [memory] = re.findall(r"(?m)^process_resident_memory_bytes (\S+)", metrics)
    assert float(memory) < 256 * 1024 * 1024


def test_a_greedy_client_is_told_to_come_back_and_others_are_served(start_page: str) -> None:
    addresses = ["127.0.0.60"] * 40 + ["127.0.0.61"]
    bodies = [{**EVERYTHING, "project_name": f"Greedy {number}"} for number in range(41)]
    *greedy, other = asyncio.run(crowd(start_page, addresses, *bodies))
    refused = [response for response in greedy if response.status_code == 429]
    assert {response.status_code for response in greedy} == {200, 429}
    assert {response.headers["retry-after"] for response in refused} == {"1"}
    assert other.status_code == 200


def test_a_preview_takes_less_than_a_third_of_a_second(start_page: str) -> None:
    """A tenth on an idle machine; kept ones a quarter of that."""

    def seconds(name: str) -> float:
        started = time.perf_counter()
        post(start_page, "previews", answers={**EVERYTHING, "project_name": name})
        return time.perf_counter() - started

    assert min(seconds(f"Fresh {number}") for number in range(5)) < 0.3
    assert min(seconds("Fresh 4") for _ in range(5)) < 0.05


def test_a_comparison_leads_from_one_project_to_the_other(start_page: str, render: Any, tmp_path: Path) -> None:
    before, after = {"cache": "redis"}, {"auth": "jwt", "license": "MIT"}
    compared = post(start_page, "comparisons", before=before, after=after).json()["files"]
    old, new = (files(render(**answers)) for answers in (before, after))
    status = {it["path"]: it["status"] for it in compared}
    assert {path for path in status if status[path] == "added"} == {*new} - {*old}
    assert {path for path in status if status[path] == "removed"} == {*old} - {*new}
    changed = [it for it in compared if it["status"] == "changed" and it["path"] != ".copier-answers.yml"]
    project = Path(shutil.copytree(render(**before), tmp_path / "project"))
    run("git", "init", "--quiet", cwd=project)
    for it in changed:
        (tmp_path / "patch").write_text(f"{it['diff']}\n")
        run("git", "apply", tmp_path / "patch", cwd=project)
        assert (project / it["path"]).read_bytes() == (render(**after) / it["path"]).read_bytes()
        counted = run("git", "apply", "--numstat", tmp_path / "patch", cwd=project).stdout.split()
        assert [it["added"], it["removed"]] == [int(number) for number in counted[:2]]
    assert len(changed) > 5


@pytest.mark.usefixtures("one_environment")
def test_its_own_checks_pass_with_full_coverage(start_page_project: Path, tmp_path: Path) -> None:
    """The chassis's tests are the same in every project."""
    project = Path(shutil.copytree(start_page_project, tmp_path / "web", ignore=shutil.ignore_patterns(".venv")))
    run("make", "lint", cwd=project)
    tests = ["tests/test_projects.py", "tests/test_app.py", "tests/chassis/test_wall.py"]
    run("make", "test", f"ARGS=-n0 --cov-fail-under=0 {' '.join(tests)}", cwd=project)
    run("uv", "run", "coverage", "report", "--fail-under=100", "--include=*/projects/*", cwd=project)


@pytest.fixture
def page(upstream: Path, tmp_path: Path) -> Iterator[str]:
    """The address that `make web` prints, in a fresh clone."""
    run("git", "clone", "--quiet", upstream, tmp_path / "clone")
    port = free_port()
    command = ["make", "web", f"PORT={port}"]
    process = subprocess.Popen(command, cwd=tmp_path / "clone", start_new_session=True)
    yield f"http://127.0.0.1:{port}"
    os.killpg(process.pid, 2)
    process.wait(30)


def test_make_web_serves_the_page_of_a_fresh_clone(page: str, upstream: Path) -> None:
    assert "text/html" in get(page).headers["content-type"]
    assert get(f"{page}/v1/questions").json()["repository"] == str(upstream)


def test_without_an_origin_projects_name_the_clone(tmp_path: Path) -> None:
    snapshot(tmp_path / "clone")
    run(
        "git",
        "remote",
        "set-url",
        "origin",
        "https://robot:hunter2@git.example.com/acme/template.git",
        cwd=tmp_path / "clone",
    )
    build = [sys.executable, tmp_path / "clone/web/build.py"]
    assert run(*build, tmp_path / "named").stderr == ""
    run("git", "remote", "remove", "origin", cwd=tmp_path / "clone")
    (tmp_path / "clone/CHANGELOG.md").write_text("# Changelog\n\n## 3.0.0\n")
    told = run(*build, tmp_path / "unnamed").stderr
    assert f"updates in {tmp_path / 'clone'}\n" in told
    assert "which lacks what you changed" in told
