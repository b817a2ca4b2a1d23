#!/usr/bin/env bash
# Installs everything that the tests need, then checks style and types and runs the tests.
# Arguments go to pytest.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# What Qt and OpenGL need where there is no desktop.
system_packages=(
    xvfb xauth libgl1 libegl1 libgl1-mesa-dri libdbus-1-3 libfontconfig1 libglib2.0-0 libxkbcommon-x11-0
    libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0
    libxcb-shape0 libxcb-xinerama0
)
install_system_packages "${system_packages[@]}" || say "Going on without them: a desktop may have what matters"
install_package "all,cluster,share,test,dev"

export PATH="$venv/bin:$PATH" QT_API=pyqt6
say "ruff"
ruff check .
ruff format --check .
say "mypy"
mypy
say "pytest"
tests=(python -m pytest "$@")
if [ "$#" -eq 0 ] && [ "$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)" -gt 1 ]; then
    tests=(bash scripts/test_side_by_side.sh)
fi
if [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] || [ "$(uname)" != Linux ]; then
    exec "${tests[@]}"
fi
command -v xvfb-run >/dev/null || fail "There is no display, and no Xvfb to stand in for one; see above."
exec xvfb-run -a -s "-screen 0 1600x1200x24" "${tests[@]}"
