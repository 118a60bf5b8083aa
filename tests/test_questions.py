"""The questions: what they assume, what they derive, what they refuse."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import NASTY, RESERVED, ROOT, copy, modules
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

QUESTIONS = {
    name: question
    for name, question in yaml.safe_load((ROOT / "copier.yml").read_text()).items()
    if not name.startswith("_") and question.get("when") is not False
}


def answers(project: Path) -> dict[str, str]:
    recorded: dict[str, str] = yaml.safe_load((project / ".copier-answers.yml").read_text())
    return recorded


def test_defaults_make_a_whole_project(render: Any) -> None:
    assert {name: answers(render())[name] for name in QUESTIONS if name != "jobs"} == {
        "project_name": "My Service",
        "package_name": "my_service",
        "project_description": "A web API",
        "author_name": "",
        "author_email": "",
        "license": "proprietary",
        "python_version": "3.14",
        "database": "none",
        "cache": "none",
        "auth": "none",
        "ci": "github",
        "deploy": "none",
        "image_repository": "ghcr.io/example/my-service",
    }


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_terminal_of_80_columns_shows_question_and_example(name: str) -> None:
    """It cuts what is longer; Copier puts 34 characters and the question's name before a refusal."""
    assert len(QUESTIONS[name]["help"]) <= 60
    for refusal in re.findall(r"(?m)^ *(Such as: .*)$", QUESTIONS[name].get("validator", "")):
        example = re.match(r"Such as: (.*?)\. [A-Z]", refusal.replace("{{ package_name[:32].strip('_') }}", "calendar"))
        assert example, refusal
        assert 34 + len(name) + len(example[0]) <= 80


def test_every_refusal_has_an_example() -> None:
    for question in QUESTIONS.values():
        told = [line for line in question.get("validator", "").splitlines() if line.strip() and "{%" not in line]
        assert all("Such as: " in line or line.lstrip().startswith("and ") for line in told)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("Order Desk", "order_desk"),
        ("  --Order//Desk--  ", "order_desk"),
        ("Calendar", "calendar_service"),
        ("FastAPI", "fastapi_service"),
        ("Tests", "tests_service"),
        ("class", "class_service"),
        ("3D Printer", "service_3d_printer"),
        ("Café №1", "caf_1"),
        ("a" * 80, "a" * 40),
        ("a" * 39 + " b", "a" * 39),
        ("x", "x"),
    ],
)
def test_the_package_is_named_after_the_project(copie: Any, name: str, package: str) -> None:
    result = copie.copy(extra_answers={"project_name": name})
    assert result.exit_code == 0, result.exception
    assert result.answers["package_name"] == package
    slug = tomllib.loads((result.project_dir / "pyproject.toml").read_text())["project"]["name"]
    assert slug == package.replace("_", "-")


@pytest.mark.parametrize("package", ["a__b", "a_", "a__"])
def test_every_package_name_gives_a_valid_slug(copie: Any, package: str) -> None:
    result = copie.copy(extra_answers={"package_name": package})
    assert result.exit_code == 0, result.exception
    slug = tomllib.loads((result.project_dir / "pyproject.toml").read_text())["project"]["name"]
    assert slug == package.replace("__", "_").rstrip("_").replace("_", "-")


REFUSED = [
    ("project_name", "", "Such as: Order Desk"),
    ("project_name", "a" * 81, "1 to 80 characters"),
    ("project_name", "a\nb", "one printable line"),
    ("project_name", "Сервис", "at least one letter a-z or digit"),
    ("package_name", "", "Such as: order_desk"),
    ("package_name", "Order", "starts with a letter"),
    ("package_name", "3d", "starts with a letter"),
    ("package_name", "order-desk", "Such as: order_desk"),
    ("package_name", "order\n", "Such as: order_desk"),
    ("package_name", "a" * 41, "at most 40"),
    ("package_name", "calendar", "Such as: calendar_service"),
    ("package_name", "pytest_", "Such as: pytest_service"),
    ("package_name", "migrations", "Such as: migrations_service"),
    ("project_description", "a" * 201, "at most 200"),
    ("project_description", "a\u202eb", "one printable line"),
    ("author_name", "a\tb", "Such as: Ada Lovelace"),
    ("author_email", "ada", "one @"),
    ("author_email", "a@b@c", "Such as: ada@example.com"),
    ("author_email", "a b@c", "no spaces"),
    ("license", "GPL-3.0", "license"),
    ("python_version", "3.10", "python_version"),
    ("database", "mysql", "database"),
    ("ci", "jenkins", "ci"),
    ("deploy", "nomad", "deploy"),
    ("image_repository", "", "Such as: ghcr.io/acme/desk"),
    ("image_repository", "ghcr.io/acme/desk:1.0", "without a tag"),
    ("image_repository", "desk:latest", "without a tag"),
    ("image_repository", "ghcr.io/acme/desk@sha256:" + "0" * 64, "without a tag"),
    ("image_repository", "ghcr.io/Acme/desk", "in small letters"),
    ("image_repository", "https://ghcr.io/acme/desk", "a registry and a path"),
    ("image_repository", "ghcr.io/acme/desk/", "a registry and a path"),
    ("image_repository", "ghcr.io/acme/$(id)", "a registry and a path"),
    ("image_repository", "desk\n", "a registry and a path"),
    ("image_repository", "a" * 201, "a registry and a path"),
]


@pytest.mark.parametrize(
    "repository",
    [
        "desk",
        "acme/desk",
        "registry.example.com:5000/team/sub/desk_api",
        "localhost/desk",
        "localhost:5000/desk",
        "a.b-c.example/x--y/z__w.v",
        "true",
        "1e3",
    ],
)
def test_an_image_repository_without_a_tag_is_taken(render: Any, repository: str) -> None:
    assert answers(render(image_repository=repository))["image_repository"] == repository


def test_a_repository_that_nothing_needs_is_not_asked_for(render: Any) -> None:
    assert "image_repository" not in answers(render(ci="none"))
    assert answers(render(ci="none", deploy="kubernetes"))["image_repository"] == "ghcr.io/example/my-service"


@pytest.mark.parametrize(("question", "answer", "rule"), REFUSED)
def test_a_refusal_names_the_rule_and_writes_nothing(
    template: Path, tmp_path: Path, question: str, answer: str, rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        copy(template, tmp_path / "project", **{question: answer})
    assert not (tmp_path / "project").exists()


def test_every_module_that_a_project_brings_is_reserved(installed: Path) -> None:
    """Else a package of that name would hide it, or depend on itself."""
    assert modules(installed) - set(RESERVED) == set()


def test_the_reserved_names_are_sorted_and_unique() -> None:
    assert sorted(set(RESERVED)) == RESERVED


NASTY_CHARACTERS = "\"'\\\n\r\t$`#%{}()[]<>&|;:,!?*~=-+_@ aB7é\u202e\u200f\x1b\x00\u2028😀Б"
NASTY_TEXTS = [
    *NASTY.values(),
    *("{{ 7*7 }}", "{% raw %}", "{# c #}", "${X}", "$(id)", "`id`", "%(x)s", "\\", '"', "'", "'''", '"""'),
    *("- a", "a: b", "key = 'v'", "[table]", "yes", "null", "1.0", "~", "!!python/name:os.system", "&a *a", "# x"),
    *("a" * 10_000, "<script>", "\N{ZERO WIDTH NO-BREAK SPACE}", "..", "/etc/passwd", "-rf", "--", " x ", "é", "𝒳"),
]
TEXT = st.sampled_from(NASTY_TEXTS) | st.text(st.sampled_from(NASTY_CHARACTERS), max_size=30) | st.text(max_size=20)
EMAIL = TEXT | st.builds("{}@{}".format, TEXT, TEXT)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    given=st.fixed_dictionaries(
        {},
        optional={
            "project_name": TEXT,
            "package_name": TEXT,
            "project_description": TEXT,
            "author_name": TEXT,
            "author_email": EMAIL,
            "license": st.sampled_from(["proprietary", "MIT"]),
        },
    )
)
def test_any_text_is_refused_or_comes_back_exactly(
    template: Path, tmp_path_factory: pytest.TempPathFactory, given: dict[str, str]
) -> None:
    project = tmp_path_factory.mktemp("text") / "project"
    try:
        copy(template, project, **given)
    except ValueError as refused:
        assert "Validation error" in str(refused)  # noqa: PT017
        assert not project.exists()
        return
    check_texts(project, given)


def test_nasty_text_that_the_rules_allow_comes_back_exactly(render: Any) -> None:
    check_texts(render(**NASTY), NASTY)


def check_texts(project: Path, given: dict[str, str]) -> None:
    """Every file parses, is as its formatter would leave it, and holds the texts as they were given."""
    recorded = answers(project)
    assert {name: recorded[name] for name in given} == given
    name, description = recorded["project_name"], recorded["project_description"]

    for path in project.rglob("*"):
        if path.suffix == ".py":
            ast.parse(path.read_text())
        elif path.suffix in (".yaml", ".yml"):
            yaml.safe_load(path.read_text())
    about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert about["description"] == description
    author = {"name": recorded["author_name"], "email": recorded["author_email"]}
    assert about["authors"] == (
        [{key: value for key, value in author.items() if value}] if any(author.values()) else []
    )
    assert (project / "README.md").read_text().startswith(f"# {name}\n\n{description}\n")
    assert app_texts(project / "src" / recorded["package_name"] / "app.py") == (name, description)
    if given.get("license") == "MIT":
        assert f"(c) {recorded['author_name'] or name + ' authors'}\n" in (project / "LICENSE").read_text()
    for command in (["format", "--check"], ["check"]):
        checked = subprocess.run(["ruff", *command, "--no-cache", "."], cwd=project, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout


def app_texts(module: Path) -> tuple[str, str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "create_app":
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            return ast.literal_eval(given["title"]), ast.literal_eval(given["description"])
    raise AssertionError(f"no call of create_app in {module}")
