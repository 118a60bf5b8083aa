# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Add or remove the feature that FEATURE names, or list them: `feature.py add|remove UPDATER`.

The updater makes the change, at the template release that the project has.
"""

import os
import re
import shlex
import sys
from pathlib import Path

# Each question that can be answered `none`, its page in docs/, and what its other answers bring.
FEATURES = {
    "database": (
        "data",
        {
            "sqlite": "data in one file, for a single container",
            "postgresql": "data in PostgreSQL, for any number of containers",
        },
    ),
    "jobs": (
        "jobs",
        {"postgresql": "work that a worker does later, enqueued in the request's transaction"},
    ),
    "cache": (
        "cache",
        {"redis": "cached results and rate limits, shared by all containers"},
    ),
    "auth": (
        "auth",
        {
            "api-key": "callers with an API key",
            "jwt": "callers with a token from an issuer that you trust (OIDC, JWKS)",
        },
    ),
    "ci": (
        "ci",
        {
            "github": "workflows for checks, images and updates",
            "gitlab": "a pipeline for checks, images and updates",
        },
    ),
    "deploy": (
        "kubernetes",
        {"kubernetes": "Kustomize overlays for test and production, and `make deploy`"},
    ),
}
ANSWERS = Path(".copier-answers.yml")


def main(command: str, updater: str, *arguments: str) -> None:
    now = answers()
    feature = os.environ.get("FEATURE", "")
    if not feature:
        show(command, now)
        return
    question, value = find(command, feature)
    has = now[question]
    if command == "add" and value == has:
        print(f"This project already has {question}={value}.")
        return
    if command == "remove" and (has == "none" or value not in ("", has)):
        print(f"This project has no {value or question}.")
        return
    if command == "add":
        data = " ".join([f"database={now['database']}", *arguments])
        if question == "jobs" and "database=postgresql" not in data:
            sys.exit(
                "Jobs are rows of a PostgreSQL database: first run make add FEATURE=postgresql"
            )
        announce(question, value, has)
    again = re.sub(r'([\\"$`])', r"\\\1", shlex.join([*arguments, "--yes"]))
    agreed = f'make {command} FEATURE={spelled(question, value or has)} ARGS="{again}"'
    answer = f"{question}={value if command == 'add' else 'none'}"
    change = [sys.executable, updater, "--data", answer, "--feature", agreed, *arguments]
    sys.stdout.flush()
    os.execv(sys.executable, change)  # noqa: S606


def answers() -> dict[str, str]:
    """Read the answers of the project to the questions in FEATURES."""
    if not ANSWERS.exists():
        sys.exit(f"{ANSWERS} is missing. Restore it: git checkout HEAD -- {ANSWERS}")
    recorded = dict(re.findall(r"(?m)^(\w+): (\S+)$", ANSWERS.read_text(encoding="utf-8")))
    return {question: recorded.get(question, "none") for question in FEATURES}


def show(command: str, now: dict[str, str]) -> None:
    """List what can be removed and, for `add`, what can be added."""
    present, absent = [], []
    for question, (_, values) in FEATURES.items():
        for value, brings in values.items():
            about = f"FEATURE={spelled(question, value):<12} {question}: {brings}"
            if value == now[question]:
                present.append(f"  make remove {about}")
            else:
                instead = f", instead of {now[question]}" * (now[question] != "none")
                absent.append(f"  make add {about}{instead}")
    print("This project has:" if present else "This project has no feature to remove.")
    print(*present, *["It can add:", *absent] * (command == "add"), sep="\n")


def find(command: str, feature: str) -> tuple[str, str]:
    """Return the question and the value that FEATURE means, or end with one line.

    The value is empty if it is whatever the project has.
    """
    question, _, value = feature.partition("=")
    if question not in FEATURES:
        if "=" not in feature and (first := question_of(feature)):
            return first, feature
        sys.exit(
            f"There is no feature {feature!r}; `make {command}` lists all, "
            f"such as: make {command} FEATURE=redis"
        )
    values = list(FEATURES[question][1])
    if not value and (command == "remove" or len(values) == 1):
        return question, value if command == "remove" else values[0]
    if value not in values:
        example = f"make {command} FEATURE={spelled(question, values[-1])}"
        sys.exit(f"FEATURE={question} can be {' or '.join(values)}, such as: {example}")
    return question, value


def question_of(value: str) -> str:
    """Return the question that has this answer, or an empty string."""
    return next((question for question in FEATURES if value in FEATURES[question][1]), "")


def spelled(question: str, value: str) -> str:
    """Return the shortest FEATURE that means this value."""
    if question_of(value) == question:
        return value
    return question if len(FEATURES[question][1]) == 1 else f"{question}={value}"


def announce(question: str, value: str, has: str) -> None:
    page, values = FEATURES[question]
    print(f"Adds {spelled(question, value)}: {values[value]}. How to use it: docs/{page}.md.")
    if has != "none":
        data = ". It copies no data; your migrations have to run there too"
        print(f"It replaces {has}{data * (question == 'database')}.")
    removed = Path("migrations").exists() and not any(Path("src").glob("*/items/models.py"))
    if question == "auth" and has == "none":
        print("Your own routes stay open until each router has `dependencies=[auth.required]`.")
    if question == "auth" and removed:
        print(
            "It changes the line of app.py that includes items.router, which this project has removed: "
            "if git reports a conflict there, leave the line out."
        )
    if question == "jobs" and removed:
        print(
            "The example jobs need the example items, which this project has removed. Afterwards delete "
            "items/jobs.py, tests/test_item_jobs.py and their lines in app.py: else it does not start."
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
