"""`sds unmount`: by directory, or by the name of the dataset."""

from argparse import Namespace

from sds.cli.session import home_of
from sds.core.errors import BadInput, Missing
from sds.core.names import parse_target
from sds.daemon.mountinfo import mount_at, resolved
from sds.daemon.unmounting import unmount_dataset, unmount_directory


def start(arguments: Namespace) -> None:
    """A directory with something mounted on it is meant before a dataset of the same name."""
    home, directory = home_of(arguments), resolved(arguments.target)
    if mount_at(directory) is not None or arguments.target.startswith(("/", ".")):
        unmount_directory(home, directory)
        return
    try:
        target = parse_target(arguments.target)
    except BadInput as error:
        raise Missing(f"nothing is mounted on {directory}: `sds list` shows what is in use") from error
    unmount_dataset(home, target)
