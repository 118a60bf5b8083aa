"""What the page sends and gets."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

# No rule of a question allows more than 254 characters.
Text = Annotated[str, StringConstraints(max_length=1000)]
AnswersField = Annotated[dict[Text, Text], Field(max_length=50)]


class Given(BaseModel):
    answers: AnswersField = {}


class TwoGiven(BaseModel):
    before: AnswersField = {}
    after: AnswersField = {}


class Code(BaseModel):
    path: Text
    text: str = Field(max_length=200_000)


class Choice(BaseModel):
    value: str
    label: str


class Question(BaseModel):
    name: str
    type: str
    help: str
    default: str
    placeholder: str
    choices: list[Choice] | None
    shown: bool


class Questions(BaseModel):
    release: str
    repository: str
    questions: list[Question]


class Answered(BaseModel):
    name: str
    shown: bool
    value: str
    default: str
    message: str | None


class PreviewedFile(BaseModel):
    path: str
    size: int
    mode: Literal["100644", "100755"]
    text: str


class Commands(BaseModel):
    copier: str
    make: str


class Preview(BaseModel):
    questions: list[Answered]
    commands: Commands
    files: list[PreviewedFile]


class ComparedFile(BaseModel):
    path: str
    status: Literal["added", "removed", "changed"]
    diff: str
    added: int
    removed: int


class Comparison(BaseModel):
    files: list[ComparedFile]


class Highlight(BaseModel):
    lines: list[list[tuple[str, str]]]
