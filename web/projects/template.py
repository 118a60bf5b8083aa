"""The template as Copier asks and renders it, without git, a network or a copy of its rules."""

import tarfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from copier._main import Worker
from copier._settings import SettingsModel
from copier._template import Template
from copier._user_data import Question

Answers = dict[str, str]


class File(NamedTuple):
    path: str
    content: bytes
    mode: int


class LateError(Exception):
    """Something did not end before its deadline, a time of `time.monotonic`."""


class Copy(Worker):
    """Copier's worker, which keeps the files that it would write, and does nothing twice."""

    files: list[File]
    deadline: float

    @property
    def answers_relpath(self) -> Path:
        return self.template.answers_relpath

    def _render_string(self, string: str, extra_context: Any = None) -> str:
        return super()._render_string(string, extra_context) if "{" in string else string

    def _render_allowed(self, *path: Any, **written: Any) -> bool:
        if time.monotonic() > self.deadline:
            raise LateError
        if "expected_mode" in written:
            content, mode = written["expected_contents"], written["expected_mode"]
            self.files.append(File(str(*path), content, mode))
        return False


class Release:
    """A release of the template: what `build.py` packed into `archive`, unpacked into `folder`."""

    def __init__(self, archive: Path, folder: Path) -> None:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
            self.repository, self.commit = tar.pax_headers["repository"], tar.pax_headers["commit"]
        self.nowhere = folder / "nowhere"
        template = Template(self.repository)
        # What Copier would clone, and ask git for.
        template.__dict__.update(vcs=None, local_abspath=folder.resolve(), commit=self.commit)
        self.details = template.questions_data
        # Those that a person may be asked.
        self.names = [name for name in self.details if self.details[name].get("when") is not False]
        self.prepared: dict[str, Any] = {"template": template}
        environment: Any = self._worker({}).jinja_env
        self.prepared["jinja_env"] = environment
        # Copier compiles each text anew, and some for each file.
        environment.from_string = lru_cache(2048)(environment.from_string)

    def ask(self, given: Answers) -> tuple[list[dict[str, Any]], Answers]:
        """Return the questions, and the answers to these and to those that Copier derives.

        What Copier refuses gets its message, and counts for no later question.
        """
        worker = self._worker({})
        answers = worker.answers
        answers.metadata, answers.external = worker.template.metadata, worker._external_data()
        asked = []
        for name, details in self.details.items():
            context = worker._render_context()
            question = Question(name, answers, context, worker.jinja_env, **details)
            shown, default, message = question.get_when(), "", None
            if not shown:
                answers.hide(name)
            try:
                answer = default = question.get_default()
                if name in given:
                    answer = question.parse_answer(given[name])
                    question.validate_answer(answer)
            except ValueError as refused:
                answer, message = default, str(refused)
            answers.user[name] = answer
            choices = [{"value": it.value, "label": it.title} for it in question._formatted_choices]
            text, hint = question.render_value(question.help), question.get_placeholder()
            about = {"name": name, "type": question.get_type_name(), "help": text}
            about |= {"placeholder": hint, "choices": choices or None, "shown": shown}
            value = given.get(name, default)
            asked.append({**about, "default": default, "value": value, "message": message})
        return [it for it in asked if it["name"] in self.names], dict(answers.user)

    def render(self, answers: Answers, deadline: float) -> list[File]:
        """Return a project's files; raise ValueError for an answer that Copier refuses."""
        worker = self._worker(answers)
        worker.files, worker.deadline = [], deadline
        worker.run_copy()
        return sorted(worker.files)

    def _worker(self, answers: Answers) -> Copy:
        options: Any = {"defaults": True, "quiet": True, "settings": SettingsModel()}
        worker = Copy(self.repository, self.nowhere, data=answers, **options)
        worker.__dict__.update(self.prepared)
        return worker
