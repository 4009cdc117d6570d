"""What a worker may use, as its verb was told."""

from argparse import Namespace

from sds.core.errors import BadInput
from sds.dataset.dataset import Settings

STAGE_SLOTS_MAX = 64


def settings_of(arguments: Namespace) -> Settings:
    if not 2 <= arguments.stage_slots <= STAGE_SLOTS_MAX:
        raise BadInput(f"--stage-slots {arguments.stage_slots}: use 2 to {STAGE_SLOTS_MAX}")
    return Settings(stage_slots=arguments.stage_slots)
