#!/bin/sh
# For which GPUs the GPU backend is compiled where nothing is said, with stand-ins for nvidia-smi and nvcc.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/nvcc" <<'EOF2'
#!/bin/sh
printf 'sm_75\nsm_80\nsm_86\nsm_89\nsm_90\n'
EOF2
cat >"$work/nvidia-smi" <<'EOF2'
#!/bin/sh
[ -n "$GPUS" ] || exit 9
printf '%s\n' $GPUS
EOF2
chmod +x "$work/nvcc" "$work/nvidia-smi"
cat >"$work/ask.cmake" <<EOF2
include(${CLLM_SOURCE:?}/cmake/gpu_targets.cmake)
cllm_gpu_targets("\${WANTED}" $work/nvcc targets advice)
list(JOIN targets " " targets)
message("\${targets}|\${advice}")
EOF2
failed=0
# expect GPUS WANTED PATTERN
expect() {
    got=$(GPUS=$1 PATH=$work:$PATH cmake "-DWANTED=$2" -P "$work/ask.cmake" 2>&1)
    # shellcheck disable=SC2254 # a pattern is meant
    case $got in
    $3) ;;
    *)
        echo "GPUs '$1', wanted '$2': $got"
        failed=1
        ;;
    esac
}
all='75-real 80-real 86-real 89-real 90a-real 90-virtual'
expect "9.0" AUTO "90a-real|*GPUs of this machine*ALL*"
expect "8.6 9.0 8.6" AUTO "86-real 90a-real|*GPUs of this machine*"
expect "7.0 8.9" AUTO "89-real|*"
expect "7.0" AUTO "$all|*minutes*-DCLLM_CUDA=OFF*-DCLLM_CUDA_ARCHITECTURES=90a-real*"
expect "12.0" AUTO "$all|*minutes*" # newer than this nvcc
expect "" AUTO "$all|*minutes*-DCLLM_CUDA=OFF*"
expect "9.0" ALL "$all|"
expect "" "80-real;90-virtual" "80-real 90-virtual|"
expect "9.0" native "native|"
exit $failed
