"""The development issuer: serves its keys to this machine, and signs a token to try."""

import subprocess
from threading import Thread

from .. import issuer
from . import servers
from .servers import FOLDER, Provided


def provide() -> Provided:
    if any(servers.given(name) for name in issuer.SETTINGS) or servers.in_production():
        return Provided(header="Authorization: Bearer TOKEN", hint="TOKEN: one of your issuer")
    with servers.starting():
        # `make up` has the same issuer.
        subprocess.run(["sh", "ops/compose.sh", "issuer"], check=True, cwd=FOLDER.parent)
    server = issuer.key_server("127.0.0.1", 0)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/jwks.json"
    variables = dict(zip(issuer.SETTINGS, (issuer.ISSUER, issuer.AUDIENCE, url), strict=True))
    return Provided(
        variables,
        header=f"Authorization: Bearer {issuer.token()}",
        hint="""make token SUBJECT=ada SCOPES="orders:write" prints another token""",
    )
