// tesseral.kernel._engine: the native engine in Python, without torch.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <future>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "tesseral/common_trees.hpp"
#include "tesseral/cuda_library.hpp"
#include "tesseral/dispatch.hpp"
#include "tesseral/engine.hpp"
#include "tesseral/neighbor_rows.hpp"

namespace nb = nanobind;
using tesseral::Engine;
using tesseral::instruction_set_named;
using tesseral::InstructionSet;
using tesseral::kernels_for;
using tesseral::Precision;

namespace {

template <class T, class... Shape>
using Input = nb::ndarray<const T, Shape..., nb::c_contig, nb::device::cpu>;
using Vectors = Input<double, nb::shape<-1, 3>>;
using Cell = Input<double, nb::shape<3, 3>>;

Precision precision_of(const std::string& name) {
  if (name == "float32") return Precision::float32;
  if (name == "mixed") return Precision::mixed;
  if (name == "float64") return Precision::float64;
  throw std::invalid_argument("dtype '" + name + "' is unknown: choose float64, float32 or mixed");
}

/// New numpy array of that shape, not set: the threads of the engine that set it touch its pages first.
template <class T>
struct Output {
  T* data;
  nb::ndarray<nb::numpy, T> array;

  explicit Output(std::vector<size_t> shape) {
    size_t size = 1;
    for (size_t n : shape) size *= n;
    data = new T[size > 0 ? size : 1];
    array = nb::ndarray<nb::numpy, T>(data, shape.size(), shape.data(),
                                      nb::capsule(data, [](void* p) noexcept { delete[] static_cast<T*>(p); }));
  }
};

/// An exchange whose methods forward(rows) and reverse(rows) are Python's; rows is [n_atoms, row], to be changed in place.
class PythonExchange : public tesseral::FeatureExchange {
 public:
  PythonExchange(nb::object methods, size_t n_atoms) : methods_(std::move(methods)), n_atoms_(n_atoms) {}

  void forward(float* rows, int64_t row) override { call("forward", rows, row); }
  void forward(double* rows, int64_t row) override { call("forward", rows, row); }
  void reverse(float* rows, int64_t row) override { call("reverse", rows, row); }
  void reverse(double* rows, int64_t row) override { call("reverse", rows, row); }

 private:
  nb::object methods_;
  size_t n_atoms_;

  template <class T>
  void call(const char* method, T* rows, int64_t row) {
    const nb::gil_scoped_acquire acquire;
    const size_t shape[2] = {n_atoms_, static_cast<size_t>(row)};
    methods_.attr(method)(nb::ndarray<nb::numpy, T>(rows, 2, shape, nb::handle()).cast(nb::rv_policy::reference));
  }
};

void check_length(size_t length, size_t expected, const char* name) {
  if (length == expected) return;
  throw std::invalid_argument("Engine.compute: " + std::string(name) + " has length " + std::to_string(length) +
                              ", expected " + std::to_string(expected));
}

/// The rows of a neighbour list in CSR form; shifts may be null.
std::vector<tesseral::NeighborRow> neighbor_rows(const Input<int64_t, nb::ndim<1>>& first, const int32_t* neighbors,
                                                 const double* shifts) {
  const int64_t* bounds = first.data();
  std::vector<tesseral::NeighborRow> rows(first.shape(0) - 1);
  if (bounds[0] != 0) throw std::invalid_argument("Engine.compute: first[0] must be 0");
  for (size_t i = 0; i < rows.size(); ++i) {
    if (bounds[i] > bounds[i + 1]) {
      throw std::invalid_argument("Engine.compute: first must not decrease, but does after atom " + std::to_string(i));
    }
    rows[i].neighbors = neighbors + bounds[i];
    rows[i].shifts = shifts == nullptr ? nullptr : shifts + 3 * bounds[i];
    rows[i].count = static_cast<int32_t>(bounds[i + 1] - bounds[i]);
  }
  return rows;
}

nb::tuple compute(Engine& engine, Vectors positions, Input<int32_t, nb::ndim<1>> species,
                  std::optional<Input<int64_t, nb::ndim<1>>> first, std::optional<Input<int32_t, nb::ndim<1>>> neighbors,
                  std::optional<Vectors> shifts, nb::object exchange,
                  std::optional<nb::ndarray<double, nb::shape<-1, 3, 3>, nb::c_contig, nb::device::cpu>> neighbor_virials,
                  bool atom_virials, int64_t list) {
  const size_t n_atoms = positions.shape(0);
  check_length(species.shape(0), n_atoms, "species");
  if (first.has_value() != neighbors.has_value() || (shifts && !first)) {
    throw std::invalid_argument("Engine.compute: first, neighbors and shifts belong together");
  }
  size_t n_centers = n_atoms;
  std::vector<tesseral::NeighborRow> rows;
  if (first) {
    if (first->shape(0) == 0) throw std::invalid_argument("Engine.compute: first is empty, expected n_centers + 1 offsets");
    n_centers = first->shape(0) - 1;
    const auto n_edges = static_cast<size_t>(first->data()[n_centers]);
    check_length(neighbors->shape(0), n_edges, "neighbors");
    if (shifts) check_length(shifts->shape(0), n_edges, "shifts");
    rows = neighbor_rows(*first, neighbors->data(), shifts ? shifts->data() : nullptr);
  }
  if (neighbor_virials) check_length(neighbor_virials->shape(0), n_atoms, "neighbor_virials");
  Output<double> energies({n_centers}), forces({n_atoms, 3});
  Output<double> virials(atom_virials ? std::vector<size_t>{n_centers, 3, 3} : std::vector<size_t>{3, 3});
  PythonExchange python_exchange(exchange, n_atoms);
  const tesseral::EngineInput input{
      .n_atoms = static_cast<int64_t>(n_atoms),
      .n_centers = static_cast<int64_t>(n_centers),
      .positions = positions.data(),
      .species = species.data(),
      .rows = first ? rows.data() : nullptr,
      .exchange = exchange.is_none() ? nullptr : &python_exchange,
      .list = list,
  };
  {
    const nb::gil_scoped_release release;
    engine.compute(input, {.energies = energies.data,
                           .forces = forces.data,
                           .virials = atom_virials ? virials.data : nullptr,
                           .neighbor_virials = neighbor_virials ? neighbor_virials->data() : nullptr,
                           .total_virial = atom_virials ? nullptr : virials.data});
  }
  return nb::make_tuple(energies.array, forces.array, virials.array);
}

/// Several configurations of one system, which share a neighbour list.
nb::tuple compute_batch(Engine& engine, Input<double, nb::shape<-1, -1, 3>> positions, Input<int32_t, nb::ndim<1>> species,
                        Input<int64_t, nb::ndim<1>> first, Input<int32_t, nb::ndim<1>> neighbors,
                        std::optional<Vectors> shifts, int64_t list) {
  const size_t n_batch = positions.shape(0), n_atoms = positions.shape(1);
  check_length(species.shape(0), n_atoms, "species");
  check_length(first.shape(0), n_atoms + 1, "first");
  const auto n_edges = static_cast<size_t>(first.data()[n_atoms]);
  check_length(neighbors.shape(0), n_edges, "neighbors");
  if (shifts) check_length(shifts->shape(0), n_edges, "shifts");
  if (n_batch * n_atoms > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    throw std::invalid_argument("Engine.compute_batch: " + std::to_string(n_batch * n_atoms) +
                                " atoms are too many for one call");
  }
  std::vector<tesseral::NeighborRow> rows = neighbor_rows(first, neighbors.data(), shifts ? shifts->data() : nullptr);
  std::vector<int32_t> all_species(species.data(), species.data() + n_atoms);
  rows.resize(n_batch * n_atoms);
  all_species.resize(n_batch * n_atoms);
  for (size_t i = n_atoms; i < n_batch * n_atoms; ++i) {
    rows[i] = rows[i - n_atoms];
    rows[i].first_atom += static_cast<int32_t>(n_atoms);
    all_species[i] = all_species[i - n_atoms];
  }
  Output<double> energies({n_batch, n_atoms}), forces({n_batch, n_atoms, 3}), virials({n_batch, n_atoms, 3, 3});
  const tesseral::EngineInput input{
      .n_atoms = static_cast<int64_t>(n_batch * n_atoms),
      .n_centers = static_cast<int64_t>(n_batch * n_atoms),
      .positions = positions.data(),
      .species = all_species.data(),
      .rows = rows.data(),
      .list = list,
  };
  {
    const nb::gil_scoped_release release;
    engine.compute(input, {.energies = energies.data, .forces = forces.data, .virials = virials.data});
  }
  return nb::make_tuple(energies.array, forces.array, virials.array);
}

/// Addresses of a device are whole numbers in Python.
template <class T>
uintptr_t address(const T* pointer) {
  return reinterpret_cast<uintptr_t>(pointer);
}

nb::tuple upload_points(Engine& engine, Vectors positions, Cell cell) {
  tesseral::DevicePoints points;
  {
    const nb::gil_scoped_release release;
    points = engine.upload_points(static_cast<int64_t>(positions.shape(0)), positions.data(), cell.data());
  }
  return nb::make_tuple(address(points.positions), address(points.cell), address(points.periodic));
}

void set_list(Engine& engine, int64_t n_atoms, int64_t n_pairs, uintptr_t pairs, uintptr_t cell_shifts, Cell cell) {
  if (n_atoms < 0 || n_pairs < 0 || (n_pairs > 0 && (pairs == 0 || cell_shifts == 0))) {
    throw std::invalid_argument("Engine.set_list: n_atoms and n_pairs must not be negative, nor addresses of pairs be 0");
  }
  const tesseral::DevicePairs found{n_pairs, reinterpret_cast<const uint64_t*>(pairs),
                                    reinterpret_cast<const int32_t*>(cell_shifts)};
  const nb::gil_scoped_release release;
  engine.set_list(n_atoms, found, cell.data());
}

nb::tuple rows_of_pairs(int64_t n_atoms, int64_t n_pairs, uintptr_t pairs, uintptr_t cell_shifts) {
  if (n_atoms < 0 || n_pairs < 0 || (n_pairs > 0 && (pairs == 0 || cell_shifts == 0))) {
    throw std::invalid_argument("rows_of_pairs: n_atoms and n_pairs must not be negative, nor addresses of pairs be 0");
  }
  if (n_atoms > std::numeric_limits<int32_t>::max()) {
    throw std::invalid_argument("rows_of_pairs: " + std::to_string(n_atoms) + " atoms are too many for one list");
  }
  const auto n_edges = static_cast<size_t>(2 * n_pairs);
  Output<int64_t> first({static_cast<size_t>(n_atoms) + 1});
  Output<int32_t> neighbors({n_edges}), shifts({n_edges, 3});
  {
    const nb::gil_scoped_release release;
    const tesseral::FoundPairs found{n_pairs, reinterpret_cast<const uint64_t*>(pairs),
                                     reinterpret_cast<const int32_t*>(cell_shifts)};
    tesseral::rows_of_pairs(n_atoms, found, first.data, neighbors.data, shifts.data);
  }
  return nb::make_tuple(first.array, neighbors.array, shifts.array);
}

nb::ndarray<nb::numpy, double> cartesian_shifts(Input<int32_t, nb::shape<-1, 3>> cell_shifts, Cell cell) {
  Output<double> shifts({cell_shifts.shape(0), 3});
  {
    const nb::gil_scoped_release release;
    tesseral::cartesian_shifts(static_cast<int64_t>(cell_shifts.shape(0)), cell_shifts.data(), cell.data(), shifts.data);
  }
  return shifts.array;
}

int common_tree(Input<int32_t, nb::shape<-1, 3>> tree, Input<int32_t, nb::ndim<1>> roots) {
  std::vector<tesseral::TreeNode> nodes;
  for (size_t n = 0; n < tree.shape(0); ++n) {
    const int32_t* row = tree.data() + 3 * n;
    nodes.push_back({row[0], row[1], row[2]});
  }
  return tesseral::common_tree(nodes, {roots.data(), roots.data() + roots.shape(0)});
}

}  // namespace

NB_MODULE(_engine, module) {
  nb::set_leak_warnings(false);  // a host program that ends by an error keeps its engines; that is no leak
  module.doc() = "The native engine: energies, forces and virials of a model file, without torch.";
  nb::class_<Engine>(module, "Engine")
      .def(
          "__init__",
          [](Engine* self, const std::string& path, const std::string& dtype, int threads, const std::string& instructions,
             const std::string& device) { new (self) Engine(path, {precision_of(dtype), threads, instructions, device}); },
          nb::arg("path"), nb::arg("dtype") = "mixed", nb::arg("threads") = 1, nb::arg("instruction_set") = "auto",
          nb::arg("device") = "cpu",
          "Read a model file. dtype: float64, float32 or mixed (float32 arithmetic, float64 sums); instruction_set: auto,\n"
          "baseline, avx2 or avx512; device: cpu, cuda or cuda:N. Raises RuntimeError naming the file and its fault, "
          "ValueError\n"
          "for the other arguments.")
      .def_prop_ro("cutoff", &Engine::cutoff, "Cutoff in Å.")
      .def_prop_ro("species", &Engine::species, "Element symbols in the order of the species indices.")
      .def_prop_ro("metadata", &Engine::metadata, "The model's metadata as JSON text.")
      .def_prop_ro("n_layers", &Engine::n_layers, "Layers of the model; 1 for local models.")
      .def_prop_ro("feature_row", &Engine::feature_row, "Length of the rows that an exchange gets; 0 for one layer.")
      .def_prop_ro("instruction_set", &Engine::instruction_set, "Instruction set in use: avx512, avx2 or baseline.")
      .def(
          "compute", &compute, nb::arg("positions"), nb::arg("species"), nb::arg("first").none(),
          nb::arg("neighbors").none(), nb::arg("shifts").none(), nb::arg("exchange").none() = nb::none(),
          nb::arg("neighbor_virials").none() = nb::none(), nb::arg("atom_virials") = true, nb::arg("list") = 0,
          "Energies [n_centers] (eV), forces [n_atoms, 3] (eV/Å) and virials [n_centers, 3, 3] (eV; sum over neighbours of\n"
          "r_ij (x) dE/dr_ij) for positions [n_atoms, 3] (Å), species [n_atoms] int32 and a neighbour list in CSR form:\n"
          "first [n_centers+1] int64, neighbors [E] int32, shifts [E, 3] (Å, added to r_j - r_i; None: none). Edges beyond "
          "the\n"
          "cutoff are ignored. A model with several layers needs the features of every neighbour: where some are not\n"
          "centers, `exchange` has methods forward(rows), which copies the rows of centers to their ghosts, and\n"
          "reverse(rows), which adds those of ghosts to their centers; rows [n_atoms, feature_row] is changed in place,\n"
          "n_layers - 1 times by each. neighbor_virials [n_atoms, 3, 3], where given, is set to the virials by neighbour.\n"
          "Without atom_virials their sum [3, 3] takes the place of the virials: from a device fewer numbers come back.\n"
          "A `list` other than 0 says that species and neighbour list are those of the call before with the same number:\n"
          "they are not checked again, and a device keeps them. With None for first, neighbors and shifts the list is that\n"
          "of `set_list`; all atoms are centers.\n"
          "Raises ValueError for indices out of range and for neighbours without features,\n"
          "RuntimeError naming the atom for non-finite results.")
      .def("compute_batch", &compute_batch, nb::arg("positions"), nb::arg("species"), nb::arg("first"), nb::arg("neighbors"),
           nb::arg("shifts").none(), nb::arg("list") = 0,
           "Energies [B, N], forces [B, N, 3] and virials [B, N, 3, 3] of B configurations of one system that share a\n"
           "neighbour list, such as the beads of a path integral: positions [B, N, 3], the other arguments as in `compute`\n"
           "with N centers, `list` also saying that B is the same. Errors as in `compute`; atoms are counted through all "
           "configurations.")
      .def("upload_points", &upload_points, nb::arg("positions"), nb::arg("cell"),
           "Copy positions [N, 3] and a cell [3, 3] to the engine's device, for a search of pairs there. Returns the\n"
           "addresses of both and of three bools that are true, valid until the next call. Raises ValueError without a\n"
           "device, RuntimeError for its faults.")
      .def(
          "set_list", &set_list, nb::arg("n_atoms"), nb::arg("n_pairs"), nb::arg("pairs"), nb::arg("cell_shifts"),
          nb::arg("cell"),
          "Make pairs on the device the neighbour list of `compute` without first, neighbors and shifts, until it is given\n"
          "some: addresses of pairs [n_pairs, 2] uint64 (each in both directions, in any order) and of cell shifts S\n"
          "[n_pairs, 3] int32 with r_ij = r_j - r_i + S @ cell. They may be freed afterwards. `list` must then be another\n"
          "number than before. Errors as in `upload_points`.")
      .def(
          "set_cell", [](Engine& engine, Cell cell) { engine.set_cell(cell.data()); }, nb::arg("cell"),
          "Give the list of `set_list` the shifts of another cell; its number stays. Errors as in `upload_points`.")
      .def_prop_ro(
          "graph_use",
          [](const Engine& engine) {
            const tesseral::GraphUse use = engine.graph_use();
            return std::pair(use.calls, use.failure);
          },
          "How many calls were given to the device as one CUDA graph, and why CUDA refused to make one ('' if it did not).")
      .def("start_profile", &Engine::start_profile,
           "Let the following calls be timed kernel by kernel. Raises ValueError on the processor.")
      .def(
          "take_profile",
          [](Engine& engine) {
            std::vector<std::tuple<std::string, int64_t, double>> rows;
            for (const tesseral::ProfileRow& row : engine.take_profile())
              rows.emplace_back(row.name, row.calls, row.seconds);
            return rows;
          },
          "End that, and return the times: rows (what, number of launches, copies or fills, seconds on the device).");
  module.def(
      "rows_of_pairs", &rows_of_pairs, nb::arg("n_atoms"), nb::arg("n_pairs"), nb::arg("pairs"), nb::arg("cell_shifts"),
      "A full neighbour list from addresses of pairs [n_pairs, 2] uint64 and their cell shifts S [n_pairs, 3] int32 with\n"
      "r_ij = r_j - r_i + S @ cell, each pair in one direction, in any order: first [n_atoms+1] int64, neighbors [E] "
      "int32,\n"
      "cell shifts [E, 3] int32, by center and then by neighbour. Raises ValueError for atoms that do not exist.");
  module.def("cartesian_shifts", &cartesian_shifts, nb::arg("cell_shifts"), nb::arg("cell"),
             "S @ cell [E, 3] in Å for cell shifts S [E, 3] int32 and lattice vectors as rows [3, 3].");
  module.def("common_tree", &common_tree, nb::arg("tree"), nb::arg("roots"),
             "Number of the product's tree [n_nodes, 3] with these roots among those that the compiler knows, or -1.");
  module.def("use_cuda_library", &tesseral::use_cuda_library, nb::arg("path"),
             "Let device cuda be the library at this path, for tests of one that is compiled for the processor.");
  module.def(
      "multiply_adds_per_second",
      [](const std::string& dtype, const std::string& instructions) {
        if (instructions.rfind("cuda", 0) == 0) {
          const int device = tesseral::device_number(instructions);
          const tesseral::CudaLibrary& library = tesseral::cuda_library();
          const bool wide = precision_of(dtype) == Precision::float64;
          const auto measure = [&] {
            library.use(device, nullptr);
            return wide ? library.kernels_float64->multiply_adds_per_second()
                        : library.kernels_float32->multiply_adds_per_second();
          };
          return std::async(std::launch::async, measure).get();  // this thread stays on its device
        }
        const InstructionSet set = instruction_set_named(instructions);
        return precision_of(dtype) == Precision::float64 ? kernels_for<double>(set).multiply_adds_per_second()
                                                         : kernels_for<float>(set).multiply_adds_per_second();
      },
      nb::arg("dtype") = "float32", nb::arg("instruction_set") = "auto",
      "Multiply-adds per second of one core in registers, or with cuda or cuda:N of a GPU, in the arithmetic of a dtype\n"
      "(mixed: float32); takes 0.1 s. Raises ValueError for what does not exist or is not available here.");
  module.def(
      "device_memory_used",
      [](const std::string& device) {
        const int number = tesseral::device_number(device);
        if (number < 0) throw std::invalid_argument("device cpu has no memory of its own");
        return tesseral::cuda_library().memory_used(number);
      },
      nb::arg("device"), "Bytes taken of the memory of device cuda or cuda:N. Raises ValueError where there is none.");
  module.def(
      "device_bytes_per_second",
      [](const std::string& device) {
        const int number = tesseral::device_number(device);
        if (number < 0) throw std::invalid_argument("device cpu: only a GPU's memory is measured");
        return tesseral::cuda_library().bytes_per_second(number);
      },
      nb::arg("device"),
      "Bytes per second that a copy within the memory of device cuda or cuda:N reads and writes; takes 0.1 s. Raises "
      "ValueError\n"
      "where there is none.");
}
