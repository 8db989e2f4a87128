"""Real devices: a node's processes, a warm start for each message, keys, and a whole federation on one machine."""
