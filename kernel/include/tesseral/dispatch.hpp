// Instruction sets that the kernel is compiled for.
#pragma once

#include "tesseral/operators.hpp"

namespace tesseral {

enum class InstructionSet { baseline, avx2, avx512 };

/// The best one that this machine supports.
InstructionSet instruction_set();

template <class T>
const Kernels<T>& kernels_for(InstructionSet set);

}  // namespace tesseral
