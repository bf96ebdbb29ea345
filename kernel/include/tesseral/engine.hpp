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

/// Pairs of atoms in the memory of a device, as a search there leaves them.
struct DevicePairs {
  int64_t n_pairs = 0;
  const uint64_t* atoms = nullptr;       // [n_pairs, 2] center and neighbour; each pair in both directions, in any order
  const int32_t* cell_shifts = nullptr;  // [n_pairs, 3] S in r_ij = r_j - r_i + S @ cell
};

/// What such a search reads, in the memory of the device.
struct DevicePoints {
  const double* positions = nullptr;  // [n_atoms, 3]
  const double* cell = nullptr;       // [3, 3] lattice vectors as rows
  const bool* periodic = nullptr;     // [3] all true
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
  const NeighborRow* rows = nullptr;    // [n_centers]; null: the list of Engine::set_list, where all atoms are centers
  int32_t index_bits = all_index_bits;  // bits of a neighbour that hold the atom index
  FeatureExchange* exchange = nullptr;  // models with several layers need one where neighbours are not centers
  // names species and rows: those of a call with the number of the call before are the same, and need not be checked nor
  // copied to a device again; 0: unknown
  int64_t list = 0;

  /// Species of an atom that the model leaves out: no energy, no forces, nobody's neighbour.
  static constexpr int32_t absent = -1;
  static constexpr int32_t all_index_bits = 0x7fffffff;
};

/// Results, overwritten; eV, eV/Å. g_ij = dE/dr_ij is the derivative of the total energy by an edge of center i: that of
/// E_i in models with one layer, while in the others the edge also changes the energies of atoms that i or j sends messages
/// to. The virials sum to the total virial in all models.
struct EngineOutput {
  double* energies = nullptr;          // [n_centers]
  double* forces = nullptr;            // [n_atoms, 3]
  double* virials = nullptr;           // [n_centers, 3, 3] sum over j of r_ij (x) g_ij (not symmetrised), or null
  double* neighbor_virials = nullptr;  // [n_atoms, 3, 3] the same sum over i, by neighbour j; or null
  double* total_virial = nullptr;      // [3, 3] sum of the virials of the centers, or null
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

/// What a device was given as CUDA graphs: one launch for all kernels and copies of a call. Calls whose neighbour list
/// (EngineInput::list), sizes and wanted results are those of the call before go this way, unless features are exchanged.
struct GraphUse {
  int64_t calls = 0;    // that were one launch
  std::string failure;  // why CUDA refused a graph, since when there are none; or empty
};

/// How long a device has worked at something.
struct ProfileRow {
  std::string name;
  int64_t calls;  // launches of kernels, copies or fills
  double seconds;
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

  /// For neighbour lists that are searched on the engine's device and never seen by the processor. Without a device they
  /// throw std::invalid_argument; std::runtime_error for a fault of the device.
  ///
  /// Copies positions [n_atoms, 3] and a cell [3, 3] to the device; what it returns is valid until the next call. The
  /// calling thread works on the engine's device from then on, so that a search does, until set_list or compute.
  DevicePoints upload_points(int64_t n_atoms, const double* positions, const double* cell);
  /// Makes pairs of n_atoms atoms, which may be freed afterwards, the list of calls without EngineInput::rows, until a call
  /// has rows; rows in ascending order of neighbours and shifts, whatever the order of the pairs. Such a call's number
  /// (EngineInput::list) must be another than before. Lattice vectors of directions that are not periodic may be zero.
  void set_list(int64_t n_atoms, const DevicePairs& pairs, const double* cell);
  /// Gives that list the shifts of another cell; its number stays.
  void set_cell(const double* cell);

  /// Nothing on the processor.
  GraphUse graph_use() const;
  /// The calls of `compute` from here on are timed, kernel by kernel (and launched one by one), until take_profile gives the
  /// times. Throws std::invalid_argument on the processor.
  void start_profile();
  std::vector<ProfileRow> take_profile();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tesseral
