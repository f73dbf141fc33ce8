#!/bin/sh
# Checks and times the GPU kernels on this machine: bench/gpu.sh [BUILD_DIR]. Needs nvcc, gcc and a GPU.
#   results of every format against the CPU decoder, corrupt blobs (under compute-sanitizer where there is one), tables of speed
set -eu
cd "$(dirname "$0")/.."
build=${1:-build-gpu}
for tool in nvcc gcc nvidia-smi; do
    command -v $tool >/dev/null || { echo "bench/gpu.sh: $tool not found, nothing done" >&2; exit 2; }
done
arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
[ "$arch" = 90 ] && arch=90a
mkdir -p "$build"
for file in src/base/*.c src/codec/*.c; do
    gcc -O3 -std=c17 -D_GNU_SOURCE -ffp-contract=off -Iinclude -Isrc -c "$file" -o "$build/$(basename "$file" .c).c.o" &
done
for file in src/cuda/*.cu bench/gpu_kernels.cu; do
    nvcc -O3 -std=c++17 -gencode=arch=compute_$arch,code=sm_$arch -Iinclude -Isrc -c "$file" -o "$build/$(basename "$file" .cu).cu.o" &
done
wait
nvcc "$build"/*.c.o "$build"/*.cu.o -o "$build/gpu_kernels" -lcublas -lpthread -lm
nvidia-smi --query-gpu=name,driver_version,clocks.sm --format=csv,noheader
"$build/gpu_kernels" check
"$build/gpu_kernels" corrupt 2000
if command -v compute-sanitizer >/dev/null; then
    compute-sanitizer --tool memcheck --error-exitcode 1 "$build/gpu_kernels" corrupt 140
    compute-sanitizer --tool racecheck --error-exitcode 1 "$build/gpu_kernels" corrupt 1
fi
"$build/gpu_kernels" time
"$build/gpu_kernels" tiles
"$build/gpu_kernels" decode all
