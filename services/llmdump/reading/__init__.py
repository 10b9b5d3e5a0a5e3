"""From recorded bytes to what an exchange said: framing, dialects, figures. Pure, and what strangers wrote never raises."""
