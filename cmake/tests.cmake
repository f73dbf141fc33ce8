# One executable and one ctest for each tests/test_*.c (cmocka), and the shell tests beside them.

pkg_check_modules(CMOCKA IMPORTED_TARGET cmocka)
if(NOT CMOCKA_FOUND)
    message(WARNING "cmocka is missing: the tests are not built (script/test installs it)")
    return()
endif()

# Only against tests that hang: the slowest takes minutes under sanitizers, and a machine that others load takes many times as long.
set(test_timeout 3600)
set(sanitized 0)
if(CLLM_SANITIZE)
    set(sanitized 1)
endif()
file(GLOB test_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/test_*.c)
foreach(source IN LISTS test_sources)
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    # Sanitizers make arithmetic ten times slower: tests of figures alone do less of it there.
    target_compile_definitions(${name} PRIVATE "CLLM_TEST_SOURCE_DIR=\"${PROJECT_SOURCE_DIR}\""
        CLLM_TEST_SANITIZED=${sanitized})
    target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
    target_link_libraries(${name} PRIVATE cllm_static PkgConfig::CMOCKA)
    # cmocka does not tell the compiler that a failed assertion does not come back.
    target_compile_options(${name} PRIVATE $<$<C_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES TIMEOUT ${test_timeout} LABELS unit WORKING_DIRECTORY ${PROJECT_BINARY_DIR})
endforeach()

# Renders templates that somebody brings: for comparisons with other implementations, no test by itself.
add_executable(render_template ${PROJECT_SOURCE_DIR}/tests/render_template.c)
target_link_libraries(render_template PRIVATE cllm_static)

# Libraries that stand in for the GPU's: a right one beside the tests that load it, and two that must be refused.
foreach(kind right old_abi no_entry)
    add_library(fake_${kind} MODULE ${PROJECT_SOURCE_DIR}/tests/fake_backend.c)
    target_link_libraries(fake_${kind} PRIVATE cllm_static)
    target_link_options(fake_${kind} PRIVATE -Wl,--exclude-libs,ALL)
    set_target_properties(fake_${kind} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/fake)
endforeach()
set_target_properties(fake_right PROPERTIES OUTPUT_NAME codecllm_cuda)
target_sources(fake_right PRIVATE ${PROJECT_SOURCE_DIR}/tests/fake_gpu_ops.c)
target_compile_definitions(fake_old_abi PRIVATE "FAKE_ABI=(CLLM_BACKEND_ABI + 7)")
target_compile_definitions(fake_no_entry PRIVATE FAKE_ENTRY=fake_entry)
foreach(name test_device test_api_device test_api_misuse test_abort)
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/fake)
    add_dependencies(${name} fake_right)
endforeach()
target_compile_definitions(test_device PRIVATE "CLLM_TEST_OLD_ABI=\"$<TARGET_FILE:fake_old_abi>\""
    "CLLM_TEST_NO_ENTRY=\"$<TARGET_FILE:fake_no_entry>\"")
add_dependencies(test_device fake_old_abi fake_no_entry)

# Shell tests get what they look at through the environment; 77 is their word for "skipped".
file(GLOB shell_tests CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/test_*.sh ${PROJECT_SOURCE_DIR}/tests/cli/test_*.sh)
foreach(script IN LISTS shell_tests)
    get_filename_component(name ${script} NAME_WE)
    get_filename_component(folder ${script} DIRECTORY)
    if(folder MATCHES "/cli$")
        string(REPLACE "test_" "cli_" name ${name})
        set(label cli)
    else()
        set(label repository)
    endif()
    add_test(NAME ${name} COMMAND sh ${script})
    set_tests_properties(${name} PROPERTIES TIMEOUT ${test_timeout} LABELS ${label} SKIP_RETURN_CODE 77
        ENVIRONMENT "CLLM_SOURCE=${PROJECT_SOURCE_DIR};CLLM_BUILD=${PROJECT_BINARY_DIR};CLLM_SANITIZE=${CLLM_SANITIZE}")
endforeach()

set_tests_properties(test_gpu test_gpu_stream PROPERTIES SKIP_RETURN_CODE 77)

# What the Python package's tests load beside the stand-in for the GPU library: one for nvCOMP.
add_library(fake_nvcomp MODULE ${PROJECT_SOURCE_DIR}/tests/fake_nvcomp.c)
target_link_libraries(fake_nvcomp PRIVATE PkgConfig::ZSTD cllm_flags)
set_target_properties(fake_nvcomp PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/fake)

# Python's tests: run.sh looks for an interpreter with NumPy, and says where there is none.
file(GLOB python_tests CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/python/test_*.py)
foreach(script IN LISTS python_tests)
    get_filename_component(name ${script} NAME_WE)
    string(REPLACE "test_" "python_" name ${name})
    add_test(NAME ${name} COMMAND sh ${PROJECT_SOURCE_DIR}/tests/python/run.sh ${script})
    set_tests_properties(${name} PROPERTIES TIMEOUT ${test_timeout} LABELS repository SKIP_RETURN_CODE 77 ENVIRONMENT "CLLM_BUILD=${PROJECT_BINARY_DIR}")
endforeach()

include(cmake/kernel_tests.cmake)

# The longest first, also in a fresh build tree, where ctest knows no durations yet: nothing long is left to run alone at the end.
foreach(name test_engine test_hostile_tensor test_kernels test_reference test_tokenizer cli_kill)
    if(TEST ${name})
        set_tests_properties(${name} PROPERTIES COST 100)
    endif()
endforeach()

# The GPU backend without a GPU: its own objects with a stand-in for the CUDA runtime and cuBLAS.
if(TARGET cllm_cuda)
    add_executable(test_stream_order ${PROJECT_SOURCE_DIR}/tests/cuda/test_stream_order.cu ${PROJECT_SOURCE_DIR}/tests/cuda/fake_runtime.c
        $<TARGET_OBJECTS:cllm_cuda>)
    set_target_properties(test_stream_order PROPERTIES CUDA_RUNTIME_LIBRARY None)
    target_include_directories(test_stream_order PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/tests
        ${PROJECT_SOURCE_DIR}/tests/cuda ${CUDAToolkit_INCLUDE_DIRS})
    target_compile_features(test_stream_order PRIVATE cuda_std_17)
    target_link_libraries(test_stream_order PRIVATE cllm_static PkgConfig::CMOCKA)
    add_test(NAME test_stream_order COMMAND test_stream_order)
    set_tests_properties(test_stream_order PROPERTIES TIMEOUT ${test_timeout} LABELS unit)
endif()
