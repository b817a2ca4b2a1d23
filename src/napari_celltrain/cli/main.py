"""The entry point: sets up the process, runs the command, and turns exceptions into messages and exit codes."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command of ``sys.argv`` and leave with its exit code (see ``exit_codes``)."""
    try:
        _main()
    except KeyboardInterrupt:
        sys.exit(130)  # ExitCode.INTERRUPTED, which may not have been imported yet


def _main() -> None:
    # Only counts before torch is loaded: libgomp's threads would spin while they wait, and starve each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from napari_celltrain.cli.app import app
    from napari_celltrain.cli.crash import UnexpectedError, write_report
    from napari_celltrain.cli.exit_codes import ExitCode, exit_code_of
    from napari_celltrain.cli.terminal import tell_error
    from napari_celltrain.errors import CellTrainError

    try:
        app(prog_name="celltrain")
    except CellTrainError as error:
        tell_error(str(error))
        sys.exit(exit_code_of(error))
    except UnexpectedError as crash:
        tell_error(str(crash))
        sys.exit(ExitCode.OUR_MISTAKE)
    except Exception as error:
        tell_error(str(UnexpectedError(error, write_report(error, None))))
        sys.exit(ExitCode.OUR_MISTAKE)
