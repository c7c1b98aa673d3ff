#!/usr/bin/env bash
# Makes .venv-tools, with the vendor's tt-perf-report and ttnn-visualizer. Does nothing if this was already done with the
# same requirements and the same Python. The stamp is written last, so an interrupted setup is repeated.
set -euo pipefail
cd "$(dirname "$0")/.."

environment=.venv-tools
if command -v flock >/dev/null; then
    exec 9>.venv.lock
    flock 9
fi

python=$(scripts/find_python.sh)
key=$(cat requirements-tools.txt "$0" <("$python" -c 'import sys; print(sys.executable, sys.version)') | sha256sum)
stamp=$environment/.installed
if [ -x $environment/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; then
    exit 0
fi

echo "Setting up $environment with $python (once; takes a minute)"
rm -f "$stamp"
"$python" -m venv --clear $environment
$environment/bin/python -m pip install --disable-pip-version-check --requirement requirements-tools.txt
echo "$key" > "$stamp.new"
mv "$stamp.new" "$stamp"
