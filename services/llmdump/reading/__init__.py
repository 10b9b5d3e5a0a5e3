"""From recorded bytes to what an exchange said: framing, dialects, figures. Pure: no I/O, and never an exception for what strangers wrote."""
