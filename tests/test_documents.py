"""The documents: short, in plain English, and right about files, targets and variables."""

import ast
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

OFF = {"ci": "none"}
ON = {
    "database": "postgresql",
    "jobs": "postgresql",
    "cache": "redis",
    "auth": "jwt",
    "ci": "github",
    "deploy": "kubernetes",
}
OTHERS = {"database": "sqlite", "auth": "api-key", "ci": "gitlab"}
OURS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

# What an engineer who never saw this project stops at, as far as a pattern can say it.
ODD = re.compile(
    r"(?i)\b(be rid of|mends?|mended|is away|are away|the template's news|a word of|price:|"
    r"tells|hears?|answers anew|answered anew|it answers at)\b"
)


@pytest.fixture(params=[OFF, ON, OTHERS], ids=["off", "on", "others"])
def project(request: Any, render: Any) -> Path:
    return Path(render(**request.param))


def pages(project: Path) -> list[Path]:
    return [path for path in project.rglob("*.md") if ".venv" not in path.parts]


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize(("answers", "most"), [(OFF, 60), (ON, 80)], ids=["off", "on"])
def test_the_generated_documents_are_short(render: Any, answers: dict[str, str], most: int) -> None:
    project = render(**answers)
    assert lines(project / "README.md") <= most
    assert lines(project / "AGENTS.md") <= 40


def test_the_readme_is_short() -> None:
    assert lines(ROOT / "README.md") <= 120


def test_the_readme_says_how_to_script_when_it_writes_and_what_the_address_is() -> None:
    text = (ROOT / "README.md").read_text()
    for said in (
        "prefer `make new` to `copier copy --data`",
        "before the last question: Ctrl-C",
        "what you would give to `git clone`",
    ):
        assert said in text


def anchors(page: Path) -> set[str]:
    """List the anchors that GitHub and GitLab make of headings."""
    headings = re.findall(r"(?m)^#+ (.*)$", page.read_text())
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    """List the relative links of a page that lead nowhere."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = link.replace("%7B", "{").replace("%7D", "}").partition("#")
        target = page.parent / name if name else page
        # A page of the template may be one that is rendered.
        target = target if target.exists() else target.with_name(f"{target.name}.jinja")
        is_there = "://" in link or (target.exists() and (not anchor or anchor in anchors(target)))
        if not is_there:
            found.append(f"{page.name}: {link}")
    return found


def test_code_stands_in_fences(project: Path) -> None:
    """So that no block escapes test_docs.py, which runs them."""
    for page in pages(project):
        prose = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
        assert not re.search(r"\n\n {4}\S", prose), page.name


def test_links_of_a_project_lead_somewhere(project: Path) -> None:
    assert [link for page in pages(project) for link in broken(page)] == []


def test_our_own_links_lead_somewhere() -> None:
    assert [link for page in OURS for link in broken(page)] == []


def targets(makefile: Path) -> set[str]:
    return set(re.findall(r"(?m)^([a-z-]+):.*## ", makefile.read_text()))


def named_targets(page: Path) -> set[str]:
    return set(re.findall(r"(?m)(?:`|^ *|&& )make ([a-z]+(?:-[a-z]+)*)\b(?! \w+ing)", page.read_text()))


def test_documents_name_make_targets_that_exist(project: Path) -> None:
    known = targets(project / "Makefile")
    assert {(page.name, name) for page in pages(project) for name in named_targets(page) - known} == set()


def test_our_own_documents_name_make_targets_that_exist(render: Any) -> None:
    known = targets(ROOT / "Makefile") | targets(render(**ON) / "Makefile") | targets(render(**OTHERS) / "Makefile")
    assert {(page.name, name) for page in OURS for name in named_targets(page) - known} == set()


def test_documents_name_variables_that_exist(project: Path) -> None:
    """In some file that is no document: a setting, a script, a workflow, or the recipes' own snippets."""
    code = "\n".join(
        path.read_text()
        for path in project.rglob("*")
        if path.is_file() and path.suffix != ".md" and ".venv" not in path.parts
    )
    recipes = (project / "docs/recipes.md").read_text()
    for page in pages(project):
        # What `docker run` hands to PostgreSQL's image is PostgreSQL's.
        text = re.sub(r"--env POSTGRES_\w+", "", page.read_text())
        for name in set(re.findall(r"\b[A-Z]{2,}(?:_[A-Z]+)+\b", text)):
            assert name in code or name.lower() in code or name.lower() in recipes or f"{name} = " in recipes, (
                page.name,
                name,
            )


def settings(project: Path) -> set[str]:
    """List the variables that the chassis reads: the fields of its classes of settings."""
    return {
        field.target.id.upper()
        for path in project.glob("src/*/chassis/**/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Settings")
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }


def test_every_setting_is_documented(project: Path) -> None:
    names = settings(project)
    assert {"APP_ENV", "LOG_LEVEL", "PORT"} <= names
    example = (project / ".env.example").read_text()
    assert {name for name in names if f"\n#{name}=" not in example} == set()


def test_the_map_of_the_chassis_lists_each_module(project: Path) -> None:
    (chassis,) = project.glob("src/*/chassis")
    text = (chassis / "README.md").read_text()
    for path in chassis.glob("*.py"):
        assert path.name == "__init__.py" or f"[{path.name}]({path.name})" in text, path.name
    (pipeline,) = re.findall(
        r"(?s)return \[\n(.*?)\n    \]", (chassis / "app.py").read_text().partition("def pipeline")[2]
    )
    layers = re.findall(r"Middleware\((\w+)\.", pipeline)
    assert layers == re.findall(r"(?m)^\| \d \| \[(\w+)\.py\]", text)


def test_documents_are_in_plain_english(project: Path) -> None:
    assert [(page.name, match[0]) for page in pages(project) for match in ODD.finditer(_own_words(page))] == []


@pytest.mark.parametrize("page", [*OURS, ROOT / "CHANGELOG.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_our_own_documents_are_in_plain_english(page: Path) -> None:
    assert [match[0] for match in ODD.finditer(_own_words(page))] == []


def _own_words(page: Path) -> str:
    # The last line of the README is where owners append, so it stays as 1.0.0 had it.
    text = page.read_text().replace("brings the template's news into this project", "")
    return re.sub(r'"[^"\n]*"', "", text)


def test_each_decision_has_a_date_and_a_cost() -> None:
    topics = [path for path in (ROOT / "docs/decisions").glob("*.md") if path.name != "README.md"]
    index = (ROOT / "docs/decisions/README.md").read_text()
    assert len(topics) >= 9
    for topic in topics:
        assert f"({topic.name})" in index
        for decision in topic.read_text().split("\n## ")[1:]:
            heading, _, body = decision.partition("\n\n")
            assert re.match(r"20\d\d-\d\d-\d\d, |\d{4}-\d\d-\d\d", body), heading
            assert "\n- **Cost:**" in body or "](" in body, heading


def test_the_picture_shows_the_commands_and_nothing_of_a_machine() -> None:
    picture = (ROOT / "docs/first-minutes.svg").read_text()
    commands = runpy.run_path(str(ROOT / "docs/first_minutes.py"))["COMMANDS"]
    assert [command for command in commands if f">$ {command}<" not in picture] == []
    assert not re.search(r"/(tmp|root|home|work|usr|var)/|https?://(?!localhost|127\.0\.0\.1|www\.w3\.org)", picture)
