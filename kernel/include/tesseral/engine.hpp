// The native engine: energies, forces and virials of a model file, without torch.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace tesseral {

/// mixed: float32 arithmetic within an atom, float64 sums over atoms and edges.
enum class Precision { float32, mixed, float64 };

/// Atoms with a neighbour list in CSR form. Units: Å.
struct EngineInput {
  int64_t n_atoms = 0;                 // rows of positions and species, ghosts included
  int64_t n_centers = 0;               // the first n_centers atoms have energies
  const double* positions = nullptr;   // [n_atoms, 3]
  const int32_t* species = nullptr;    // [n_atoms] index into the model's species
  const int64_t* first = nullptr;      // [n_centers+1]
  const int32_t* neighbors = nullptr;  // [E] atom index; edges beyond the cutoff are ignored
  const double* shifts = nullptr;      // [E, 3] added to r_j - r_i (null: none)
};

/// Results, overwritten; eV, eV/Å.
struct EngineOutput {
  double* energies = nullptr;  // [n_centers]
  double* forces = nullptr;    // [n_atoms, 3]
  double* virials = nullptr;   // [n_centers, 3, 3] sum_j r_ij (x) dE/dr_ij (not symmetrised), or null
};

struct EngineOptions {
  Precision precision = Precision::mixed;
  int threads = 1;
  std::string instruction_set = "auto";  // or baseline, avx2, avx512
};

class Engine {
 public:
  /// Reads a model file; throws std::runtime_error (file) or std::invalid_argument (options).
  Engine(const std::string& path, const EngineOptions& options);
  ~Engine();
  Engine(Engine&&) noexcept;

  double cutoff() const;
  const std::vector<std::string>& species() const;
  const std::string& metadata() const;  // JSON text
  std::string instruction_set() const;

  /// Calls from several threads wait for each other. Throws std::invalid_argument for indices out of range,
  /// std::runtime_error naming the atom for non-finite results.
  void compute(const EngineInput& input, const EngineOutput& output);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tesseral
