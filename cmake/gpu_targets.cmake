# What CLLM_CUDA_ARCHITECTURES means. In a file of its own, so that a test can ask without nvcc.

# wanted: AUTO, ALL, or a list as CMAKE_CUDA_ARCHITECTURES takes it. Sets `targets` to such a list, and `advice` to what is to be told with it.
function(cllm_gpu_targets wanted nvcc targets advice)
    # Compiling for all takes minutes for each, but a package that goes to other machines needs them.
    set(all 75-real 80-real 86-real 89-real 90a-real 90-virtual)
    set(${advice} "" PARENT_SCOPE)
    if(wanted STREQUAL "ALL")
        set(${targets} ${all} PARENT_SCOPE)
        return()
    elseif(NOT wanted STREQUAL "AUTO")
        set(${targets} ${wanted} PARENT_SCOPE)
        return()
    endif()
    execute_process(COMMAND ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../script/gpu-architectures OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    execute_process(COMMAND ${nvcc} --list-gpu-code OUTPUT_VARIABLE known ERROR_QUIET)
    set(chosen)
    foreach(gpu IN LISTS found)
        # not one that is older than Turing or newer than nvcc
        string(REGEX MATCH "^[0-9]+" number "${gpu}")
        if(number GREATER_EQUAL 75 AND known MATCHES "sm_${number}[^0-9]")
            list(APPEND chosen ${gpu})
        endif()
    endforeach()
    if(chosen)
        set(${targets} ${chosen} PARENT_SCOPE)
        set(${advice} ", the GPUs of this machine; -DCLLM_CUDA_ARCHITECTURES=ALL builds it for others too" PARENT_SCOPE)
        return()
    endif()
    set(${targets} ${all} PARENT_SCOPE)
    string(CONCAT text ". No GPU of these is in this machine, so it is compiled for all of them, which takes about 25 minutes on two cores. "
        "-DCLLM_CUDA=OFF leaves it out; -DCLLM_CUDA_ARCHITECTURES=90a-real, or another of them, builds it for one")
    set(${advice} "${text}" PARENT_SCOPE)
endfunction()
