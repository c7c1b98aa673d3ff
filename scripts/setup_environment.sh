#!/usr/bin/env bash
# Makes .venv and installs requirements.txt into it. Does nothing if this was already done with the same
# requirements and the same Python. The stamp is written last, so an interrupted setup is repeated.
set -euo pipefail
cd "$(dirname "$0")/.."

if command -v flock >/dev/null; then
    exec 9>.venv.lock
    flock 9
fi

python=$(scripts/find_python.sh)
key=$("$python" - <<'PY'
import hashlib, sys
print(hashlib.sha256(open("requirements.txt", "rb").read() + (sys.executable + sys.version).encode()).hexdigest())
PY
)
stamp=.venv/.installed
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; then
    exit 0
fi

if [ -L .venv ]; then
    echo "setup: .venv is a link to $(readlink -f .venv), which was made for other requirements or another Python; remove the link" >&2
    exit 1
fi
echo "Setting up .venv with $python (once; takes some minutes)"
rm -f "$stamp"
"$python" -m venv --clear .venv
.venv/bin/python -m pip install --disable-pip-version-check --requirement requirements.txt
echo "$key" > "$stamp.new"
mv "$stamp.new" "$stamp"
