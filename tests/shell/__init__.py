"""Tests of the shell of the project: commands, make, images, pages."""
