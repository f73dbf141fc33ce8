#!/bin/sh
# What `cmake --install` lays down can be used: the command, a program through pkg-config, a program through the CMake package.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "${CLLM_BUILD:?}" --prefix "$work/usr" >"$work/log" || { cat "$work/log"; exit 1; }
"$work/usr/bin/codecllm" version

libdir=$(dirname "$(find "$work/usr" -name libcodecllm.so)")
# Before 1.0 the loader pairs programs with the library of their own minor version only.
version=$(sed -n 's/^#define CLLM_VERSION_M[AJINOR]* \([0-9]*\)$/\1/p' "${CLLM_SOURCE:?}/include/codecllm.h" | paste -sd.)
soname=$(readlink "$libdir/libcodecllm.so")
[ "$soname" = "libcodecllm.so.$version" ] || [ "${version%%.*}" != 0 ] || { echo "the library is called $soname"; exit 1; }
# The .pc file names the prefix of the build; a staged tree is elsewhere.
sed "s|^prefix=.*|prefix=$work/usr|" "$libdir/pkgconfig/codecllm.pc" >"$work/codecllm.pc"
flags=$(PKG_CONFIG_PATH="$work" pkg-config --cflags --libs codecllm)
# shellcheck disable=SC2086 # one word per flag
cc "${CLLM_SOURCE:?}/examples/tensor.c" -o "$work/tensor" $flags -lm
LD_LIBRARY_PATH="$libdir" "$work/tensor"
# shellcheck disable=SC2086
cc "${CLLM_SOURCE:?}/examples/decode_to_device.c" -o "$work/decode_to_device" $flags
"$work/usr/bin/codecllm" compress "$CLLM_SOURCE/models/tiny" -o "$work/out" >"$work/log" || { cat "$work/log"; exit 1; }
matrix=model.layers.0.mlp.up_proj.weight
code=0
LD_LIBRARY_PATH="$libdir" "$work/decode_to_device" "$work/out" $matrix || code=$?
[ $code -eq 0 ] || [ $code -eq 6 ] # 6: no GPU here
# The library that stands in for a GPU's computes the same where it is put beside.
if [ -e "$CLLM_BUILD/fake/libcodecllm_cuda.so" ]; then
    mkdir "$work/fake"
    cp "$libdir/$soname" "$CLLM_BUILD/fake/libcodecllm_cuda.so" "$work/fake"
    LD_LIBRARY_PATH="$work/fake" "$work/decode_to_device" "$work/out" $matrix | grep ", 0 different"
fi
# The header alone is C++ as well, where there is a C++ compiler.
if command -v c++ >/dev/null 2>&1; then
    echo '#include <codecllm.h>
int main() {
    cllm_model_params params;
    cllm_model_params_default(&params);
    return params.struct_bytes != sizeof params || cllm_version_number() != CLLM_VERSION_NUMBER;
}' >"$work/plus.cc"
    # shellcheck disable=SC2086
    c++ -Wall -Wextra -Werror "$work/plus.cc" -o "$work/plus" $flags
    LD_LIBRARY_PATH="$libdir" "$work/plus"
fi

mkdir "$work/package"
cat >"$work/package/CMakeLists.txt" <<EOF
cmake_minimum_required(VERSION 3.25)
project(user C)
find_package(codecllm 0.1 REQUIRED)
add_executable(user $CLLM_SOURCE/examples/generate.c)
target_link_libraries(user PRIVATE codecllm::codecllm)
EOF
cmake -S "$work/package" -B "$work/package/build" -DCMAKE_PREFIX_PATH="$work/usr" >"$work/log" 2>&1 &&
    cmake --build "$work/package/build" >>"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
"$work/package/build/user" "$CLLM_SOURCE/models/tiny" "Once upon a time"
