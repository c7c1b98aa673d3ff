#!/usr/bin/env bash
# Makes .venv-bench, with llama.cpp built from source for this processor, and once more for AVX2 only, in its folder avx2.
# Does nothing if this was already done with the same requirements, Python and processor. The stamp is written last, so
# an interrupted setup is repeated.
set -euo pipefail
cd "$(dirname "$0")/.."

environment=.venv-bench
if command -v flock >/dev/null; then
    exec 9>.venv.lock
    flock 9
fi

python=$(scripts/find_python.sh)
processor=$(sed -n '/^model name/p; /^flags/p' /proc/cpuinfo | sort -u)
key=$(cat requirements-bench.txt "$0" <("$python" -c 'import sys; print(sys.executable, sys.version)') <(echo "$processor") | sha256sum)
stamp=$environment/.installed
if [ -x $environment/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; then
    exit 0
fi
for compiler in cc c++; do
    if ! command -v $compiler >/dev/null; then
        echo "setup-bench: no $compiler to build llama.cpp with: install a C++ compiler (Debian package g++)" >&2
        exit 1
    fi
done

echo "Setting up $environment with $python (once; builds llama.cpp twice, which takes some minutes)"
rm -f "$stamp"
"$python" -m venv --clear $environment
install() {  # pip's own cache would not tell the two builds apart
    CMAKE_BUILD_PARALLEL_LEVEL=2 CMAKE_ARGS="-DLLAVA_BUILD=OFF $1" nice -n 10 $environment/bin/python -m pip install \
        --disable-pip-version-check --no-cache-dir --no-binary llama-cpp-python "${@:2}"
}
install -DGGML_NATIVE=ON --requirement requirements-bench.txt
install -DGGML_NATIVE=OFF --no-deps --target $environment/avx2 "$(grep '^llama-cpp-python==' requirements-bench.txt)"
echo "$key" > "$stamp.new"
mv "$stamp.new" "$stamp"
