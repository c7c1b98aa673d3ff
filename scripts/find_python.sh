#!/usr/bin/env bash
# Prints the path of the Python that builds the virtual environment: python3.12, else python3.10 (the vendor's
# ttnn has wheels for these two), else python3 of version 3.10 or newer. Each is looked for on PATH, then among
# pyenv's versions, newest first. A candidate must run: a pyenv shim on PATH fails if its version is not
# selected. It must also be able to make virtual environments.
set -euo pipefail

needs_package=

# Prints the interpreter behind $1 if it is usable. For a virtual environment, prints the base interpreter.
check() {
    local version
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 10))' \
        2>/dev/null) || return 1
    if ! "$1" -c 'import ensurepip, venv' 2>/dev/null; then
        needs_package+="$1 cannot make virtual environments: install the Debian package python$version-venv"$'\n'
        return 1
    fi
    "$1" -c 'import sys; print(getattr(sys, "_base_executable", "") or sys.executable)'
}

on_path() {
    type -ap "$1" || true
}

in_pyenv() {
    local root
    root=${PYENV_ROOT:-$(pyenv root 2>/dev/null || echo "${HOME:-}/.pyenv")}
    printf '%s\n' "$root"/versions/*/bin/"$1" | sort -rV
}

for name in python3.12 python3.10 python3; do
    while IFS= read -r candidate; do
        if [ -x "$candidate" ] && check "$candidate"; then
            exit 0
        fi
    done < <(on_path "$name"; in_pyenv "$name")
done

{
    echo "No usable Python: looked for python3.12, python3.10 and python3 (3.10 or newer), on PATH and in pyenv."
    printf '%s' "$needs_package"
} >&2
exit 1
