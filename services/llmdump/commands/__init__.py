"""The commands of `llmdump`, a module each; see `llmdump.cli`."""
