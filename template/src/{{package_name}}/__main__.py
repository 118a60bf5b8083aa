"""Runs the service: `python -m` with this package's name, `--reload` for development."""

import signal
import sys


def main() -> None:
    """Check the settings, then serve until SIGTERM or SIGINT; exit status 0 after either."""
    # Before the slow imports: process 1 of a container ignores a signal that has no handler,
    # and uvicorn raises SIGTERM again after its own shutdown, to whatever was set before it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    from . import logs, settings

    config = settings.load()
    logs.configure(config.log_level, config.log_format)

    import structlog
    import uvicorn

    from . import server

    structlog.get_logger().info("starting", app_env=config.app_env, log_level=config.log_level)
    uvicorn.run(
        f"{__package__}.app:create_app",
        factory=True,
        host=config.host,
        port=config.port,
        http=server.Protocol,
        reload="--reload" in sys.argv[1:],
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=config.forwarded_allow_ips,
        timeout_graceful_shutdown=config.shutdown_grace_seconds,
    )


if __name__ == "__main__":
    main()
