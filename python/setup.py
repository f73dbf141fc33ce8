"""Builds the wheel: Python files, libcodecllm, the libraries it needs, and the GPU library where nvcc is.

    pip install ./python                                       builds the libraries with cmake from the source tree around this folder
    CODECLLM_PREBUILT=build-gpu pip install ./python           takes libcodecllm.so.0.1 (and libcodecllm_cuda.so) from a folder
    CODECLLM_CMAKE_ARGS="-DCLLM_CUDA_ARCHITECTURES=AUTO"       further arguments of cmake: here for the GPUs of this machine only

The wheel is for one platform and any Python from 3.10 on: ctypes needs no compiled module.
"""

import glob
import os
import re
import shlex
import shutil
import subprocess
import sys

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # older setuptools
    from wheel.bdist_wheel import bdist_wheel

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
# Of the C library everywhere, or (zstd) loaded by the package itself; each is a few hundred KB.
CARRIED = ("libjansson.so", "libpcre2-8.so", "libutf8proc.so", "libxxhash.so")


def version():
    with open(os.path.join(HERE, "codecllm", "__init__.py")) as f:
        return re.search(r'__version__ = "([^"]+)"', f.read()).group(1)


def library_name():
    major, minor = version().split(".")[:2]
    return f"libcodecllm.so.0.{minor}" if major == "0" else f"libcodecllm.so.{major}"


def run(*command):
    print("+", shlex.join(command), flush=True)
    subprocess.run(command, check=True)


def build_libraries():
    """The folder with the libraries."""
    prebuilt = os.environ.get("CODECLLM_PREBUILT")
    if prebuilt:
        prebuilt = os.path.join(ROOT, prebuilt) if not os.path.isabs(prebuilt) else prebuilt
        if not os.path.exists(os.path.join(prebuilt, library_name())):
            sys.exit(f"CODECLLM_PREBUILT: {prebuilt} has no {library_name()}")
        return prebuilt
    if not os.path.exists(os.path.join(ROOT, "CMakeLists.txt")):
        sys.exit("the C sources are not beside this folder: install from the source tree (pip install ./python)")
    if not shutil.which("cmake"):
        sys.exit(f"cmake is missing: install it, or let CODECLLM_PREBUILT name a folder with {library_name()}")
    folder = os.path.join(ROOT, "build-python")
    run("cmake", "-S", ROOT, "-B", folder, "-DCMAKE_BUILD_TYPE=Release", "-DCLLM_TESTS=OFF", "-DCLLM_EXAMPLES=OFF",
        "-DCLLM_CUDA_ARCHITECTURES=ALL",  # a wheel may be taken to another machine
        *shlex.split(os.environ.get("CODECLLM_CMAKE_ARGS", "")))
    run("cmake", "--build", folder, "--parallel", str(os.cpu_count() or 1), "--target", "cllm_shared")
    # The GPU library is a target only where nvcc was found.
    targets = subprocess.run(["cmake", "--build", folder, "--target", "help"], check=True, capture_output=True, text=True).stdout
    if re.search(r"\bcllm_cuda\b", targets):
        run("cmake", "--build", folder, "--parallel", str(os.cpu_count() or 1), "--target", "cllm_cuda")
    return folder


def needed(library):
    """{name: path} of what the loader takes for it."""
    text = subprocess.run(["ldd", library], check=True, capture_output=True, text=True).stdout
    return dict(re.findall(r"^\s*(\S+) => (/\S+)", text, re.MULTILINE))


def find_zstd():
    text = subprocess.run(["/sbin/ldconfig", "-p"], check=False, capture_output=True, text=True).stdout
    m = re.search(r"libzstd\.so\.1 .*=> (/\S+)", text)
    return m.group(1) if m else None


def copy_license(library, to):
    """What Debian keeps of the license of a carried library, beside it."""
    for path in sorted(glob.glob(f"/usr/share/doc/{library.split('.so')[0]}[0-9-]*/copyright"))[:1]:
        shutil.copy(path, os.path.join(to, library.split(".so")[0] + ".license"))


class BuildPy(build_py):
    def run(self):
        super().run()
        folder = build_libraries()
        to = os.path.join(self.build_lib, "codecllm", "lib")
        shutil.rmtree(to, ignore_errors=True)  # an earlier build may have left a library that this one has not
        os.makedirs(to)
        library = os.path.join(folder, library_name())
        shutil.copy(library, os.path.join(to, library_name()))
        for name, path in needed(library).items():
            if name.startswith(CARRIED):
                shutil.copy(path, os.path.join(to, name))
                copy_license(name, to)
        zstd = find_zstd()
        if zstd:
            shutil.copy(zstd, os.path.join(to, "libzstd.so.1"))
            copy_license("libzstd.so.1", to)
        else:
            print("libzstd.so.1 was not found: codec zstd of this wheel will use the system's")
        gpu = os.path.join(folder, "libcodecllm_cuda.so")
        if os.path.exists(gpu):
            shutil.copy(gpu, os.path.join(to, "libcodecllm_cuda.so"))
        else:
            print("no libcodecllm_cuda.so: this wheel works on the CPU")


class PlatformWheel(bdist_wheel):
    def finalize_options(self):
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class BinaryDistribution(Distribution):
    def has_ext_modules(self):
        return True


setup(
    name="codecllm",
    version=version(),
    description="Entropy-coded language-model weights, decoded inside the products that use them",
    license="Apache-2.0",
    packages=["codecllm", "codecllm.torch"],
    python_requires=">=3.10",
    install_requires=["numpy"],
    extras_require={"torch": ["torch"], "transformers": ["torch", "transformers>=5"], "zstd-gpu": ["nvidia-libnvcomp-cu13"]},
    cmdclass={"build_py": BuildPy, "bdist_wheel": PlatformWheel},
    distclass=BinaryDistribution,
    zip_safe=False,
)
