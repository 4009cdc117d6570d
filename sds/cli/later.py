"""Verbs of the plan that this release does not have."""

from argparse import Namespace

from sds.core.errors import BadInput


def refuse(arguments: Namespace) -> None:
    raise BadInput(f"this comes with a later release ({arguments.what})")
