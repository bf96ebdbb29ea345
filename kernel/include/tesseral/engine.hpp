// The native engine: energies, forces and virials of a model file, without torch.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace tesseral {

/// mixed: float32 arithmetic within an atom, float64 sums over atoms and edges.
enum class Precision { float32, mixed, float64 };

/// Å; atoms that are closer are on top of each other, and there is no energy.
constexpr double shortest_distance = 0.1;

/// The neighbours of one center.
struct NeighborRow {
  const int32_t* neighbors = nullptr;  // [count] atom index, maybe with other bits; edges beyond the cutoff are ignored
  const double* shifts = nullptr;      // [count, 3] added to r_j - r_i (null: none)
  int32_t count = 0;
  int32_t first_atom = 0;  // added to the indices, so that copies of a system share one list
};

/// Atoms with a neighbour list. Units: Å.
struct EngineInput {
  int64_t n_atoms = 0;                // rows of positions and species, ghosts included
  int64_t n_centers = 0;              // the first n_centers atoms have energies
  const double* positions = nullptr;  // [n_atoms, 3]
  const int32_t* species = nullptr;   // [n_atoms] index into the model's species; absent: not in the model
  const NeighborRow* rows = nullptr;  // [n_centers]
  int32_t index_bits = 0x7fffffff;    // bits of a neighbour that hold the atom index

  /// Species of an atom that the model leaves out: no energy, no forces, nobody's neighbour.
  static constexpr int32_t absent = -1;
};

/// Results, overwritten; eV, eV/Å.
struct EngineOutput {
  double* energies = nullptr;          // [n_centers]
  double* forces = nullptr;            // [n_atoms, 3]
  double* virials = nullptr;           // [n_centers, 3, 3] sum over j of r_ij (x) dE_i/dr_ij (not symmetrised), or null
  double* neighbor_virials = nullptr;  // [n_atoms, 3, 3] the same sum over i, by neighbour j; or null
  double* const* columns = nullptr;    // one [n_centers] or null for each of Engine::atom_columns(), or null
};

/// An energy or a force that is no finite number, or atoms closer than `shortest_distance`.
struct __attribute__((visibility("default"))) NonFiniteResult : std::runtime_error {
  std::string quantity;
  int64_t atom;

  NonFiniteResult(const char* quantity, int64_t atom);
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
  /// Names of the further numbers that each center has, see EngineOutput::columns: the symmetrised products before the
  /// readout, product_1, product_2, ...
  const std::vector<std::string>& atom_columns() const;

  /// Calls from several threads wait for each other. Throws std::invalid_argument for indices out of range,
  /// NonFiniteResult.
  void compute(const EngineInput& input, const EngineOutput& output);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tesseral
