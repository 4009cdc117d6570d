"""The simulator: disks and schedules that replay from a seed."""
