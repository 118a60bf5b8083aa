"""Makes sure that a base image is there: the real one, else a stand-in under its name."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

LABEL = "copier-fastapi.stand-in"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "copier-fastapi"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
SUITES = {"3.15": "forky", "3.14": "forky", "3.13": "trixie"}
# Of a Python that is not its suite's default one: python3 and python3-venv are that.
PYTHONS = {"3.15": "python3.15-minimal,libpython3.15-stdlib,python3.15-venv"}
# Servers from trixie's packages; each user has the number that it has in the official image.
SERVERS = {
    "postgres:17": {
        "packages": "postgresql-17",
        "user": "postgres",
        "home": "/var/lib/postgresql",
        "dockerfile": """
            RUN install -d -o postgres -g postgres -m 1777 /var/lib/postgresql/data
            RUN install -d -o postgres -g postgres -m 3777 /var/run/postgresql
            ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/17/bin
            ENV LANG=C.UTF-8 PG_MAJOR=17 PGDATA=/var/lib/postgresql/data
            VOLUME /var/lib/postgresql/data
            ENTRYPOINT ["docker-entrypoint.sh"]
            STOPSIGNAL SIGINT
            EXPOSE 5432
            CMD ["postgres"]
        """,
    },
    "redis:8": {
        "packages": "redis-server",
        "user": "redis",
        "home": "/data",
        "dockerfile": """
            RUN install -d -o redis -g redis /data
            ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
            VOLUME /data
            WORKDIR /data
            ENTRYPOINT ["docker-entrypoint.sh"]
            EXPOSE 6379
            CMD ["redis-server"]
        """,
    },
    # Without an entry point: compose names one.
    "prom/prometheus:v3.13.2": {
        "packages": "prometheus",
        "user": "prometheus",
        "home": "/prometheus",
        "dockerfile": """
            ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
            EXPOSE 9090
        """,
    },
}
# Programs in this folder, which do what the tests ask of the real ones, and the users of these.
PROGRAMS = {"grafana/grafana": ("grafana.py", "472"), "grafana/tempo": ("tempo.py", "10001")}


class UnavailableError(Exception):
    """Neither the image nor a stand-in for it can be had; says why."""


def ensure(image: str) -> None:
    """Have `image` in the engine, pulled if a registry answers, else made here."""
    CACHE.mkdir(parents=True, exist_ok=True)
    # Several test processes may want the same one.
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _ensure(image)


def _ensure(image: str) -> None:
    known = _docker("image", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', image)
    if known.returncode == 0 and known.stdout.strip() != "true":
        return
    if _docker("pull", "--quiet", image).returncode == 0:
        return
    program = PROGRAMS.get(image.partition(":")[0])
    if known.returncode == 0 and not program:
        return
    if match := re.fullmatch(r"python:(3\.\d+)-slim", image):
        _python(image, match[1])
    elif image in SERVERS:
        _server(image, **SERVERS[image])
    elif program:
        _program(image, *program)
    elif image.startswith("ghcr.io/astral-sh/uv:"):
        _uv(image)
    else:
        raise UnavailableError(f"no registry has {image}, and there is no stand-in for it")


def _python(image: str, version: str) -> None:
    if version not in SUITES:
        raise UnavailableError(f"no registry has {image}, and no Debian suite has its Python")
    # The real image has no bytecode either, and what it costs to start is measured.
    hooks = [
        f'for name in python python3 python{version}; do ln -s /usr/bin/python{version} "$1/usr/local/bin/$name"; done',
        'find "$1/usr" -name __pycache__ -prune -exec rm -rf {} +',
        f'cp {CERTIFICATES} "$1{CERTIFICATES}"',
    ]
    packages = f"ca-certificates,{PYTHONS.get(version, 'python3,python3-venv')},netbase,tzdata"
    rootfs = _rootfs(f"python-{version}", SUITES[version], packages, [f"--customize-hook={hook}" for hook in hooks])
    settings = [
        f"LABEL {LABEL}=true",
        "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ENV LANG=C.UTF-8",
        f"ENV SSL_CERT_FILE={CERTIFICATES} PIP_CERT={CERTIFICATES}",
        'CMD ["python3"]',
    ]
    changes = [part for setting in settings for part in ("--change", setting)]
    _check(_docker("import", *changes, str(rootfs), image), f"import of {rootfs}")


def _server(image: str, packages: str, user: str, home: str, dockerfile: str) -> None:
    name = re.sub("[/:]", "-", image)
    account = f'echo "{user}:x:999:" >>"$1/etc/group" && echo "{user}:x:999:999::{home}:/bin/sh" >>"$1/etc/passwd"'
    # Debian's package would make a cluster of its own.
    folder = '"$1/etc/postgresql-common'
    no_cluster = f'mkdir -p {folder}" && echo "create_main_cluster = false" >{folder}/createcluster.conf"'
    hooks = [f"--essential-hook={hook}" for hook in (account, no_cluster)]
    rootfs = _rootfs(name, "trixie", packages, hooks)
    scripts = Path(__file__).parent
    lines = [f"FROM scratch\nADD {rootfs.name} /", f"LABEL {LABEL}=true", dockerfile]
    script = f"{image.partition(':')[0]}.sh"
    if (scripts / script).exists():
        lines.insert(1, f"COPY --from=entrypoint {script} /usr/local/bin/docker-entrypoint.sh")
    built = subprocess.run(
        ["docker", "build", "--quiet", "--tag", image, "--file=-", f"--build-context=entrypoint={scripts}", str(CACHE)],
        input="\n".join(lines),
        capture_output=True,
        text=True,
    )
    _check(built, f"build of {image}")


def _program(image: str, script: str, user: str) -> None:
    """Build it each time, mostly from the build cache: the program may have changed."""
    pythons = [f"python:{version}-slim" for version in SUITES]
    base = next((name for name in pythons if _docker("image", "inspect", name).returncode == 0), pythons[-1])
    _ensure(base)
    dockerfile = f"""
        FROM {base}
        LABEL {LABEL}=true
        ENV PYTHONPATH=/libraries
        COPY --from=yaml . /libraries/yaml
        COPY --from=programs {script} /
        USER {user}
        ENTRYPOINT ["python3", "/{script}"]
    """
    contexts = [
        f"--build-context=yaml={Path(yaml.__file__).parent}",
        f"--build-context=programs={Path(__file__).parent}",
    ]
    built = subprocess.run(
        ["docker", "build", "--quiet", "--tag", image, *contexts, "-"],
        input=dockerfile,
        capture_output=True,
        text=True,
    )
    _check(built, f"build of {image}")


def _rootfs(name: str, suite: str, packages: str, options: Sequence[str]) -> Path:
    """Return the root file system of that name from the cache, made first where there is none."""
    rootfs = CACHE / f"{name}.tar"
    if rootfs.exists():
        return rootfs
    if not shutil.which("mmdebstrap"):
        raise UnavailableError("a stand-in needs mmdebstrap: apt-get install mmdebstrap")
    partial = rootfs.with_suffix(".partial.tar")
    skipped = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/var/cache/*"]
    made = subprocess.run(
        [
            "mmdebstrap",
            "--variant=minbase",
            f"--include={packages}",
            '--aptopt=Acquire::Check-Valid-Until "false"',
            *(f"--dpkgopt=path-exclude={path}" for path in skipped),
            *options,
            suite,
            str(partial),
            _mirror(),
        ],
        capture_output=True,
        text=True,
    )
    _check(made, f"mmdebstrap {suite}")
    partial.rename(rootfs)
    return rootfs


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
