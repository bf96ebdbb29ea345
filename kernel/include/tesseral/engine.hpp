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

/// Carries the features of atoms between the processes that share a system (or within one, to its ghosts), for models with
/// several layers. Rows [n_atoms, row] of the atoms of EngineInput, float32 in the precisions float32 and mixed.
struct __attribute__((visibility("default"))) FeatureExchange {
  virtual ~FeatureExchange() = default;
  /// The rows of the centers are set: copies each to the ghosts of its atom, in every process.
  virtual void forward(float* rows, int64_t row) = 0;
  virtual void forward(double* rows, int64_t row) = 0;
  /// Adds the row of each ghost to that of its atom, in every process. The rows of ghosts are not read afterwards.
  virtual void reverse(float* rows, int64_t row) = 0;
  virtual void reverse(double* rows, int64_t row) = 0;
};

/// Atoms with a neighbour list. Units: Å.
struct EngineInput {
  int64_t n_atoms = 0;                  // rows of positions and species, ghosts included
  int64_t n_centers = 0;                // the first n_centers atoms have energies
  const double* positions = nullptr;    // [n_atoms, 3]
  const int32_t* species = nullptr;     // [n_atoms] index into the model's species; absent: not in the model
  const NeighborRow* rows = nullptr;    // [n_centers]
  int32_t index_bits = 0x7fffffff;      // bits of a neighbour that hold the atom index
  FeatureExchange* exchange = nullptr;  // models with several layers need one where neighbours are not centers
  // names species and rows: those of a call with the number of the call before are the same, and need not be checked nor
  // copied to a device again; 0: unknown
  int64_t list = 0;

  /// Species of an atom that the model leaves out: no energy, no forces, nobody's neighbour.
  static constexpr int32_t absent = -1;
};

/// Results, overwritten; eV, eV/Å. g_ij = dE/dr_ij is the derivative of the total energy by an edge of center i: that of
/// E_i in models with one layer, while in the others the edge also changes the energies of atoms that i or j sends messages
/// to. The virials sum to the total virial in all models.
struct EngineOutput {
  double* energies = nullptr;          // [n_centers]
  double* forces = nullptr;            // [n_atoms, 3]
  double* virials = nullptr;           // [n_centers, 3, 3] sum over j of r_ij (x) g_ij (not symmetrised), or null
  double* neighbor_virials = nullptr;  // [n_atoms, 3, 3] the same sum over i, by neighbour j; or null
  double* const* columns = nullptr;    // one [n_centers] or null for each of Engine::atom_columns(), or null
};

/// An energy or a force that is no finite number, or atoms closer than `shortest_distance`.
struct __attribute__((visibility("default"))) NonFiniteResult : std::runtime_error {
  std::string quantity;
  int64_t atom;

  NonFiniteResult(const char* what, int64_t number)
      : std::runtime_error(std::string("the ") + what + " of atom " + std::to_string(number) +
                           " is not finite: check for atoms on top of each other and for non-finite positions"),
        quantity(what),
        atom(number) {}
};

/// Number of devices that "cuda:N" may name; 0 without a GPU or without the CUDA library.
int cuda_device_count();
/// The N of "cuda:N", 0 of "cuda", -1 of "cpu". Throws std::invalid_argument for other names and where there is no such
/// device.
int device_number(const std::string& name);

struct EngineOptions {
  Precision precision = Precision::mixed;
  int threads = 1;
  std::string instruction_set = "auto";  // or baseline, avx2, avx512
  std::string device = "cpu";            // or cuda, cuda:1, ...
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
  std::string instruction_set() const;  // "cuda" on a device
  int n_layers() const;
  /// Length of the rows that FeatureExchange gets; 0 for models with one layer, which exchange nothing.
  int64_t feature_row() const;
  /// Names of the further numbers that each center has, see EngineOutput::columns: the symmetrised products before the
  /// readout (of the last layer), product_1, product_2, ...
  const std::vector<std::string>& atom_columns() const;

  /// Calls from several threads wait for each other. Throws std::invalid_argument for indices out of range and for
  /// neighbours without features (see EngineInput::exchange), NonFiniteResult.
  ///
  /// With n_layers() > 1 and an exchange, every call makes n_layers() - 1 forward and as many reverse exchanges, with no
  /// atoms too, and NonFiniteResult comes after the last. std::invalid_argument comes before the first: other processes
  /// would wait for this one, so a caller that shares the system with others must then end or release them all.
  void compute(const EngineInput& input, const EngineOutput& output);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tesseral
