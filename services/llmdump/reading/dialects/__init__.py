"""One module for each family of APIs: where it keeps what, and how its events add up."""
