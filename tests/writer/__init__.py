"""Tests of the writer process and the files it makes."""
