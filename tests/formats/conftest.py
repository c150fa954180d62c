"""Volumes of each format are profiled like any data."""

from tests.data.conftest import run as run
