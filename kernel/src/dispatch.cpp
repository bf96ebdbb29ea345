// Choice of the instruction set, once, from what the processor and the operating system support.
#include "tesseral/dispatch.hpp"

namespace tesseral {

#define TESSERAL_DECLARE(isa)               \
  namespace isa {                           \
  const Kernels<float>& kernels_float();    \
  const Kernels<double>& kernels_double();  \
  }
TESSERAL_DECLARE(baseline)
#ifdef TESSERAL_X86
TESSERAL_DECLARE(avx2)
TESSERAL_DECLARE(avx512)
#endif

InstructionSet instruction_set() {
#ifdef TESSERAL_X86
  static const InstructionSet best = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw")) {
      return InstructionSet::avx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return InstructionSet::avx2;
    return InstructionSet::baseline;
  }();
  return best;
#else
  return InstructionSet::baseline;
#endif
}

template <>
const Kernels<float>& kernels_for<float>(InstructionSet set) {
#ifdef TESSERAL_X86
  if (set == InstructionSet::avx512) return avx512::kernels_float();
  if (set == InstructionSet::avx2) return avx2::kernels_float();
#else
  (void)set;
#endif
  return baseline::kernels_float();
}
template <>
const Kernels<double>& kernels_for<double>(InstructionSet set) {
#ifdef TESSERAL_X86
  if (set == InstructionSet::avx512) return avx512::kernels_double();
  if (set == InstructionSet::avx2) return avx2::kernels_double();
#else
  (void)set;
#endif
  return baseline::kernels_double();
}

template <>
const Kernels<float>& kernels<float>() {
  return kernels_for<float>(instruction_set());
}
template <>
const Kernels<double>& kernels<double>() {
  return kernels_for<double>(instruction_set());
}

}  // namespace tesseral
