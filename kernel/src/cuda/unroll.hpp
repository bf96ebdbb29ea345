// TESSERAL_UNROLL of pack.hpp by four, where the whole loop would take too much code.
#pragma once

#ifdef __CUDA_ARCH__
#define TESSERAL_UNROLL_FOUR _Pragma("unroll 4")
#else
#define TESSERAL_UNROLL_FOUR
#endif
