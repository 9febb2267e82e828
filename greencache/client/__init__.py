"""What an engine's process imports to use the host's store: messages, framing, clients.

Nothing here imports more than numpy, msgspec and the standard library.
"""

from greencache.client.asynchronous import AsyncClient
from greencache.client.blocking import Client
from greencache.client.messages import Hbm, Seen
from greencache.client.transactions import Lease, Reservation

__all__ = ["AsyncClient", "Client", "Hbm", "Lease", "Reservation", "Seen"]
