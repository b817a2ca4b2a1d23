# Shared by the scripts beside it: finds a Python, keeps the virtual environment, installs system packages.
# shellcheck shell=bash

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"
marker="$venv/.made-by-celltrain" # only a virtual environment of our own is ever thrown away
cd "$root" || exit

# The virtual environment stands alone, whatever the caller's settings.
unset PYTHONPATH PYTHONHOME
export PIP_USER=0

say() { printf '==> %s\n' "$*" >&2; }
fail() {
    printf 'Error: %s\n' "$*" >&2
    exit 1
}

is_root() { [ "$(id -u)" -eq 0 ]; }
have_apt() { command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; }

# Newer releases append "t64" to the names of some packages.
is_installed() {
    local states
    states="$(dpkg-query -W -f '${db:Status-Status}\n' "$1" "$1t64" 2>/dev/null || true)"
    [[ $'\n'"$states"$'\n' == *$'\ninstalled\n'* ]]
}

# Install those of the given Debian packages that are missing; without root, print the line that does it and return 1.
install_system_packages() {
    have_apt || return 0
    local package missing=()
    for package in "$@"; do
        is_installed "$package" || missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    if ! is_root; then
        printf 'Some system packages are missing. Install them with:\n\n    sudo apt-get install %s\n\n' "${missing[*]}" >&2
        return 1
    fi
    say "Installing system packages: ${missing[*]}"
    local apt=(apt-get -qq -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0)
    DEBIAN_FRONTEND=noninteractive "${apt[@]}" update >&2
    DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >&2
}

is_supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; }
can_make_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# Prints the interpreter to use: `python3` where it is new enough, else the newest that is.
find_python() {
    local name found=()
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if is_supported "$name"; then
            can_make_venv "$name" && { echo "$name"; return; }
            found+=("$name")
        fi
    done
    [ "${#found[@]}" -gt 0 ] || fail "Python 3.11 to 3.14 is needed and was not found (python3 is: $(python3 --version 2>&1 || true))."
    # Debian and Ubuntu ship a Python that cannot make virtual environments until this package is there.
    local version
    version="$("${found[0]}" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')"
    install_system_packages "$version-venv" || fail "The Python module venv is missing; see above."
    can_make_venv "${found[0]}" || fail "${found[0]} cannot make virtual environments: its module ensurepip is missing."
    echo "${found[0]}"
}

venv_works() {
    [ ! -e "$marker" ] || [ "$(cat "$marker")" = "$venv" ] || return 1 # the checkout was moved
    [ -x "$venv/bin/python" ] && is_supported "$venv/bin/python" && "$venv/bin/python" -c 'import pip' 2>/dev/null
}

make_venv() {
    venv_works && return
    if [ -e "$venv" ]; then
        [ -e "$marker" ] || fail "$venv exists but does not work with Python 3.11 to 3.14. Remove or rename it, then try again."
        say "Replacing the virtual environment, which is broken, unfinished or was moved"
        rm -rf "$venv"
    fi
    local python
    python="$(find_python)"
    say "Making a virtual environment in .venv with $("$python" --version)"
    mkdir "$venv"
    echo "$venv" >"$marker"
    "$python" -m venv "$venv"
}

# install_package EXTRAS: the package, editable, at the pinned versions. Quick when nothing changed since the last time.
install_package() {
    make_venv
    local extras="$1" stamp="$venv/.installed-${1//,/-}" key
    key="$(cat pyproject.toml constraints.txt src/napari_celltrain/__init__.py | cksum)"
    [ "$(cat "$stamp" 2>/dev/null)" = "$key" ] && return
    say "Installing napari-celltrain[$extras] and what it needs (several minutes the first time)"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extras]"
    echo "$key" >"$stamp"
}
