# The GPU's kernels without a GPU and without nvcc: a C++ compiler takes them with the headers of tests/kernels, and the CPU runs them.

# Of the C compiler's own family, because each has its own sanitizers. Without one the test is left out.
if(NOT CMAKE_CXX_COMPILER AND NOT DEFINED ENV{CXX})
    get_filename_component(c_folder ${CMAKE_C_COMPILER} DIRECTORY)
    if(CMAKE_C_COMPILER_ID MATCHES "Clang")
        find_program(CLLM_CXX clang++ HINTS ${c_folder} DOC "C++ compiler of the tests")
    else()
        find_program(CLLM_CXX NAMES g++ c++ HINTS ${c_folder} DOC "C++ compiler of the tests")
    endif()
    mark_as_advanced(CLLM_CXX)
    if(CLLM_CXX)
        set(CMAKE_CXX_COMPILER ${CLLM_CXX})
    endif()
endif()
include(CheckLanguage)
check_language(CXX)
# Fibers are beyond the thread sanitizer, and there is only one thread.
if(NOT CMAKE_CXX_COMPILER OR CLLM_SANITIZE MATCHES "thread")
    message(STATUS "test_kernels: not built (no C++ compiler, or the thread sanitizer)")
    return()
endif()
enable_language(CXX)

set(folder ${PROJECT_SOURCE_DIR}/tests/kernels)
set(kernel_sources)
foreach(name IN ITEMS decode8_fold decode8_tuples decode16 rows_f32 product_fold product_tuples product16 quantize run tensor memory)
    list(APPEND kernel_sources ${PROJECT_SOURCE_DIR}/src/cuda/${name}.cu)
endforeach()
set_source_files_properties(${kernel_sources} PROPERTIES LANGUAGE CXX)

add_executable(test_kernels ${folder}/test_kernels.c ${folder}/check_x8.c ${folder}/warps.c ${folder}/runtime.cpp ${folder}/x8.cpp ${kernel_sources})
target_compile_features(test_kernels PRIVATE cxx_std_17)
target_compile_definitions(test_kernels PRIVATE "CLLM_TEST_SOURCE_DIR=\"${PROJECT_SOURCE_DIR}\"" CLLM_TEST_SANITIZED=${sanitized}
    # nvcc would say for which GPU it compiles: here the newest that kernels tell apart.
    $<$<COMPILE_LANGUAGE:CXX>:CLLM_ON_CPU=1 __CUDA_ARCH__=900>)
target_include_directories(test_kernels PRIVATE ${folder} ${PROJECT_SOURCE_DIR}/tests)
target_link_libraries(test_kernels PRIVATE cllm_static PkgConfig::CMOCKA)
set(cxx_options
    # Kernels see memory as words of any type, as nvcc lets them, and unrolling is nvcc's business; what warns of their style is off.
    -O1 -fno-strict-aliasing -ffp-contract=off
    -Wall -Wno-unknown-pragmas -Wno-sign-compare -Wno-parentheses -Wno-unused-variable -Wno-unused-const-variable
    $<$<CXX_COMPILER_ID:GNU>:-Wno-int-in-bool-context -Wno-enum-compare -Wno-maybe-uninitialized>
    $<$<CXX_COMPILER_ID:Clang>:-Wno-pass-failed>)
if(CLLM_WERROR)
    list(APPEND cxx_options -Werror)
endif()
if(CLLM_SANITIZE)
    list(APPEND cxx_options -fsanitize=${CLLM_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
endif()
target_compile_options(test_kernels PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${cxx_options}>" $<$<COMPILE_LANG_AND_ID:C,GNU>:-Wno-maybe-uninitialized>)
add_test(NAME test_kernels COMMAND test_kernels)
set_tests_properties(test_kernels PROPERTIES TIMEOUT ${test_timeout} LABELS unit)
