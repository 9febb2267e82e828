"""What an engine's process imports to use the host's store: messages, framing, clients.

Nothing here imports more than numpy, msgspec and the standard library.
"""
