# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""`make update`: merge a newer release of the template into this project, and lose nothing.

Copier renders the release that the project has and the new one; git merges the difference
with the project, in a scratch repository whose settings are its own. The project itself is
written in one last step that no signal interrupts, so it is either as it was or updated.
"""

import signal
import sys

# First of all: an interrupted update ends with a sentence, not with a traceback.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
for number in SIGNALS:
    signal.signal(number, lambda *_: sys.exit("Interrupted: nothing was changed."))

import argparse  # noqa: E402
import ast  # noqa: E402
import difflib  # noqa: E402
import hashlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import shlex  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
from collections import defaultdict  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from pathlib import Path, PurePosixPath  # noqa: E402
from typing import Any, NoReturn  # noqa: E402

COPIER = "copier>=9.18"
ANSWERS = ".copier-answers.yml"
# What the answers file has besides answers.
NO_ANSWERS = ("template_release", "answers_checksum")

# A tree of git, flat: each path with its mode and object id.
File = tuple[str, str]
Tree = dict[str, File]


# --- The command -------------------------------------------------------------


def main(*arguments: str) -> int:
    """Run as `make update` or as the process that renders for it; return the exit status."""
    try:
        if arguments[:1] == ("--render",):
            print(json.dumps(render(json.loads(arguments[1])), default=str))
            return 0
        return update(*arguments)
    except RefusedError as refusal:
        print(json.dumps({"refused": refusal.args}))
        return 1
    except subprocess.CalledProcessError as error:
        fail("git failed, and nothing was changed:", f"  {last_line(os.fsdecode(error.stderr))}")


def update(*arguments: str) -> int:
    """Update the project in the current folder, or with `--check` only report."""
    options = parse(arguments)
    project = Project(Path.cwd())
    if not options.check:
        project.refuse_uncommitted()
    with tempfile.TemporaryDirectory(prefix="update.") as folder:
        releases = rendered(Path(folder), options)
        old, new = releases["before"]["template_release"], releases["after"]["template_release"]
        if options.check:
            return report_check(old, new)
        scratch = Scratch(Path(folder) / "scratch", project)
        merged = merge_releases(scratch, Path(folder), project, releases)
        if not (merged.conflicts or changes(project.tree(), merged.files)):
            print(f"Up to date with template release {new}.")
            return 0
        project.refuse_hidden_edits(merged, Path(folder))
        print(releases["news"].strip(), end="\n\n" if releases["news"].strip() else "")
        if options.feature:
            show(merged, project.tree())
        show_deletions(merged, broken_imports(scratch, merged, project.tree()))
        if not options.yes and (options.feature or merged.deleted or merged.deleted_edited):
            confirm(options.feature or agreement("make update", *arguments))
        # Somebody may have saved a file in the meantime.
        project.refuse_uncommitted()
        project.write(scratch, merged)
    headline = f"Updated from template release {old} to {new}" if old != new else "Updated"
    report(merged, f"{headline}, with conflicts." if merged.conflicts else f"{headline}.")
    return finish(
        merged,
        project.take_back,
        "`make check` and `make dev`" if options.feature else "`make check`",
    )


def parse(arguments: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make update", usage='make update ARGS="..."')
    add = parser.add_argument
    add("-d", "--data", action="append", default=[], metavar="NAME=VALUE", help="change an answer")
    add("-r", "--vcs-ref", metavar="REF", help="a tag or commit of the template, such as v1.4.0")
    add("-g", "--prereleases", action="store_true", help="consider prereleases too")
    add("-y", "--yes", action="store_true", help="agree to deletions")
    add("-l", "--defaults", action="store_true", help="keep recorded answers, as always")
    add("--check", action="store_true", help="report whether there is a newer release")
    # `make add` and `make remove` set it to the command that agrees beforehand. It keeps the
    # project's release, shows all changes, and asks.
    add("--feature", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for entry in options.data:
        if "=" not in entry:
            fail(f"--data takes a name and a value, such as license=MIT: {entry}")
    return options


def report_check(old: str, new: str) -> int:
    if old != new:
        fail(f"Template release {new} is out, this project has {old}: `make update` brings it.")
    print(f"Up to date with template release {new}.")
    return 0


def show(merged: "Merge", ours: Tree) -> None:
    """List what is added and changed; a new folder is one line."""
    folders = {str(parent) for name in ours for parent in PurePosixPath(name).parents}
    added, changed = [], []
    for name in changes(ours, merged.files):
        new = [str(path) for path in PurePosixPath(name).parents if str(path) not in folders]
        if name in ours:
            clash = " (you changed the same lines: a conflict)" * (name in merged.conflicts)
            changed += [name + clash] * (name in merged.files)
        else:
            added.append(f"{new[-1]}/" if new else name)
    for headline, names in (("This adds:", added), ("This changes:", changed)):
        if names:
            print(headline, *(f"  {name}" for name in dict.fromkeys(names)), sep="\n")


def show_deletions(merged: "Merge", using: list[str]) -> None:
    """List the files that are deleted, and those that use them."""
    if names := sorted([*merged.deleted, *merged.deleted_edited]):
        print("This update deletes:")
        for name in names:
            edited = name in merged.deleted_edited
            print(f"  {name}", *["(you edited it: it stays, as a conflict)"] * edited)
    if using:
        print("These files use modules that are deleted or moved, so they need a change:")
        print(*(f"  {name}" for name in using), sep="\n")


def confirm(agreed: str) -> None:
    """Ask whether to go on, or end; `agreed` is the command that agrees beforehand."""
    if not sys.stdin.isatty():
        fail(f"Nothing was changed. To agree beforehand: {agreed}")
    try:
        answer = input("Go on? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        fail("Nothing was changed.")


def agreement(command: str, *arguments: str) -> str:
    """Return the command that agrees to an update beforehand."""
    again = re.sub(r'([\\"$`])', r"\\\1", shlex.join([*arguments, "--yes"]))
    return f'{command} ARGS="{again}"'


def report(merged: "Merge", headline: str) -> None:
    """Print what was done, and what the owner should look at."""
    print(headline)
    for text, names in (
        ("Moved:", merged.moved),
        ("Both sides changed neighbouring lines; both are kept, look at:", merged.kept_both),
        (
            "You deleted or replaced these, which the template changed; they stay as they are:",
            merged.left_alone,
        ),
        ("Ignored by git and yours, so not written:", merged.ignored),
        (
            "The template deleted these, which you edited: `git add` keeps a file, `git rm` deletes it.",
            merged.deleted_edited,
        ),
        (
            "Both sides changed the same lines of:",
            sorted(merged.conflicts.keys() - set(merged.deleted_edited)),
        ),
    ):
        if names:
            print(text, *(f"  {name}" for name in names), sep="\n")


def finish(merged: "Merge", take_back: str, trial: str) -> int:
    """Lock the dependencies if nothing is in conflict; return the exit status."""
    if merged.conflicts:
        lock = " `make lock`," if Path("uv.lock").exists() else ""
        print(
            "Resolve conflicts with `git mergetool`, or choose between the markers `<<<<<<<` and "
            f"`>>>>>>>` and `git add` the files;{lock} then commit.\n"
            f"Or take the whole update back: {take_back}"
        )
        return 1
    if Path("uv.lock").exists() and (fault := lock_fault()):
        fail(
            f"The update is complete, but uv.lock is not up to date: {fault}",
            f"Run `make lock`, then commit. Or take the whole update back: {take_back}",
        )
    print(f"No conflicts. Look through it with `git diff HEAD`, run {trial}, then commit.")
    return 0


def lock_fault() -> str:
    done = subprocess.run([uv(), "lock", "--quiet"], capture_output=True, text=True, check=False)
    return last_line(done.stderr) or "`uv lock` failed" if done.returncode else ""


# --- The project -------------------------------------------------------------


class Project:
    """The owner's repository, or the folder of one, which only `write` changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        require_answers(folder)
        self.top = folder
        self.top = Path(self._locate("--show-toplevel"))
        self.prefix = PurePosixPath(self._locate("--show-prefix"))
        if self.git(
            "rev-parse", "--quiet", "--verify", f"HEAD:{self._path}", check=False
        ).returncode:
            refuse_unversioned("git add . && git commit -m 'Start the service'")

    def _locate(self, what: str) -> str:
        done = self.git("rev-parse", what, at=self.folder, check=False)
        said = os.fsdecode(done.stderr)
        if "not a git repository" in said:
            refuse_unversioned("git init && git add . && git commit -m 'Start the service'")
        if done.returncode:
            # Such as another user's repository: git says itself what to do about it.
            fail(*(line.strip() for line in said.splitlines() if line.strip()))
        return os.fsdecode(done.stdout).removesuffix("\n")

    def git(
        self, *arguments: str, check: bool = True, at: Path | None = None, **options: Any
    ) -> Any:
        """Run git with its owner's settings, but without hooks and what would hide an edit."""
        ours = ["core.hooksPath=/dev/null", "core.fsmonitor=false", "core.safecrlf=false"]
        command = ["git", *(part for setting in ours for part in ("-c", setting)), *arguments]
        environment = {**os.environ, "LC_ALL": "C", **options.pop("env", {})}
        return run(command, cwd=at or self.top, env=environment, check=check, **options)

    def lines(self, *arguments: str, **options: Any) -> list[str]:
        """Run git; return what it prints, split at its null characters."""
        return split(self.git(*arguments, **options).stdout)

    def tree(self) -> Tree:
        """Return what is committed of the project, paths relative to its folder."""
        return parse_tree(self.lines("ls-tree", "-rz", "--full-tree", f"HEAD:{self._path}"))

    @property
    def _path(self) -> str:
        return "" if str(self.prefix) == "." else str(self.prefix)

    def refuse_uncommitted(self) -> None:
        """Fail unless all files of the project are committed, and no merge is unfinished."""
        if self.git("ls-files", "--unmerged").stdout:
            fail(
                "A merge is not finished: resolve its conflicts and commit. "
                f"Or take the whole of it back: {self.take_back}"
            )
        status = ("status", "--porcelain", "--untracked-files=normal", "--", ".")
        if changed := os.fsdecode(self.git(*status, at=self.folder).stdout).splitlines():
            fail(
                "Commit your work first, so that you can look through the update and take it back:",
                *(f"  {line}" for line in changed[:10]),
            )

    def refuse_markers(self, files: Tree) -> None:
        """Fail if one of `files`, the template's, is committed with the markers of a conflict."""
        markers = ("-e", "^<<<<<<< ", "-e", "^>>>>>>> ")
        found = ("grep", "-lzGI", "--all-match", *markers, "HEAD", "--", ".")
        names = {
            name.removeprefix("HEAD:") for name in self.lines(*found, at=self.folder, check=False)
        }
        if marked := sorted(names & files.keys()):
            fail(
                f"Conflict markers from an earlier merge are committed: resolve them in {', '.join(marked)}"
            )

    def refuse_hidden_edits(self, merged: "Merge", folder: Path) -> None:
        """Fail if git was told to overlook an edit that the update would overwrite."""
        # A new index knows nothing of assume-unchanged and skip-worktree.
        fresh = {"env": {"GIT_INDEX_FILE": str(folder / "fresh-index")}}
        self.git("read-tree", "HEAD", **fresh)
        edited = ("diff", "--no-ext-diff", "--name-only", "-z", "--diff-filter=MT", "--relative")
        hidden = set(self.lines(*edited, at=self.folder, **fresh)) & set(
            changes(self.tree(), merged.files)
        )
        if hidden:
            fail(
                f"git was told to overlook your edits of: {', '.join(sorted(hidden))}",
                "Undo that and commit: git update-index --no-assume-unchanged --no-skip-worktree FILE",
            )

    def write(self, scratch: "Scratch", merged: "Merge") -> None:
        """Write the merge into the work tree and the index, completely or not at all."""
        objects = scratch.pack(merged)
        self.git("unpack-objects", "-q", input=objects)
        tree = self._whole_tree(scratch.tree(merged.files))
        changed = changes(self.tree(), merged.files)
        existed = {name for name in changed if os.path.lexists(self.folder / name)}
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self.git("update-index", "-q", "--refresh", check=False)
        try:
            self.git("read-tree", "-m", "-u", "HEAD", tree)
            self._mark_conflicts(merged)
        except subprocess.CalledProcessError as error:
            self._restore(merged, existed)
            fail(f"Nothing was changed: {last_line(os.fsdecode(error.stderr))}")
        line = "Interrupted, but the update is complete: `git status` shows it. To take it back: "
        for number in SIGNALS:
            signal.signal(number, lambda *_: fail(line + self.take_back))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _whole_tree(self, tree: str) -> str:
        """Return the repository's tree, with `tree` as the project's folder."""
        for folder, name in [
            (part.parent, part.name) for part in [self.prefix, *self.prefix.parents] if part.name
        ]:
            inside = "" if str(folder) == "." else str(folder)
            entries = self.lines("ls-tree", "-z", "--full-tree", f"HEAD:{inside}")
            entries = [entry for entry in entries if entry.partition("\t")[2] != name]
            entries.append(f"040000 tree {tree}\t{name}")
            tree = os.fsdecode(self.git("mktree", "-z", input=join(entries)).stdout).strip()
        return tree

    def _mark_conflicts(self, merged: "Merge") -> None:
        entries = []
        for name, stages in merged.conflicts.items():
            path = str(self.prefix / name)
            entries.append(f"0 {'0' * len(next(iter(stages.values()))[1])}\t{path}")
            entries += [f"{mode} {oid} {stage}\t{path}" for stage, (mode, oid) in stages.items()]
            # Outside of a sparse checkout: a conflict has to be where its owner can resolve it.
            if name in merged.files and not os.path.lexists(self.folder / name):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                content = ("cat-file", "--filters", f"--path={path}", merged.files[name][1])
                (self.folder / name).write_bytes(self.git(*content).stdout)
        self.git("update-index", "-z", "--index-info", input=join(entries))

    @property
    def take_back(self) -> str:
        """The command that undoes an update, and nothing else in a repository of several projects."""
        here = "git restore --source=HEAD --staged --worktree ."
        return here if self._path else "git reset --hard"

    def _restore(self, merged: "Merge", existed: set[str]) -> None:
        """Take back what a failed step wrote, and nothing that somebody else wrote."""
        before = self.tree()
        written = [name for name in changes(before, merged.files) if self._is_written(merged, name)]
        for name in set(written) - before.keys() - existed:
            (self.folder / name).unlink(missing_ok=True)
        if names := [f":(literal){name}" for name in written if name in before]:
            restore = ("restore", "--source=HEAD", "--staged", "--worktree", "--", *names)
            self.git(*restore, at=self.folder, check=False)

    def _is_written(self, merged: "Merge", name: str) -> bool:
        path = self.folder / name
        if name not in merged.files or not os.path.lexists(path):
            return not os.path.lexists(path)
        mode, oid = merged.files[name]
        if path.is_symlink() or not path.is_file():
            return path.is_symlink() and mode == "120000"
        hashed = self.git("hash-object", f"--path={self.prefix / name}", "--", str(path)).stdout
        return os.fsdecode(hashed).strip() == oid


def require_answers(folder: Path) -> None:
    if (folder / ANSWERS).exists():
        return
    for parent in folder.parents:
        if (parent / ANSWERS).exists():
            fail(f"The project is in a folder above this one: cd '{parent}'")
    fail(
        f"{ANSWERS}, which names the template, is missing. Restore it: git checkout HEAD -- {ANSWERS}"
    )


def refuse_unversioned(command: str) -> NoReturn:
    fail(
        "Nothing is committed here, and an update finds your edits by comparing with a commit:",
        f"  {command}",
    )


# --- The merge ---------------------------------------------------------------


@dataclass
class Merge:
    """The result of a merge: the files to write, and what the owner should know about them."""

    files: Tree
    conflicts: dict[str, dict[int, File]] = field(default_factory=dict)
    kept_both: list[str] = field(default_factory=list)
    left_alone: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    deleted_edited: list[str] = field(default_factory=list)


class Scratch:
    """A repository in a temporary folder: it reads the project's objects, but no user's settings."""

    def __init__(self, folder: Path, project: Project) -> None:
        self.folder = folder
        home = folder.with_name("home")
        home.mkdir()
        self.environment = neutral_environment(home)
        kind = os.fsdecode(project.git("rev-parse", "--show-object-format").stdout).strip()
        run(
            ["git", "init", "-q", "--template=", f"--object-format={kind}", str(folder)],
            env=self.environment,
        )
        objects = project.git("rev-parse", "--git-path", "objects").stdout
        (folder / ".git/objects/info").mkdir(parents=True, exist_ok=True)
        alternates = folder / ".git/objects/info/alternates"
        alternates.write_bytes(
            os.fsencode(quoted(str(project.top / os.fsdecode(objects).strip("\n")))) + b"\n"
        )
        # What is merged are the committed bytes: no line endings, filters or encodings here.
        (folder / ".git/info").mkdir(exist_ok=True)
        (folder / ".git/info/attributes").write_text(
            f"* -text !eol -filter -ident !working-tree-encoding conflict-marker-size={MARKER}\n"
        )

    def git(self, *arguments: str, check: bool = True, **options: Any) -> Any:
        environment = {**self.environment, **options.pop("env", {})}
        return run(["git", *arguments], cwd=self.folder, env=environment, check=check, **options)

    def text(self, *arguments: str, **options: Any) -> str:
        return os.fsdecode(self.git(*arguments, **options).stdout).strip("\n")

    def add(self, folder: Path) -> Tree:
        """Store a folder's files, including those that a .gitignore names."""
        index = {"env": {"GIT_INDEX_FILE": str(folder.with_suffix(".index"))}}
        self.git(f"--work-tree={folder}", "add", "--force", "--all", ".", **index)
        return parse_stages(split(self.git("ls-files", "--stage", "-z", **index).stdout))[0]

    def tree(self, files: Tree) -> str:
        """Store a tree; return its id."""
        index = {"env": {"GIT_INDEX_FILE": str(self.folder.with_suffix(".index"))}}
        self.git("read-tree", "--empty", **index)
        entries = [f"{mode} {oid}\t{name}" for name, (mode, oid) in files.items()]
        self.git("update-index", "-z", "--index-info", input=join(entries), **index)
        return self.text("write-tree", "--missing-ok", **index)

    def commit(self, files: Tree, *parents: str) -> str:
        chain = [part for parent in parents for part in ("-p", parent)]
        return self.text("commit-tree", *chain, "-m", "update", self.tree(files))

    def store(self, content: bytes) -> str:
        return self.text("hash-object", "-w", "--stdin", input=content)

    def pack(self, merged: Merge) -> bytes:
        """Return the objects of a merge that the project does not have."""
        stages = [stage for files in merged.conflicts.values() for stage in files.values()]
        wanted = {oid for mode, oid in [*merged.files.values(), *stages] if mode != "160000"}
        listed = "\n".join([*wanted, self.tree(merged.files)])
        packed: bytes = self.git(
            "pack-objects", "-q", "--local", "--revs", "--stdout", input=listed.encode() + b"\n"
        ).stdout
        return packed


def merge_releases(
    scratch: Scratch, folder: Path, project: Project, releases: dict[str, Any]
) -> Merge:
    """Merge what changed between two renders into what the project has committed."""
    old, new, ours = scratch.add(folder / "old"), scratch.add(folder / "new"), project.tree()
    project.refuse_markers(old)
    refuse_folders_for_files(ours, new)
    leave_owned(old, ours, new, releases["owned"])
    committed = dict(ours)
    moved = follow_moves(old, ours, new, releases["moves"])
    merged = merge(scratch, old, ours, new)
    merged.moved = moved
    leave_ignored(project, merged, committed)
    list_deletions(scratch, merged, ours)
    return merged


def follow_moves(old: Tree, ours: Tree, new: Tree, moves: list[list[str]]) -> list[str]:
    """Move files in `old` and `ours` as a release moved them; return the owner's moves."""
    moved = []
    for before, after in moves:
        if before in new or after not in new:
            continue
        for files in (old, ours):
            if before in files and after not in files:
                files[after] = files.pop(before)
                moved += [f"{before} -> {after}"] * (files is ours)
    return moved


def refuse_folders_for_files(ours: Tree, new: Tree) -> None:
    """Fail if the project has a folder with the name of a template's file, or the reverse."""
    for mine, theirs in ((ours, new), (new, ours)):
        folders = {str(parent) for name in mine for parent in PurePosixPath(name).parents}
        if both := sorted(folders & theirs.keys()):
            owner, other = (
                ("the project", "the template") if mine is ours else ("the template", "the project")
            )
            fail(
                f"{both[0]} is a folder in {owner} and a file in {other}. "
                "Give yours another name and commit, then update."
            )


def leave_owned(old: Tree, ours: Tree, new: Tree, owned: list[list[list[str]]]) -> None:
    """Remove files that are the owner's once made from the difference between the releases."""
    for before, after in owned:
        if before and after:
            for name in after:
                del new[name]
            new.update({name: old[name] for name in before})
        elif after:
            for name in set(after) & ours.keys():
                del new[name]


def leave_ignored(project: Project, merged: Merge, committed: Tree) -> None:
    """Leave the owner's ignored files alone, such as `.env`, even if the template brings one."""
    for name in sorted(merged.files.keys() - committed.keys()):
        path = project.folder / name
        above = [parent for parent in path.parents if parent.is_relative_to(project.folder)]
        in_the_way = [
            parent
            for parent in above
            if parent != project.folder
            and (parent.is_symlink() or (parent.exists() and not parent.is_dir()))
        ]
        tracked = {
            str(part.relative_to(project.folder)) for part in [path, *in_the_way]
        } & committed.keys()
        if (os.path.lexists(path) or in_the_way) and not tracked:
            del merged.files[name]
            merged.conflicts.pop(name, None)
            merged.ignored.append(name)


def list_deletions(scratch: Scratch, merged: Merge, ours: Tree) -> None:
    """Note what is gone, and what only moved (the explicit moves are in `ours` already)."""
    before, after = scratch.tree(ours), scratch.tree(merged.files)
    compared = ("diff-tree", "-r", "-z", "-M", "--name-status", "--diff-filter=DR", before, after)
    entries = iter(split(scratch.git(*compared).stdout))
    for status in entries:
        name = next(entries)
        if status == "D":
            merged.deleted.append(name)
        else:
            merged.moved.append(f"{name} -> {next(entries)}")
    merged.deleted_edited = sorted(
        name for name, stages in merged.conflicts.items() if stages.keys() == {1, 2}
    )


def broken_imports(scratch: Scratch, merged: Merge, ours: Tree) -> list[str]:
    """List files that use a module which the project will no longer have."""
    gone = {*(ours.keys() - merged.files.keys()), *merged.deleted_edited}
    modules = {module(name) for name in gone if name.endswith(".py")}
    if not modules:
        return []
    words = [part for name in sorted(modules) for part in ("-e", name.rpartition(".")[2])]
    found = ("grep", "-lzFw", *words, scratch.tree(merged.files), "--", "*.py")
    names = [entry.partition(":")[2] for entry in split(scratch.git(*found, check=False).stdout)]

    def uses(name: str) -> bool:
        source = scratch.git("cat-file", "blob", merged.files[name][1]).stdout
        imported = imports(name, source)
        if modules & imported or name not in ours:
            return bool(modules & imported)
        # The template's line imported it, and a line of the owner's still needs it.
        before = imports(name, scratch.git("cat-file", "blob", ours[name][1]).stdout)
        lost = {dotted.rpartition(".")[2] for dotted in modules & before}
        return any(isinstance(node, ast.Name) and node.id in lost for node in nodes(source))

    return [name for name in names if name not in gone and uses(name)]


def module(name: str) -> str:
    """Return the dotted name of a Python file."""
    path = name.removeprefix("src/").removesuffix(".py").removesuffix("/__init__")
    return path.replace("/", ".")


def imports(name: str, source: bytes) -> set[str]:
    """Return the dotted names that a Python file imports."""
    found = {
        alias.name for node in nodes(source) if isinstance(node, ast.Import) for alias in node.names
    }
    package = [part for part in PurePosixPath(name).parent.parts if part != "src"]
    for node in nodes(source):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def nodes(source: bytes) -> list[ast.AST]:
    """Return the nodes of a Python file, none if it is not valid."""
    try:
        return list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return []


def merge(scratch: Scratch, old: Tree, ours: Tree, new: Tree) -> Merge:
    """Merge two trees that come from `old` by git's default strategy, which follows renames."""
    base = scratch.commit(old)
    scratch.git("checkout", "-q", "--detach", scratch.commit(ours, base))
    scratch.git("update-ref", "refs/heads/template", scratch.commit(new, base))
    settings = ("-c", "merge.directoryRenames=true", "-c", "merge.conflictStyle=diff3")
    done = scratch.git(*settings, "merge", "-q", "--no-commit", "--no-ff", "template", check=False)
    if done.returncode not in (0, 1):
        fail("git can't merge this; nothing was changed:", last_line(os.fsdecode(done.stderr)))
    stages = parse_stages(split(scratch.git("ls-files", "--stage", "-z").stdout))
    merged = Merge(stages.pop(0, {}))
    by_name: dict[str, dict[int, File]] = defaultdict(dict)
    for stage, files in stages.items():
        for name, file in files.items():
            by_name[name][stage] = file
    leave_replaced(merged, by_name)
    for name, versions in sorted(by_name.items()):
        settle(scratch, merged, name, versions)
    return merged


def leave_replaced(merged: Merge, by_name: dict[str, dict[int, File]]) -> None:
    """Keep what the owner put in a file's place, such as a link; git sets the template's aside."""
    for aside in [name for name in by_name if name.endswith("~template")]:
        name = aside.removesuffix("~template")
        if by_name[aside].keys() == {1, 3}:
            del by_name[aside]
            merged.left_alone.append(name)
            if by_name.get(name, {}).keys() in ({2}, {1, 2}):
                merged.files[name] = by_name.pop(name)[2]


@dataclass
class Hunk:
    """A place in a file that both sides changed: the lines of each, and the original ones."""

    ours: list[bytes]
    base: list[bytes]
    theirs: list[bytes]


# A length of conflict markers that hardly any file has.
MARKER = 250


def settle(scratch: Scratch, merged: Merge, name: str, versions: dict[int, File]) -> None:
    """Resolve a conflict that needs no choice; record the others."""
    if versions.keys() == {1, 3}:
        merged.left_alone.append(name)
        return
    path = scratch.folder / name
    mode, oid = versions.get(2) or versions.get(3) or versions[1]
    if path.is_file() and not path.is_symlink() and mode != "160000":
        pieces = hunks(path.read_bytes().splitlines(keepends=True))
        settled = pieces
        if versions.keys() == {1, 2, 3}:
            mode = versions[3][0] if mode == versions[1][0] else mode
            settled = [without_choice(piece) for piece in pieces]
        merged.files[name] = mode, scratch.store(b"".join(map(marked, settled)))
        if settled != pieces:
            merged.kept_both.append(name)
            if not any(isinstance(piece, Hunk) for piece in settled):
                return
    elif os.path.lexists(path):
        merged.files[name] = mode, oid
    merged.conflicts[name] = versions


def hunks(lines: list[bytes]) -> list[list[bytes] | Hunk]:
    """Split what git merged in diff3 style into lines and conflicts."""
    signs = [sign_of(line) for line in lines]
    if len({signs.count(sign) for sign in SIGNS}) > 1:
        # A line of the file looks like a marker, so it is unclear which side a line belongs to.
        return [lines]
    side: list[bytes] = []
    pieces: list[list[bytes] | Hunk] = [side]
    for line, sign in zip(lines, signs, strict=True):
        last = pieces[-1]
        if sign == b"<":
            side = []
            pieces.append(Hunk(side, [], []))
        elif sign == b">":
            side = []
            pieces.append(side)
        elif sign and isinstance(last, Hunk):
            side = last.base if sign == b"|" else last.theirs
        else:
            side.append(line)
    return pieces


SIGNS = (b"<", b"|", b"=", b">")


def sign_of(line: bytes) -> bytes:
    """Return the sign of a marker, else nothing."""
    sign, rest = line[:1], line[MARKER:].rstrip(b"\r\n")
    is_marker = sign in SIGNS and line[:MARKER] == sign * MARKER
    return sign if is_marker and (rest[:1] == b" " or rest == b"") else b""


def without_choice(piece: list[bytes] | Hunk) -> list[bytes] | Hunk:
    """Merge a hunk of neighbouring lines in which both sides changed no line differently."""
    if not isinstance(piece, Hunk):
        return piece
    if not piece.base:
        return both_inserted(piece)
    base, *sides = split_imports(piece)
    mine, other = (edits(base, side) for side in sides)
    same = [edit for edit in mine if edit in other]
    ours, theirs = ([edit for edit in side if edit not in same] for side in (mine, other))
    changed = [telling(base, side) for side in (same, ours, theirs)]
    if any(meet(one, another) for one in ours for another in theirs) or (
        # Both added it, or one side moved what the other deleted or moved elsewhere.
        len(set().union(*changed)) < sum(map(len, changed))
    ):
        return piece
    merged: list[bytes] = []
    place = 0
    # At the same place the template's lines come first.
    for start, end, lines in sorted([*same, *theirs, *ours], key=lambda edit: edit[:2]):
        merged += [*base[place:start], *lines]
        place = end
    merged += base[place:]
    return merged if base is piece.base else join_imports(merged)


def both_inserted(hunk: Hunk) -> list[bytes] | Hunk:
    """Keep what both sides inserted, unless they begin or end with the same line."""
    head, inner, tail = common(hunk)
    if not (inner.ours and inner.theirs):
        return [*head, *inner.theirs, *inner.ours, *tail]
    # Each may need that line, such as two functions a `return`, or it is there twice by mistake.
    return hunk if any(map(WORD.search, [*head, *tail])) else [*hunk.theirs, *hunk.ours]


# Lines without one, such as `)`, may be there any number of times.
WORD = re.compile(rb"\w")
IMPORT = re.compile(rb"(from [\w.]+ import )(\w+(?:, \w+)*)(\r?\n)")


def split_imports(hunk: Hunk) -> list[list[bytes]]:
    """Give each name that a line imports a line of its own, since each side may change another."""
    sides = [hunk.base, hunk.ours, hunk.theirs]
    split = [[part for line in side for part in imported(line)] for side in sides]
    # Neighbouring lines of one module, which somebody wrote on purpose, stay as they are.
    return split if [join_imports(side) for side in split] == sides else sides


def imported(line: bytes) -> list[bytes]:
    match = IMPORT.fullmatch(line)
    return [match[1] + name + match[3] for name in match[2].split(b", ")] if match else [line]


def join_imports(lines: list[bytes]) -> list[bytes]:
    """Join neighbouring lines that import from one module, with each name once."""
    joined: list[bytes] = []
    for line in lines:
        match, last = IMPORT.fullmatch(line), IMPORT.fullmatch(joined[-1] if joined else b"")
        if match and last and match.group(1, 3) == last.group(1, 3):
            names = dict.fromkeys([*last[2].split(b", "), *match[2].split(b", ")])
            joined[-1] = match[1] + b", ".join(names) + match[3]
        else:
            joined.append(line)
    return joined


Edit = tuple[int, int, list[bytes]]


def edits(base: list[bytes], side: list[bytes]) -> list[Edit]:
    """List what one side changed: the first line, the line after the last, and the new lines."""
    matcher = difflib.SequenceMatcher(None, base, side, autojunk=False)
    return [(i, j, side[a:b]) for tag, i, j, a, b in matcher.get_opcodes() if tag != "equal"]


def telling(base: list[bytes], edits: list[Edit]) -> set[bytes]:
    """Return the lines with a word that edits remove or insert."""
    changed = [line for start, end, lines in edits for line in [*base[start:end], *lines]]
    return set(filter(WORD.search, changed))


def meet(mine: Edit, other: Edit) -> bool:
    """Whether two edits change the same line, or one inserts between lines that the other changed."""
    (start, end, _), (first, last, _) = mine, other
    inside = first < start == end < last or start < first == last < end
    return inside or max(start, first) < min(end, last)


def common(hunk: Hunk) -> tuple[list[bytes], Hunk, list[bytes]]:
    """Split off the lines that both sides of a conflict begin with, and those they end with."""
    ours, theirs = hunk.ours, hunk.theirs
    start = len(os.path.commonprefix([ours, theirs]))
    end = len(os.path.commonprefix([ours[start:][::-1], theirs[start:][::-1]]))
    inner = Hunk(ours[start : len(ours) - end], hunk.base, theirs[start : len(theirs) - end])
    return ours[:start], inner, ours[len(ours) - end :]


def marked(piece: list[bytes] | Hunk) -> bytes:
    """Write a conflict with the usual markers."""
    if not isinstance(piece, Hunk):
        return b"".join(piece)
    head, hunk, tail = common(piece)
    first, middle, last = (sign * 7 for sign in (b"<", b"=", b">"))
    sides = [first, b" before updating\n", *hunk.ours, middle, b"\n", *hunk.theirs, last]
    return b"".join([*head, *sides, b" after updating\n", *tail])


def changes(before: Tree, after: Tree) -> list[str]:
    """List the paths that differ."""
    return sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )


# --- The two renders, in a process of their own that has Copier ----------------


def rendered(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Render the recorded and the new release below `folder`; return what is known of them."""
    asked = {"folder": str(folder), **vars(options)}
    command = [uv(), "run", "--quiet", "--with", COPIER, "--script", __file__, "--render"]
    done = subprocess.run(
        [*command, json.dumps(asked)], capture_output=True, text=True, check=False
    )
    try:
        told: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        fault = last_line(done.stderr)
        fail("Nothing was changed, since Copier can't be run (are you offline?):", f"  {fault}")
    if "refused" in told:
        fail(*told["refused"])
    return told


def render(asked: dict[str, Any]) -> dict[str, Any]:
    """Clone the template and render two of its releases; raise `RefusedError` if that fails."""
    import yaml

    folder, check = Path(asked["folder"]), asked["check"]
    before = recorded(Path(ANSWERS))
    template = Template(before["_src_path"], folder)
    if not template.has(before["_commit"]):
        raise RefusedError(
            f"The template no longer has {before['_commit']}, the release of this project, "
            "so nothing can be compared with it.",
            f"Bring that tag or commit back at {before['_src_path']}, then update.",
        )
    own_release = before["_commit"] if asked["feature"] else None
    reference = template.reference(asked["vcs_ref"] or own_release)
    template.render(folder / "new", reference, asked["data"], asked["prereleases"])
    after = recorded(folder / "new" / ANSWERS)
    if not template.has(after["_commit"]):
        raise RefusedError(
            f"The template at {before['_src_path']} has uncommitted changes: commit them."
        )
    template.refuse_older(before, after)
    refuse_unasked(asked["data"], before, after)
    told = {"before": before, "after": after, "news": template.news(before, after)}
    if check:
        return told
    template.render(folder / "old", before["_commit"], [], prereleases=False)
    commit = folder / "old" / ANSWERS
    # As the project has it: YAML quotes a commit that looks like a number.
    [line] = re.findall(r"(?m)^_commit: .*$", Path(ANSWERS).read_text(encoding="utf-8"))
    commit.write_text(
        re.sub(r"(?m)^_commit: .*$", lambda _: line, commit.read_text(encoding="utf-8")),
        encoding="utf-8",
    )
    told["moves"] = template.moves(before, after)
    settings = yaml.safe_load(template.file(after["_commit"], "copier.yml")) or {}
    told["owned"] = owned(settings.get("_skip_if_exists", []), folder)
    return told


class RefusedError(Exception):
    """An update that is not possible; the arguments are the lines to print."""


class Template:
    """A clone of the template's repository, from which Copier renders without a user's settings."""

    def __init__(self, source: str, folder: Path) -> None:
        self.source = source
        self.folder = folder / "template.git"
        url = location(source)
        clone = ["git", "-c", "core.hooksPath=/dev/null", "clone", "-q", "--bare", "--template="]
        done = run(
            [*clone, "--", url, str(self.folder)], check=False, env={**os.environ, "LC_ALL": "C"}
        )
        if done.returncode:
            said = os.fsdecode(done.stderr).splitlines()
            fatal = [line for line in said if line.startswith("fatal: ")] or said[-1:]
            raise RefusedError(
                f"The template can't be read from {source}; nothing was changed:", f"  {fatal[0]}"
            )
        home = folder / "copier"
        home.mkdir()
        settings = "[safe]\n\tdirectory = *\n[core]\n\tautocrlf = false\n"
        if not Path(url).exists():
            stem = quoted(str(self.folder.with_suffix("")))
            settings += f"[url {stem}]\n\tinsteadOf = {quoted(url.removesuffix('.git'))}\n"
        (home / ".gitconfig").write_text(settings, encoding="utf-8")
        neutral = neutral_environment(home)
        os.environ.clear()
        os.environ.update(neutral, COPIER_CACHE_DIR=str(home / "mirrors"))

    def git(self, *arguments: str) -> str:
        """Return what git prints, or nothing if it fails."""
        done = run(["git", f"--git-dir={self.folder}", *arguments], check=False)
        return "" if done.returncode else os.fsdecode(done.stdout)

    def has(self, reference: str) -> bool:
        return bool(self.git("rev-parse", "--quiet", "--verify", reference + "^{commit}"))

    def file(self, commit: str, name: str) -> str:
        return self.git("show", f"{commit}:{name}")

    def reference(self, asked: str | None) -> str | None:
        """Return what Copier renders. Without tags that is HEAD, which it can't ask a bare folder for."""
        if asked or any(re.match(r"v?\d", tag) for tag in self.git("tag", "--list").split()):
            return asked
        if not self.has("HEAD"):
            raise RefusedError(
                f"The template at {self.source} has no releases (tags), and its HEAD names no branch.",
                'Name a branch: make update ARGS="--vcs-ref main"',
            )
        return self.git("rev-parse", "HEAD").strip()

    def render(
        self, folder: Path, reference: str | None, data: list[str], prereleases: bool
    ) -> None:
        import copier

        folder.mkdir()
        shutil.copy(ANSWERS, folder)
        chosen = dict(entry.split("=", 1) for entry in data)
        try:
            copier.run_recopy(
                folder,
                data=chosen,
                vcs_ref=reference,
                use_prereleases=prereleases,
                defaults=True,
                overwrite=True,
                quiet=True,
            )
        except Exception as error:
            raise RefusedError(
                "Copier can't render the template; nothing was changed:",
                f"  {last_line(str(error))}",
            ) from error

    def refuse_older(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        old, new = str(before["template_release"]), str(after["template_release"])
        if version(new) < version(old):
            raise RefusedError(
                f"This project has template release {old}, and that would be {new}: "
                "an update never goes back. Nothing was changed."
            )

    def news(self, before: dict[str, Any], after: dict[str, Any]) -> str:
        """Return what the changelog says of the releases after the project's."""
        changelog = self.file(after["_commit"], "CHANGELOG.md")
        newer = changelog.partition(f"\n## {before['template_release']}\n")[0]
        _, heading, news = newer.partition("\n## ")
        return (
            (heading + news).strip()
            if version(after["template_release"]) > version(before["template_release"])
            else ""
        )

    def moves(self, before: dict[str, Any], after: dict[str, Any]) -> list[list[str]]:
        """List paths that releases after the project's have moved: old, new."""
        package = str(before.get("package_name", ""))
        listed = [
            line.split() for line in self.file(after["_commit"], "includes/moves.txt").splitlines()
        ]
        return [
            [path.replace("<package>", package) for path in line[1:]]
            for line in listed
            if len(line) == 3
            and line[0][0].isdigit()
            and version(line[0]) > version(before["template_release"])
        ]


def owned(patterns: list[str], folder: Path) -> list[list[list[str]]]:
    """List, for each pattern of files that are the owner's once made, its paths in both renders."""
    from pathspec import GitIgnoreSpec

    trees = [
        [path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()]
        for root in (folder / "old", folder / "new")
    ]
    specs = [GitIgnoreSpec.from_lines([pattern]) for pattern in patterns]
    return [[[name for name in tree if spec.match_file(name)] for tree in trees] for spec in specs]


def recorded(path: Path) -> dict[str, Any]:
    """Read an answers file; refuse one that does not name its template, or that was edited by hand."""
    import yaml

    try:
        answers: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        source = answers["_src_path"] = str(answers["_src_path"])
        answers["_commit"] = str(answers["_commit"])
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
        raise RefusedError(
            f"{ANSWERS} has no _src_path and _commit: restore it with git, and never edit it by hand."
        ) from None
    answers["template_release"] = str(answers.get("template_release", "1.0.0"))
    if ":" not in source and not Path(source).expanduser().is_absolute():
        raise RefusedError(
            f"The template's location is a relative path: {source}",
            f"Write its absolute path or its URL after _src_path in {ANSWERS}, and commit.",
        )
    if ":" not in source and not Path(source).expanduser().exists():
        raise RefusedError(
            f"The template is no longer at {source}",
            f"Write its new path or its URL after _src_path in {ANSWERS}, and commit.",
        )
    if answers.get("answers_checksum", "") not in ("", checksum(answers)):
        raise RefusedError(
            f"Answers in {ANSWERS} were edited by hand, so they don't match the project's files.",
            f'Restore them (git log -p {ANSWERS}), commit, then: make update ARGS="--data NAME=VALUE"',
        )
    return answers


def checksum(answers: dict[str, Any]) -> str:
    """Return the checksum of the answers, which shows whether somebody edited them by hand."""
    listed = "".join(
        f"{name}={answers[name]}\n"
        for name in sorted(answers)
        if name[0] != "_" and name not in NO_ANSWERS
    )
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def refuse_unasked(data: list[str], before: dict[str, Any], after: dict[str, Any]) -> None:
    for entry in data:
        name, _, answer = entry.partition("=")
        if name == "package_name" and answer != before.get(name):
            raise RefusedError(
                "package_name can't change: it is in the paths and imports of your files."
            )
        if name not in {**before, **after} or name in NO_ANSWERS or name.startswith("_"):
            raise RefusedError(
                f"There is no question {name}, or it is not asked with these answers."
            )


def location(source: str) -> str:
    """Turn an address as Copier takes it into one that git takes."""
    for alias, host in (("gh:", "https://github.com/"), ("gl:", "https://gitlab.com/")):
        if source.startswith(alias):
            source = host + source.removeprefix(alias).lstrip("/")
    source = source.removeprefix("git+")
    return str(Path(source).expanduser()) if source.startswith("~") else source


# --- Small things ------------------------------------------------------------


def neutral_environment(home: Path) -> dict[str, str]:
    """Return an environment in which git has no settings but those of `home`, and an identity."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    who = {
        f"GIT_{role}_{part}": "update"
        for role in ("AUTHOR", "COMMITTER")
        for part in ("NAME", "EMAIL")
    }
    where = {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "LC_ALL": "C",
    }
    return {**environment, **who, **where}


def run(command: list[str], **options: Any) -> Any:
    return subprocess.run(command, capture_output=True, **{"check": True, **options})


def split(output: bytes) -> list[str]:
    return [os.fsdecode(part) for part in output.split(b"\0") if part]


def join(entries: list[str]) -> bytes:
    return b"".join(os.fsencode(entry) + b"\0" for entry in entries)


def parse_tree(entries: list[str]) -> Tree:
    """Read `git ls-tree -rz`."""
    found = {}
    for entry in entries:
        about, _, name = entry.partition("\t")
        mode, _, oid = about.split()
        found[name] = (mode, oid)
    return found


def parse_stages(entries: list[str]) -> dict[int, Tree]:
    """Read `git ls-files --stage -z`: a tree for each stage."""
    found: dict[int, Tree] = defaultdict(dict)
    for entry in entries:
        about, _, name = entry.partition("\t")
        mode, oid, stage = about.split()
        found[int(stage)][name] = (mode, oid)
    return found


def quoted(text: str) -> str:
    """Quote a value as git's own files do."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def version(release: object) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", str(release)))


def uv() -> str:
    return os.environ.get("UV") or shutil.which("uv") or ".uv/bin/uv"


def last_line(text: str) -> str:
    """Return what a program said last, without what Copier and Python put before it."""
    lines = [line.strip(" |") for line in text.splitlines() if line.strip(" |")]
    return re.sub(r"^(Stderr: +\| |ValueError: )", "", lines[-1]) if lines else ""


def fail(*lines: str) -> NoReturn:
    """Exit with status 1 after printing these lines."""
    sys.stdout.flush()
    sys.exit("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
