/* How much memory may be taken without driving the machine into swapping or a container over its limit. */
#ifndef CLLM_BASE_MEMORY_H
#define CLLM_BASE_MEMORY_H

#include <stdint.h>

/* The smaller of what the kernel calls available and what the control group leaves; UINT64_MAX if neither can be read. */
uint64_t cllm_available_memory(void);

#endif
