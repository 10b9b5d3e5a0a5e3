"""The writer: takes record batches, makes them durable in segment files, and only then acknowledges them."""
