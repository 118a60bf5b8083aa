"""The template as Copier asks and renders it, without git, a network or a copy of its rules."""

import tarfile
import time
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from copier._main import Worker
from copier._settings import SettingsModel
from copier._template import Template
from copier._types import Phase
from copier._user_data import AnswersMap, Question

Answers = Mapping[str, str]


class File(NamedTuple):
    path: str
    content: bytes
    mode: str  # as git writes it


class Asked(NamedTuple):
    """A question and its answer: what was given, else the default."""

    question: Question
    shown: bool
    default: str
    value: str
    message: str | None

    @property
    def name(self) -> str:
        return self.question.var_name

    def answered(self) -> dict[str, Any]:
        values = self._asdict()
        values.pop("question")
        return {"name": self.name, **values}

    def described(self) -> dict[str, Any]:
        question = self.question
        choices = [{"value": it.value, "label": it.title} for it in question._formatted_choices]
        return {
            "name": self.name,
            "type": question.get_type_name(),
            "help": question.render_value(question.help),
            "default": self.default,
            "placeholder": question.get_placeholder(),
            "choices": choices or None,
            "shown": self.shown,
        }


class LateError(Exception):
    """A render did not end in time."""


class Copy(Worker):
    """Copier's worker without what it repeats for each file; until `deadline`, of time.monotonic."""

    deadline: float

    @property
    def answers_relpath(self) -> Path:
        return self.template.answers_relpath

    @cached_property
    def _last_context(self) -> Any:
        return super()._render_context()

    def _render_context(self) -> Any:
        # Once all questions are answered, it stays the same.
        asked = Phase.current() is Phase.RENDER
        return self._last_context if asked else super()._render_context()

    def _render_string(self, string: str, extra_context: Any = None) -> str:
        return super()._render_string(string, extra_context) if "{" in string else string

    def _render_file(self, *arguments: Any, **options: Any) -> None:
        if time.monotonic() > self.deadline:
            raise LateError
        super()._render_file(*arguments, **options)

    def _sync_git_index_executable_bit(self, *_: Any) -> None:
        """Not ask git about a folder that no repository contains."""


class Release:
    """A release of the template, unpacked from `archive` into `folder`."""

    def __init__(self, archive: Path, folder: Path) -> None:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
            about = tar.pax_headers
        self.repository = about["repository"]
        self.commit = about["commit"]
        self.template = Template(self.repository)
        # What Copier would clone, and ask git for.
        found = {"vcs": None, "local_abspath": folder.resolve(), "commit": self.commit}
        self.template.__dict__.update(found)
        self.jinja_env = self._copy(Path(), {}).jinja_env
        # Copier compiles each text anew, and every path many times.
        compiled = lru_cache(2048)(self.jinja_env.from_string)
        self.jinja_env.from_string = compiled  # type: ignore[assignment, method-assign]

    @property
    def names(self) -> list[str]:
        """Name the questions that a person may be asked."""
        questions = self.template.questions_data.items()
        return [name for name, details in questions if details.get("when") is not False]

    def ask(self, answers: Answers) -> list[Asked]:
        """Ask every question with Copier's own rules; `answers` overrule the defaults.

        As in a terminal, an answer that is refused does not count for what is asked later.
        """
        copy = self._copy(Path(), {})
        copy.answers = AnswersMap(metadata=self.template.metadata, external=copy._external_data())
        asked = []
        for name, details in self.template.questions_data.items():
            question = Question(
                var_name=name,
                answers=copy.answers,
                context=copy._render_context(),
                jinja_env=self.jinja_env,
                **details,
            )
            shown, default, message = question.get_when(), question.get_default(), None
            value = answers.get(name, default)
            copy.answers.user[name] = default
            if not shown:
                copy.answers.hide(name)
            if name in answers:
                try:
                    copy.answers.user[name] = question.parse_answer(value)
                    question.validate_answer(value)
                except ValueError as refused:
                    copy.answers.user[name], message = default, str(refused)
            asked.append(Asked(question, shown, default, value, message))
        return asked

    def render(self, answers: Answers, deadline: float) -> list[File]:
        """Return the files of a project; raise ValueError for an answer that Copier refuses."""
        with TemporaryDirectory() as folder:
            with self._copy(Path(folder, "project"), answers) as copy:
                copy.deadline = deadline
                copy.run_copy()
            written = sorted(path for path in copy.dst_path.rglob("*") if path.is_file())
            return [
                File(
                    path.relative_to(copy.dst_path).as_posix(),
                    path.read_bytes(),
                    "100755" if path.stat().st_mode & 0o100 else "100644",
                )
                for path in written
            ]

    def _copy(self, folder: Path, answers: Answers) -> Copy:
        options: Any = {"defaults": True, "quiet": True, "settings": SettingsModel()}
        copy = Copy(self.repository, folder, data=dict(answers), **options)
        copy.template = self.template
        if hasattr(self, "jinja_env"):
            copy.jinja_env = self.jinja_env
        return copy
