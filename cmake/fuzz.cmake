# libFuzzer targets: fuzz/fuzz_NAME.c, seeds in fuzz/seeds/NAME/. `ctest -L fuzz` runs each for a short while.

set(CLLM_FUZZ_SECONDS 10 CACHE STRING "How long ctest runs each fuzz target")

file(GLOB fuzz_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/fuzz/fuzz_*.c)
foreach(source IN LISTS fuzz_sources)
    get_filename_component(name ${source} NAME_WE)
    string(REGEX REPLACE "^fuzz_" "" subject ${name})
    add_executable(${name} ${source})
    target_compile_definitions(${name} PRIVATE "CLLM_TEST_SOURCE_DIR=\"${PROJECT_SOURCE_DIR}\"")
    target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/fuzz)
    target_link_libraries(${name} PRIVATE cllm_static)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)

    # An input of more than 30 seconds is a finding: by the clock, so much above what a loaded machine makes of one that takes a second or two.
    # Amplification of time and memory is a failure; cost.h looks closer where an input is a file of a model.
    # New inputs go to the build tree; the seeds are only read.
    set(corpus ${PROJECT_BINARY_DIR}/corpus/${subject})
    file(MAKE_DIRECTORY ${corpus})
    set(seeds ${PROJECT_SOURCE_DIR}/fuzz/seeds/${subject})
    if(NOT IS_DIRECTORY ${seeds})
        set(seeds)
    endif()
    add_test(NAME ${name} COMMAND ${name} -max_total_time=${CLLM_FUZZ_SECONDS} -timeout=30 -rss_limit_mb=2048 -malloc_limit_mb=512
        -max_len=65536 -print_final_stats=1 ${corpus} ${seeds})
    set_tests_properties(${name} PROPERTIES LABELS fuzz TIMEOUT 3600 WORKING_DIRECTORY ${PROJECT_BINARY_DIR})
endforeach()
