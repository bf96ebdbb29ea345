// Choice of the instruction set, once, from what the processor and the operating system support.
#include "tesseral/dispatch.hpp"

#include <atomic>
#include <stdexcept>

#include "tesseral/cuda_library.hpp"
#include "tesseral/engine_atoms.hpp"

namespace tesseral {

#define TESSERAL_DECLARE(isa)                    \
  namespace isa {                                \
  const Kernels<float>& kernels_float();         \
  const Kernels<double>& kernels_double();       \
  AtomsFunction<float, float> atoms_float32();   \
  AtomsFunction<float, double> atoms_mixed();    \
  AtomsFunction<double, double> atoms_float64(); \
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

#ifdef TESSERAL_X86
#define TESSERAL_CHOOSE(set, call) \
  ((set) == InstructionSet::avx512 ? avx512::call : (set) == InstructionSet::avx2 ? avx2::call : baseline::call)
#else
#define TESSERAL_CHOOSE(set, call) ((void)(set), baseline::call)
#endif

template <>
const Kernels<float>& kernels_for<float>(InstructionSet set) {
  return TESSERAL_CHOOSE(set, kernels_float());
}
template <>
const Kernels<double>& kernels_for<double>(InstructionSet set) {
  return TESSERAL_CHOOSE(set, kernels_double());
}

InstructionSet instruction_set_named(const std::string& name) {
  const InstructionSet best = instruction_set();
  if (name == "auto") return best;
  std::string supported;
  for (const InstructionSet set : {InstructionSet::baseline, InstructionSet::avx2, InstructionSet::avx512}) {
    if (set > best) break;
    if (name == kernels_for<double>(set).instruction_set) return set;
    supported += std::string(", ") + kernels_for<double>(set).instruction_set;
  }
  throw std::invalid_argument("instruction set '" + name + "' is not available: this machine has auto" + supported);
}

namespace {
std::atomic<InstructionSet>& chosen() {
  static std::atomic<InstructionSet> set{instruction_set()};
  return set;
}
std::atomic<const CudaLibrary*> emulated{nullptr};
}  // namespace

void use_instruction_set(InstructionSet set) {
  chosen() = set;
  emulated = nullptr;
}
void use_emulated_device() {
  emulated = &cuda_library();
}
bool device_is_emulated() {
  return emulated != nullptr;
}

template <>
const Kernels<float>& kernels<float>() {
  const CudaLibrary* device = emulated;
  return device ? *device->kernels_float32 : kernels_for<float>(chosen());
}
template <>
const Kernels<double>& kernels<double>() {
  const CudaLibrary* device = emulated;
  return device ? *device->kernels_float64 : kernels_for<double>(chosen());
}

template <>
AtomsFunction<float, float> atoms_function<float, float>(InstructionSet set) {
  return TESSERAL_CHOOSE(set, atoms_float32());
}
template <>
AtomsFunction<float, double> atoms_function<float, double>(InstructionSet set) {
  return TESSERAL_CHOOSE(set, atoms_mixed());
}
template <>
AtomsFunction<double, double> atoms_function<double, double>(InstructionSet set) {
  return TESSERAL_CHOOSE(set, atoms_float64());
}

}  // namespace tesseral
