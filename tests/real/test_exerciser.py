"""Volumes under the random exerciser and the fuzzer, while everything else goes on beside them."""

import os
import random
from pathlib import Path

import pytest

from sds.nbd import wire
from tests.nbd.client import EXTENDED, Client
from tests.nbd.exerciser import BLOCK, exercise, read_all
from tests.nbd.fuzz import fuzz
from tests.real.places import no_stage_left
from tools.sds import Sds
from tools.servers import SdsServer

pytestmark = pytest.mark.real("true")
SIZE_BYTES = 24 << 20
GROWTH_BYTES_MAX = 120 << 20
