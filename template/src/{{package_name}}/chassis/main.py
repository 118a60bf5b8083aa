"""Runs the service, or one of its commands, from the command line."""

import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Generic, TypeVar

import structlog
import uvicorn

from . import buffers, logs, server, sockets
from .settings import PACKAGE, EnvironmentSettings, Settings, load

S = TypeVar("S", bound=Settings)
C = TypeVar("C", bound=EnvironmentSettings, contravariant=True)


@dataclass(frozen=True)
class Command(Generic[C]):
    """`python -m` with the package's name and `name` calls `run` with the settings.

    A command with arguments adds them to its parser in `arguments`; `call` also gets their values.
    """

    name: str
    help: str
    run: Callable[[C], None] = lambda _: None
    call: Callable[[C, Namespace], None] | None = None
    arguments: Callable[[ArgumentParser], object] | None = None


def main(settings: type[S], app: str, commands: Sequence[Command[S]] = ()) -> None:
    """Check the settings, then run a command, or serve until SIGTERM or SIGINT.

    `app` names the function that builds the application, such as `desk.app:create_app`.
    The exit status is 0 after either signal, 2 for a wrong argument, 1 for a bad setting.
    """
    parser = ArgumentParser(
        prog=f"python -m {PACKAGE}", description="Without a command, it serves until SIGTERM."
    )
    parser.add_argument("--reload", action="store_true", help="restart on edits")
    parser.set_defaults(command=None)
    if commands:
        choices = parser.add_subparsers(title="commands", dest="command", metavar="command")
    for command in commands:
        added = choices.add_parser(command.name, help=command.help, description=command.help)
        if command.arguments:
            command.arguments(added)
    arguments = parser.parse_args()

    config = load(settings)
    for command in commands:
        if command.name == arguments.command:
            logs.configure(config.log_level, config.log_format)
            command.run(config)
            if command.call:
                command.call(config, arguments)
            return
    serve(config, app, reload=arguments.reload)


def serve(settings: Settings, app: str, *, reload: bool) -> None:
    """Serve the application that the function `app` builds, until SIGTERM or SIGINT."""
    # After its own shutdown, uvicorn raises SIGTERM again, for the handler that was set before.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if reload:
        logs.configure(settings.log_level, settings.log_format)
    else:
        module, _, function = app.partition(":")
        application = getattr(import_module(module), function)(settings)
    structlog.get_logger().info("starting", app_env=settings.app_env, log_level=settings.log_level)
    shared = buffers.Buffers(settings.max_buffered_bytes)
    uvicorn.run(
        app if reload else application,
        factory=reload,
        host=settings.host,
        port=settings.port,
        http=server.protocol(settings, shared),
        ws=sockets.protocol(settings, shared),
        ws_max_size=settings.max_body_bytes,
        # A kilobyte of compressed messages can be a megabyte in memory.
        ws_per_message_deflate=False,
        reload=reload,
        # Not the whole project: uvicorn would search .venv all the time.
        reload_dirs=[str(Path(__file__).parents[1])] if reload else None,
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_graceful_shutdown=settings.shutdown_grace_seconds,
    )
