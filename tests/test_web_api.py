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
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import copier
import httpx2
import pytest
import test_image
import test_questions
import yaml
from conftest import (
    CHOICES,
    EVERYTHING,
    NASTY,
    ROOT,
    commit,
    container,
    copy,
    eventually,
    files,
    free_port,
    get,
    quick_update,
    run,
    state,
)
from test_combinations import pairwise
from test_update import NEXT, make_update, next_release, upstream

# A fixture, by name.
__all__ = ["upstream"]

NEEDS = ["database", "jobs", "cache", "auth", "ci", "deploy"]
# Sets in which each choice of a question that decides which files there are meets each choice of each other.
SETS = pairwise({name: CHOICES[name] for name in NEEDS})


def post(url: str, to: str, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/{to}", json=body, timeout=60)


def unpack(url: str, folder: Path, **answers: str) -> Path:
    """Download a project and unpack it; return its folder."""
    response = post(url, "archives", answers=answers)
    assert response.status_code == 200, response.text
    return unzip(io.BytesIO(response.content), folder)


def unzip(packed: Path | io.BytesIO, folder: Path) -> Path:
    """Unpack a project as the command `unzip` does, with its modes; return its folder."""
    with zipfile.ZipFile(packed) as archive:
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
    run(sys.executable, "-m", *words[:-1], tmp_path / "copied", env=quick_update())
    assert words[-1] == "nasty-service"
    unpacked = tree(unpack(start_page, tmp_path / "unpacked", **answers))
    assert tree(tmp_path / "copied") == unpacked
    destination, given = json.loads(run("sh", "-c", f"make{say}{commands['make']}").stdout)[1:]
    assert destination == "DEST=../nasty-service"
    command = ["sh", upstream / "template/ops/with-args.sh", sys.executable, upstream / "new.py", tmp_path / "made"]
    run(*command, env={**quick_update(), "ARGS": given.removeprefix("ARGS=")})
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
        given = {"project_name": text, "project_description": text, "author_name": text, "author_email": f"{text}@x"}
        response = post(start_page, "previews", answers=given)
        if len(text) > 1000:
            assert response.status_code == 422
            continue
        assert response.status_code == 200, response.text
        by_name = {it["name"]: it for it in response.json()["questions"]}
        assert {name: by_name[name]["value"] for name in given} == given
        valid = {name: text for name, text in given.items() if by_name[name]["message"] is None}
        texts = {it["path"]: it["text"] for it in post(start_page, "previews", answers=valid).json()["files"]}
        recorded = yaml.safe_load(texts[".copier-answers.yml"])
        assert {name: recorded[name] for name in valid} == valid
        assert not [path for path in texts if path.startswith("/") or ".." in path]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"answers": {"project_name": "\\ud800"}}', 422),
        (b'{"answers": {"project_name": ["a"]}}', 422),
        (b'{"answers": ' + json.dumps({str(number): "" for number in range(51)}).encode() + b"}", 422),
        (b'{"answers": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b" " * 1_048_577, 413),
    ],
    ids=["surrogate", "list", "many", "deep", "large"],
)
def test_a_hostile_body_is_a_problem(start_page: str, body: bytes, status: int) -> None:
    headers = {"Content-Type": "application/json"}
    response = httpx2.post(f"{start_page}/v1/previews", content=body, headers=headers)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"


def test_each_file_is_highlighted_line_by_line(start_page: str) -> None:
    files = post(start_page, "previews", answers=EVERYTHING).json()["files"]
    # One of each kind.
    for file in {Path(file["path"]).suffix or file["path"]: file for file in files}.values():
        lines = post(start_page, "highlights", answers=EVERYTHING, path=file["path"]).json()["lines"]
        assert ["".join(text for _, text in line) for line in lines] == file["text"].split("\n"), file["path"]


async def crowd(url: str, addresses: list[str], *bodies: dict[str, str]) -> list[httpx2.Response]:
    """Ask for previews at once, one from each address."""

    async def ask(address: str, answers: dict[str, str]) -> httpx2.Response:
        transport = httpx2.AsyncHTTPTransport(local_address=address)
        async with httpx2.AsyncClient(transport=transport, timeout=120) as client:
            return await client.post(f"{url}/v1/previews", json={"answers": answers})

    return await asyncio.gather(*(ask(*it) for it in zip(addresses, bodies, strict=True)))


def test_fifty_clients_at_once_are_served_within_the_memory_of_a_pod(start_page: str) -> None:
    addresses = [f"127.0.0.{number}" for number in range(2, 52)]
    bodies = [{**EVERYTHING, "project_name": f"Desk {number % 25}"} for number in range(50)]
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


def processor_seconds(url: str) -> float:
    [seconds] = re.findall(r"(?m)^process_cpu_seconds_total (\S+)", httpx2.get(f"{url}/metrics").text)
    return float(seconds)


def test_a_preview_takes_a_third_of_a_copy_and_a_kept_one_half_of_that(
    start_page: str, template: Path, tmp_path: Path
) -> None:
    """Of the processor's time, whatever else runs. On an idle machine it is a tenth of a second, and a fortieth."""
    answers = [{**EVERYTHING, "project_name": f"Fresh {number}"} for number in range(6)]
    started = time.process_time()
    for given in answers[:3]:
        copy(template, tmp_path / given["project_name"], **given)
    copied = time.process_time() - started
    marks = [processor_seconds(start_page)]
    for _ in range(2):
        for given in answers:
            post(start_page, "previews", answers=given)
        marks.append(processor_seconds(start_page))
    fresh, kept = marks[1] - marks[0], marks[2] - marks[1]
    # There are two previews for each copy.
    assert fresh / 2 < copied / 3
    assert kept < fresh / 2


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


def test_it_stays_a_domain_and_no_second_product() -> None:
    sources = [path for path in (ROOT / "web").rglob("*.*") if path.suffix in (".py", ".yml", ".html", ".js", ".css")]
    assert 500 < sum(len(path.read_text().splitlines()) for path in sources if "tests" not in path.parts) <= 800


@pytest.mark.usefixtures("one_environment")
def test_its_own_checks_pass_with_full_coverage(start_page_project: Path, tmp_path: Path) -> None:
    """The chassis's tests are the same in every project."""
    project = Path(shutil.copytree(start_page_project, tmp_path / "web", ignore=shutil.ignore_patterns(".venv")))
    run("make", "lint", cwd=project)
    tests = ["tests/test_projects.py", "tests/chassis/test_wall.py"]
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


def test_make_web_serves_the_page_of_a_fresh_clone(page: str, upstream: Path, tmp_path: Path) -> None:
    # It installs the tools of the clone, and the service.
    response = eventually(lambda: httpx2.get(page), seconds=300)
    assert "text/html" in response.headers["content-type"]
    assert get(f"{page}/v1/questions").json()["repository"] == str(upstream)
    # It goes on while something else builds, such as `make web-image`.
    started = start_of(page)
    run("make", "web-build", cwd=tmp_path / "clone")
    assert start_of(page) == started


def start_of(url: str) -> str:
    return re.findall(r"(?m)^process_start_time_seconds (\S+)", httpx2.get(f"{url}/metrics").text)[0]


def test_without_an_origin_projects_name_the_clone(upstream: Path, tmp_path: Path) -> None:
    clone, build = tmp_path / "clone", [sys.executable, tmp_path / "clone/web/build.py"]
    run("git", "clone", "--quiet", upstream, clone)
    run("git", "remote", "set-url", "origin", "https://robot:hunter2@git.example.com/acme/desk.git", cwd=clone)
    assert run(*build, tmp_path / "named").stderr == ""
    assert origin_of(tmp_path / "named") == ("https://git.example.com/acme/desk.git", NEXT)
    run("git", "remote", "remove", "origin", cwd=clone)
    (clone / "CHANGELOG.md").write_text("# Changelog\n\n## 3.0.0\n")
    told = run(*build, tmp_path / "unnamed").stderr
    assert f"updates in {clone}\n" in told
    assert f"the commit {NEXT}, which lacks what you changed" in told
    assert origin_of(tmp_path / "unnamed") == (str(clone), NEXT)
    commit(clone, "Change the template")
    run("git", "remote", "add", "origin", upstream, cwd=clone)
    assert ": push it, or they can't be updated" in run(*build, tmp_path / "unpushed").stderr


def origin_of(project: Path) -> tuple[str, str]:
    with tarfile.open(project / "src/start_page/projects/template.tar.gz") as archive:
        return archive.pax_headers["repository"], archive.pax_headers["commit"]


# What `tests/test_image.py` asks of the image of any project.
CONTRACTS = [
    test_image.test_it_serves_on_the_port_that_the_user_publishes,
    test_image.test_nobody_in_it_is_root_or_can_become_so,
    test_image.test_the_user_cannot_write_application_files,
    test_image.test_it_stops_within_its_grace_and_exits_0,
    test_image.test_its_health_follows_the_process,
]


@pytest.fixture(scope="module")
def web_image(start_page_project: Path, answers: dict[str, str]) -> Iterator[str]:
    """The image as `make build` of the service makes it, with a Python whose base image is at hand."""
    tag = f"copier-fastapi-test:web-{os.getpid()}"
    arguments = f"--build-arg PYTHON_IMAGE=python:{answers['python_version']}-slim"
    run("make", "build", f"IMAGE={tag}", f"ARGS={arguments}", cwd=start_page_project)
    yield tag
    run("docker", "rmi", tag, check=False)


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
def test_its_image_fulfils_the_contract(web_image: str, contract: Callable[[str], None]) -> None:
    contract(web_image)


def test_its_image_renders_in_a_hardened_container_of_a_pods_memory(
    web_image: str, start_page: str, tmp_path: Path
) -> None:
    with container(web_image, *test_image.HARDENED, "--memory=256m") as (name, url):
        get(f"{url}/health/ready")
        inside = unpack(url, tmp_path / "inside", **EVERYTHING)
        assert tree(inside) == tree(unpack(start_page, tmp_path / "outside", **EVERYTHING))
        assert not state(name)["OOMKilled"]
