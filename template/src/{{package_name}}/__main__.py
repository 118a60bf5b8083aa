"""Runs the service: `python -m` with this package's name, `--reload` for development.

A word after it runs a command instead: the function `command` of the module of that name.
"""

import signal
import sys
from importlib import import_module


def main() -> None:
    """Check the settings, then serve until SIGTERM or SIGINT; exit status 0 after either."""
    word = next((word for word in sys.argv[1:] if word != "--reload"), "")
    # Before the slow imports: process 1 of a container ignores a signal that has no handler,
    # and uvicorn raises SIGTERM again after its own shutdown, to whatever was set before it.
    # A command that was stopped did not do its work.
    status = 128 + signal.SIGTERM if word else 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(status))

    from . import logs, settings

    config = settings.load()
    logs.configure(config.log_level, config.log_format)
    if word:
        run(word, config)
        return

    import structlog
    import uvicorn

    from . import buffers, server, sockets

    shared = buffers.Buffers(config.max_buffered_bytes)
    structlog.get_logger().info("starting", app_env=config.app_env, log_level=config.log_level)
    uvicorn.run(
        f"{__package__}.app:create_app",
        factory=True,
        host=config.host,
        port=config.port,
        http=server.protocol(config, shared),
        ws=sockets.protocol(config, shared),
        ws_max_size=config.max_body_bytes,
        # A kilobyte of compressed messages can be a megabyte in memory.
        ws_per_message_deflate=False,
        reload="--reload" in sys.argv[1:],
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=config.forwarded_allow_ips,
        timeout_graceful_shutdown=config.shutdown_grace_seconds,
    )


def run(word: str, config: object) -> None:
    """Run the command that is called `word`; it gets the settings."""
    try:
        command = import_module(f".{word}", __package__).command
    except (ImportError, AttributeError) as error:
        sys.exit(f"{word} is no command: {error}")
    command(config)


if __name__ == "__main__":
    main()
