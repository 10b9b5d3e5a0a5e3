"""Exchanges carried elsewhere: what is selected, read one at a time, and written in the form that another tool reads."""
