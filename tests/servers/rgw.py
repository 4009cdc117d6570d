"""See tools/rgw.py."""

from tools.rgw import CONFIG, PROGRAMS, Rgw, missing, rgw_server

__all__ = ["CONFIG", "PROGRAMS", "Rgw", "missing", "rgw_server"]
