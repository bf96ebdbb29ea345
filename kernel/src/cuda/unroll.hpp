// TESSERAL_UNROLL in the code of a GPU alone: compilers for the processor (of the emulation, and behind nvcc) warn of it.
// Included before headers that use it.
#pragma once

#include "tesseral/pack.hpp"

#ifdef __CUDA_ARCH__
#define TESSERAL_UNROLL_FOUR _Pragma("unroll 4")
#else
#undef TESSERAL_UNROLL
#define TESSERAL_UNROLL
#define TESSERAL_UNROLL_FOUR
#endif
