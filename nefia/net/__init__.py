"""The transport between nodes (SPEC 7): frames over trio streams, one-way lanes, requests.

Every node dials every peer for what it has to say, on a few connections called lanes, so that
large batches of entries never stand in the way of a heartbeat; whoever accepts a connection only
listens on it. Read in this order: `frames` and `handshake` (pure), `channel` (one connection),
`presence` (pure: when is a peer lost?), `dialling` (reaching a node once), `link` (our lanes to one
peer), `acceptor` (what others dial), and `mesh`, which holds them together. A node sees `mesh`, and
implements `interface.MeshEvents`.

TLS is behind `network.Network`: whatever streams it returns are used alike.
"""
