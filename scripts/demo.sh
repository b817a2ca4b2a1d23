#!/usr/bin/env bash
# Installs napari-celltrain into .venv and trains a network on generated nuclei.
# Arguments go to `celltrain demo`; `--real` trains on a real stack instead.
set -euo pipefail
here="$PWD"
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

extras="all"
for argument in "$@"; do
    [ "$argument" != "--real" ] || extras="all,real"
done
install_package "$extras"

cd "$here"
"$venv/bin/celltrain" demo "$@"
say "To have the command celltrain in this shell: source $venv/bin/activate"
