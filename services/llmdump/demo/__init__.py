"""A simulated LLM backend, and clients that show a capture to somebody who has no key."""
