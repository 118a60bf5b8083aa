"""A limit on what all connections together hold in memory for slow clients."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

Connection = HttpToolsProtocol | WebSocketsSansIOProtocol


class Buffers:
    """Counts unread responses and unfinished messages: at most `most` bytes together.

    Beyond that, connections are cut, beginning with the one without progress for longest.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.total = 0
        # In the order in which they last made progress.
        self.held: dict[Connection, int] = {}

    def hold(self, connection: Connection, size: int) -> None:
        """Count `size` bytes for a connection, in place of what it held before."""
        self.total += size - self.held.get(connection, 0)
        self.held[connection] = size
        # A single connection may hold more.
        while self.total > self.most and len(self.held) > 1:
            slowest = next(iter(self.held))
            self.release(slowest)
            slowest.transport.abort()

    def release(self, connection: Connection) -> None:
        """Count no bytes for a connection: it made progress, or ended."""
        self.total -= self.held.pop(connection, 0)
