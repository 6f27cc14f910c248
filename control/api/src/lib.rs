//! What the agent answers on its local socket, and the blocking client for it.
