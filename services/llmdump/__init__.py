"""What all llmdump services share: records, segment files, the wire protocol, settings, metrics, life cycle."""
