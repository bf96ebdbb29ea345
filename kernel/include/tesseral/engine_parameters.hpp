// Reads the native engine's parameters from a model file.
#pragma once

#include "tesseral/engine_atoms.hpp"
#include "tesseral/model_file.hpp"

namespace tesseral {

/// Throws std::runtime_error naming the file and the parameter that is missing or has a wrong shape.
template <class T>
EngineParameters<T> read_engine_parameters(const ModelFile& file);

}  // namespace tesseral
