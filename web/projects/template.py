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


class Copy(Worker):
    """Copier's worker; it keeps the files that it would write, and renders only what needs it."""

    files: list[File]
    deadline: float

    @property
    def answers_relpath(self) -> Path:
        return self.template.answers_relpath  # Copier renders it for each part of a path

    def _render_string(self, string: str, extra_context: Any = None) -> str:
        return super()._render_string(string, extra_context) if "{" in string else string

    def _render_allowed(self, *path: Any, **written: Any) -> bool:
        if time.monotonic() > self.deadline:
            raise TimeoutError
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
        template = Template(self.repository)
        # What Copier would clone, and ask git for.
        template.__dict__.update(vcs=None, local_abspath=folder.resolve(), commit=self.commit)
        self.details = template.questions_data
        self.names = [name for name in self.details if self.details[name].get("when") is not False]
        self.prepared: dict[str, Any] = {"template": template}
        environment = self.prepared["jinja_env"] = self._worker({}).jinja_env
        # Copier compiles each text anew, and some for each file.
        environment.__dict__["from_string"] = lru_cache(2048)(environment.from_string)

    def ask(self, given: Answers) -> tuple[list[dict[str, Any]], Answers]:
        """Return the questions, and all answers; a refused one counts for no later question."""
        worker, asked = self._worker({}), []
        answers, environment = worker.answers, worker.jinja_env
        answers.metadata, answers.external = worker.template.metadata, worker._external_data()
        for name, details in self.details.items():
            question = Question(name, answers, worker._render_context(), environment, **details)
            shown, default, message = question.get_when(), "", None
            try:
                answer = default = question.get_default()
                if name in given:
                    answer = question.parse_answer(given[name])
                    question.validate_answer(answer)
            except ValueError as refused:
                answer, message = default, str(refused)
            answers.user[name] = answer
            choices = [{"value": it.value, "label": it.title} for it in question._formatted_choices]
            about: dict[str, Any] = {"name": name, "type": question.get_type_name(), "shown": shown}
            about |= {"help": question.render_value(question.help), "choices": choices or None}
            about |= {"placeholder": question.get_placeholder(), "default": default}
            asked.append({**about, "value": given.get(name, default), "message": message})
        return [it for it in asked if it["name"] in self.names], dict(answers.user)

    def render(self, answers: Answers, deadline: float) -> list[File]:
        """Return the files; raise ValueError for a refused answer, TimeoutError if it is late."""
        worker = self._worker(answers, deadline)
        worker.run_copy()
        return sorted(worker.files)

    def _worker(self, answers: Answers, deadline: float = 0) -> Copy:
        options: Any = {"defaults": True, "quiet": True, "settings": SettingsModel()}
        worker = Copy(self.repository, Path("nowhere"), data=answers, **options)
        worker.__dict__.update(self.prepared, files=[], deadline=deadline)
        return worker
