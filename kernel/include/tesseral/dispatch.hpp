// Instruction sets that the kernel is compiled for.
#pragma once

#include <string>

#include "tesseral/operators.hpp"

namespace tesseral {

enum class InstructionSet { baseline, avx2, avx512 };

/// The best one that this machine supports.
InstructionSet instruction_set();

/// One by its name: "baseline", "avx2", "avx512", or "auto" for the best. Throws std::invalid_argument naming those that
/// this machine supports.
InstructionSet instruction_set_named(const std::string& name);

template <class T>
const Kernels<T>& kernels_for(InstructionSet set);

/// Lets kernels<T>() of this process use another instruction set than the best, to test and to compare them.
void use_instruction_set(InstructionSet set);

/// Lets kernels<T>() of this process be those of a device library that is compiled for the processor, to test it; after
/// use_instruction_set they are the processor's own again.
void use_emulated_device();

/// Whether they are.
bool device_is_emulated();

}  // namespace tesseral
