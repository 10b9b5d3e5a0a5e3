"""The forwarding process: bytes pass untouched, and a numbered record of each goes to the writer."""
