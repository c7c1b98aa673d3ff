#!/usr/bin/env bash
# Makes .venv-serving: vLLM and what it needs, over the packages of .venv, which it sees and does not copy. Does nothing
# if this was already done for the same .venv and the same requirements. The stamp is written last, so an interrupted
# setup is repeated.
set -euo pipefail
cd "$(dirname "$0")/.."

vllm=0.25.1  # requirements-serving.txt has what this version declares
environment=.venv-serving

scripts/setup_environment.sh
if command -v flock >/dev/null; then
    exec 9>.venv.lock
    flock 9
fi

key=$(cat .venv/.installed "$0" requirements-serving.txt pyproject.toml | sha256sum)
stamp=$environment/.installed
if [ -x $environment/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; then
    exit 0
fi

echo "Setting up $environment (once; takes some minutes)"
rm -f "$stamp"
"$(.venv/bin/python -c 'import sys; print(sys._base_executable)')" -m venv --clear $environment
packages() {
    "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
}
packages "$PWD/.venv" > "$(packages $environment)/base.pth"

pip() {
    $environment/bin/python -m pip --disable-pip-version-check "$@"
}
pip install --constraint requirements.txt --requirement requirements-serving.txt
# The source without kernels: vLLM's wheel needs a GPU's libraries and an older torch. --no-deps, because vLLM asks for
# an OpenCV that needs numpy 2. Its Rust programs are optional; without cargo they are left out, the same everywhere.
CARGO=false VLLM_TARGET_DEVICE=empty VLLM_VERSION_OVERRIDE=$vllm \
    pip install --no-deps --no-build-isolation --no-binary vllm "vllm==$vllm"
pip install --no-deps --no-build-isolation --editable .
echo "$key" > "$stamp.new"
mv "$stamp.new" "$stamp"
