"""Makes sure that a base image is there: the real one, else a stand-in under its name."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

LABEL = "copier-fastapi.stand-in"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "copier-fastapi"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
SUITES = {"3.14": "forky", "3.13": "trixie"}


class UnavailableError(Exception):
    """Neither the image nor a stand-in for it can be had; says why."""


def ensure(image: str) -> None:
    """Have `image` in the engine, pulled if a registry answers, else made here."""
    known = _docker("image", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', image)
    if known.returncode == 0 and known.stdout.strip() != "true":
        return
    if _docker("pull", "--quiet", image).returncode == 0 or known.returncode == 0:
        return
    if match := re.fullmatch(r"python:(3\.\d+)-slim", image):
        _python(image, match[1])
    elif image.startswith("ghcr.io/astral-sh/uv:"):
        _uv(image)
    else:
        raise UnavailableError(f"no registry has {image}, and there is no stand-in for it")


def _python(image: str, version: str) -> None:
    if version not in SUITES:
        raise UnavailableError(f"no registry has {image}, and no Debian suite has its Python")
    rootfs = CACHE / f"python-{version}.tar"
    if not rootfs.exists():
        _debootstrap(SUITES[version], version, rootfs)
    settings = [
        f"LABEL {LABEL}=true",
        "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ENV LANG=C.UTF-8",
        f"ENV SSL_CERT_FILE={CERTIFICATES} PIP_CERT={CERTIFICATES}",
        'CMD ["python3"]',
    ]
    changes = [part for setting in settings for part in ("--change", setting)]
    _check(_docker("import", *changes, str(rootfs), image), f"import of {rootfs}")


def _debootstrap(suite: str, version: str, rootfs: Path) -> None:
    if not shutil.which("mmdebstrap"):
        raise UnavailableError("a stand-in needs mmdebstrap: apt-get install mmdebstrap")
    CACHE.mkdir(parents=True, exist_ok=True)
    partial = rootfs.with_suffix(".partial.tar")
    # The real image has no bytecode either, and what it costs to start is measured.
    hooks = [
        f'for name in python python3 python{version}; do ln -s /usr/bin/python{version} "$1/usr/local/bin/$name"; done',
        'find "$1/usr" -name __pycache__ -prune -exec rm -rf {} +',
        f'cp {CERTIFICATES} "$1{CERTIFICATES}"',
    ]
    skipped = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/var/cache/*"]
    made = subprocess.run(
        [
            "mmdebstrap",
            "--variant=minbase",
            "--include=ca-certificates,python3,python3-venv,netbase,tzdata",
            '--aptopt=Acquire::Check-Valid-Until "false"',
            *(f"--dpkgopt=path-exclude={path}" for path in skipped),
            *(f"--customize-hook={hook}" for hook in hooks),
            suite,
            str(partial),
            _mirror(),
        ],
        capture_output=True,
        text=True,
    )
    _check(made, f"mmdebstrap {suite}")
    partial.rename(rootfs)


def _mirror() -> str:
    """Return the address this machine itself takes Debian's packages from."""
    apt = Path("/etc/apt")
    for source in [
        *apt.glob("sources.list.d/*.sources"),
        *apt.glob("sources.list.d/*.list"),
        *apt.glob("sources.list"),
    ]:
        found = re.search(r"^(?:URIs:|deb (?:.*\] )?) *(http\S+/debian)/?\s", source.read_text(), re.MULTILINE)
        if found:
            return found[1]
    raise UnavailableError("no Debian mirror in /etc/apt/sources.list.d")


def _uv(image: str) -> None:
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if uv is None:
        raise UnavailableError("a stand-in for the uv image needs uv")
    dockerfile = f"FROM scratch\nCOPY uv /uv\nLABEL {LABEL}=true\n"
    built = subprocess.run(
        ["docker", "build", "--quiet", "--tag", image, "--file", "-", str(Path(uv).resolve().parent)],
        input=dockerfile,
        capture_output=True,
        text=True,
    )
    _check(built, f"build of {image}")


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True)


def _check(done: subprocess.CompletedProcess[str], what: str) -> None:
    if done.returncode != 0:
        raise UnavailableError(f"{what} failed: {done.stderr.strip()[-2000:]}")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        ensure(name)
