#!/usr/bin/env bash
# All tests in half the time: those of the window, which wait for other processes and for Qt, beside all the others.
# The output of the others is shown when both have ended. To be called by test.sh.
set -uo pipefail

others="$(mktemp)"
python -m pytest --ignore=tests/widgets >"$others" 2>&1 &
pid=$!
trap 'kill "$pid" 2>/dev/null; rm -f "$others"' EXIT

status=0
printf '==> The tests of the window; the others run meanwhile\n' >&2
python -m pytest tests/widgets || status=$?
printf '==> The other tests\n' >&2
wait "$pid" || status=$?
cat "$others"
exit "$status"
