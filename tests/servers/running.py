"""The servers themselves are in tools: benchmarks start them, too."""

from tools.s3_running import (
    ACCESS_KEY,
    SECRET_KEY,
    S3Server,
    alive,
    answers,
    end_by_pid,
    free_port,
    process,
    wait_until,
    write_credentials,
)

__all__ = [
    "ACCESS_KEY", "SECRET_KEY", "S3Server", "alive", "answers", "end_by_pid", "free_port", "process", "wait_until",
    "write_credentials",
]  # fmt: skip
