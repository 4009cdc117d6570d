"""See tools/moto.py."""

from tools.moto import moto_server

__all__ = ["moto_server"]
