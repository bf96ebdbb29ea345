#include "pair_tesseral.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <new>
#include <thread>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "group.h"
#include "keywords.hpp"
#include "memory.h"
#include "model_path.hpp"
#include "neigh_list.h"
#include "neighbor.h"
#include "update.h"
#include "utils.h"

using tesseral::EngineInput;
using tesseral::EngineOutput;

namespace LAMMPS_NS {
namespace {

const std::vector<std::string> keywords = {"precision", "threads", "device"};
const std::vector<std::string> precisions = {"float64", "float32", "mixed"};

/// The per-atom energy, which every model has.
const char* const energy_column = "energy";

/// LAMMPS' index of the group `all`.
constexpr int all_atoms = 0;

std::string quoted(const std::string& word) {
  return "'" + word + "'";
}

}  // namespace

PairTesseralBase::PairTesseralBase(LAMMPS* lmp, const char* style) : Pair(lmp), style_(style), exchange_(lmp, this) {
  single_enable = 0;
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  no_virial_fdotr_compute = 1;  // the model's own virial holds for any set of atoms and per atom
  centroidstressflag = CENTROID_AVAIL;
}

PairTesseralBase::~PairTesseralBase() {
  if (copymode || !allocated) return;
  memory->destroy(setflag);
  memory->destroy(cutsq);
}

void PairTesseralBase::fail(const std::string& what) {
  error->all(FLERR, "pair_style " + style_ + ": " + what);
}

/// An error that other ranks may not have. mpirun ends all ranks as soon as one aborts, and may lose what that one has
/// just printed: it gets time to pass the message on.
void PairTesseralBase::fail_on_this_rank(const std::string& what) {
  try {
    error->one(FLERR, what);
  } catch (...) {
    std::fflush(nullptr);
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    throw;
  }
}

void PairTesseralBase::settings(int narg, char** arg) {
  options_ = {};
  model_.reset();
  if (allocated) clear_flags();  // pair_coeff must be given again
  for (int n = 0; n < narg; n += 2) {
    const std::string keyword = arg[n];
    if (std::find(keywords.begin(), keywords.end(), keyword) == keywords.end()) {
      fail("unknown keyword " + quoted(keyword) + tesseral::nearest(keyword, keywords) +
           " (known: " + tesseral::joined(keywords) + ")");
    }
    if (n + 1 == narg) fail("keyword " + keyword + " needs a value");
    const std::string value = arg[n + 1];
    if (keyword == "precision") {
      if (std::find(precisions.begin(), precisions.end(), value) == precisions.end()) {
        fail("precision " + quoted(value) + " is unknown" + tesseral::nearest(value, precisions) +
             " (known: " + tesseral::joined(precisions) + ")");
      }
      options_.precision = value;
    } else if (keyword == "threads") {
      if (!utils::is_integer(value) || value.size() > 4 || std::stoi(value) < 1) {
        fail("threads must be a whole number from 1 to 9999, got " + quoted(value));
      }
      options_.threads = std::stoi(value);
    } else {
      if (value != "cpu" && value != "cuda" && value.rfind("cuda:", 0) != 0) {
        fail("device " + quoted(value) + " is unknown: choose cpu, cuda or cuda:N");
      }
      options_.device = value == "cuda" ? device_of_rank() : value;
    }
  }
}

/// One device for each rank of a node, or several ranks for each if there are more of them.
std::string PairTesseralBase::device_of_rank() const {
  MPI_Comm node;
  int rank = 0;
  MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  MPI_Comm_rank(node, &rank);
  MPI_Comm_free(&node);
  const int n_devices = tesseral::cuda_device_count();
  return "cuda:" + std::to_string(n_devices > 0 ? rank % n_devices : 0);
}

void PairTesseralBase::allocate() {
  const int n = atom->ntypes + 1;
  if (!allocated) {
    memory->create(setflag, n, n, "pair:setflag");
    memory->create(cutsq, n, n, "pair:cutsq");
  }
  allocated = 1;
  clear_flags();
}

void PairTesseralBase::clear_flags() {
  const int n = atom->ntypes + 1;
  std::fill(&setflag[0][0], &setflag[0][0] + n * n, 0);
}

void PairTesseralBase::coeff(int narg, char** arg) {
  if (narg < 4 || std::strcmp(arg[0], "*") != 0 || std::strcmp(arg[1], "*") != 0) {
    error->all(FLERR, "pair_coeff: " + style_ +
                          " needs `pair_coeff * * MODEL` and the name of an element or NULL for each atom type");
  }
  units_ = tesseral::units_of(update->unit_style);
  if (units_.energy == 0) {
    fail("units " + std::string(update->unit_style) + " have no eV: use units metal, real, si or electron");
  }
  model_.reset();
  if (allocated) clear_flags();
  path_ = utils::get_potential_file_path(arg[2]);
  if (!std::filesystem::is_regular_file(path_)) path_.clear();
  const auto shipped = tesseral::shipped_models();
  if (path_.empty() && std::find(shipped.begin(), shipped.end(), arg[2]) != shipped.end()) {
    path_ = tesseral::shipped_path(arg[2]);
  }
  std::string fault;
  if (path_.empty()) {
    fault = "pair_coeff: there is no model file " + quoted(arg[2]) +
            " here or in LAMMPS_POTENTIALS, and the shipped models are: " + tesseral::joined(shipped) +
            tesseral::nearest(arg[2], shipped);
  } else {
    try {
      model_ = open(path_, options_);
    } catch (const std::bad_alloc&) {
      fault = "pair_coeff: out of memory while reading " + path_;
    } catch (const std::exception& problem) {
      const std::string text = problem.what();
      fault = "pair_coeff: " + (text.find(path_) == std::string::npos ? path_ + ": " : "") + text;
    }
  }
  // The file may be missing on one node only: nobody goes on alone.
  const int mine = fault.empty() ? 0 : 1;
  int everywhere = 0;
  MPI_Allreduce(&mine, &everywhere, 1, MPI_INT, MPI_MIN, world);
  if (everywhere) error->all(FLERR, fault);
  if (mine) fail_on_this_rank(fault);

  allocate();
  map_types(narg - 3, arg + 3);
  if (comm->me == 0) print_summary();
}

void PairTesseralBase::map_types(int n_names, char** names) {
  const auto& known = model_->species();
  if (n_names != atom->ntypes) {
    error->all(FLERR, "pair_coeff: there are " + std::to_string(atom->ntypes) + " atom types but " +
                          std::to_string(n_names) + " element names: give one of " + tesseral::joined(known) +
                          " or NULL for each type, in the order of the types");
  }
  species_of_type_.assign(static_cast<std::size_t>(n_names) + 1, EngineInput::absent);
  bool any = false;
  for (int type = 1; type <= n_names; ++type) {
    const std::string name = names[type - 1];
    if (name == "NULL") continue;
    const auto found = std::find(known.begin(), known.end(), name);
    if (found == known.end()) {
      error->all(FLERR, "pair_coeff: type " + std::to_string(type) + " is mapped to " + quoted(name) + ", but " + path_ +
                            " knows " + tesseral::joined(known));
    }
    species_of_type_[static_cast<std::size_t>(type)] = static_cast<int32_t>(found - known.begin());
    any = true;
  }
  if (!any) error->all(FLERR, "pair_coeff: every atom type is mapped to NULL, so that the model has no atoms");
  // a hybrid style leaves the other pairs to its other styles; alone, they do not interact
  const bool hybrid = utils::strmatch(force->pair_style, "^hybrid");
  for (int i = 1; i <= n_names; ++i) {
    for (int j = i; j <= n_names; ++j) setflag[i][j] = !hybrid || in_model(i, j);
  }
}

void PairTesseralBase::init_style() {
  if (!force->newton_pair) fail("newton pair on is required: write `newton on` before the simulation box is created");
  if (units_.energy != tesseral::units_of(update->unit_style).energy) fail("the units changed: repeat pair_coeff");
  prepare_exchange();
  check_centroid_stress();
  check_exclusions();
  pairs_.clear();
  neighbor->add_request(this, NeighConst::REQ_FULL);
}

/// LAMMPS makes its buffers long enough for the pair style that it knows: in a hybrid that is not this one.
void PairTesseralBase::prepare_exchange() {
  comm_forward = comm_reverse = GhostExchange::width(model_->feature_row(), options_.bytes_per_feature());
  force->pair->comm_forward = std::max(force->pair->comm_forward, comm_forward);
  force->pair->comm_reverse = std::max(force->pair->comm_reverse, comm_reverse);
}

/// Whether atoms of both types are in the model.
bool PairTesseralBase::in_model(int type_i, int type_j) const {
  return species_of_type_[static_cast<std::size_t>(type_i)] != EngineInput::absent &&
         species_of_type_[static_cast<std::size_t>(type_j)] != EngineInput::absent;
}

/// Called for the pairs of types that are this style's.
double PairTesseralBase::init_one(int i, int j) {
  pairs_.insert({std::min(i, j), std::max(i, j)});
  return in_model(i, j) ? model_->cutoff() * units_.length : 0.0;
}

void PairTesseralBase::compute(int eflag, int vflag) {
  ev_init(eflag, vflag);
  if (neighbor->ago == 0) check_special_neighbors();
  const EngineInput input = gather();
  const EngineOutput output = prepare(input);
  evaluate(input, output);

  double** f = atom->f;
  for (int64_t i = 0; i < input.n_atoms; ++i) {
    for (int axis = 0; axis < 3; ++axis) f[i][axis] += units_.force() * forces_[static_cast<std::size_t>(3 * i + axis)];
  }
  add_energies(atom->nlocal);
  if (output.total_virial) add_virial(output.total_virial, virial);
  if (output.virials) add_atom_virials(atom->nlocal);
  if (output.neighbor_virials) add_neighbor_virials(static_cast<int>(input.n_atoms));
}

/// Atoms, ghosts behind them, and LAMMPS' neighbour list as the model takes them.
EngineInput PairTesseralBase::gather() {
  const int n_local = atom->nlocal, n_atoms = n_local + atom->nghost;
  const auto n = static_cast<std::size_t>(n_atoms);
  rows_.assign(static_cast<std::size_t>(n_local), {});
  species_.resize(n);
  for (std::size_t i = 0; i < n; ++i) species_[i] = species_of_type_[static_cast<std::size_t>(atom->type[i])];
  leave_out_excluded_atoms();
  for (int ii = 0; ii < list->inum; ++ii) {
    const int i = list->ilist[ii];
    rows_[static_cast<std::size_t>(i)] = {list->firstneigh[i], nullptr, list->numneigh[i]};
  }
  if (neighbor->ago == 0 || species_ != listed_species_) {
    listed_species_ = species_;
    ++list_number_;
  }
  const double* positions = n_atoms > 0 ? atom->x[0] : nullptr;
  if (units_.length != 1.0) {
    positions_.resize(3 * n);
    for (std::size_t k = 0; k < 3 * n; ++k) positions_[k] = positions[k] / units_.length;
    positions = positions_.data();
  }
  return {.n_atoms = n_atoms,
          .n_centers = n_local,
          .positions = positions,
          .species = species_.data(),
          .rows = rows_.data(),
          .index_bits = NEIGHMASK,
          .exchange = &exchange_,
          .list = list_number_};
}

/// Atoms that are excluded against all others are not there: fix gcmc takes out atoms in that way to try deletions.
void PairTesseralBase::leave_out_excluded_atoms() {
  int bits = 0;
  for (int n = 0; n < neighbor->nex_group; ++n) {
    const int one = neighbor->ex1_group[n], other = neighbor->ex2_group[n];
    if (one == all_atoms && other != all_atoms) bits |= group->bitmask[other];
    if (other == all_atoms && one != all_atoms) bits |= group->bitmask[one];
  }
  if (bits == 0) return;
  for (std::size_t i = 0; i < species_.size(); ++i) {
    if (atom->mask[i] & bits) species_[i] = EngineInput::absent;
  }
}

/// Room for the results that this step asks for.
EngineOutput PairTesseralBase::prepare(const EngineInput& input) {
  const auto n_centers = static_cast<std::size_t>(input.n_centers), n_atoms = static_cast<std::size_t>(input.n_atoms);
  energies_.resize(n_centers);
  forces_.resize(3 * n_atoms);
  EngineOutput output{.energies = energies_.data(), .forces = forces_.data()};
  if (vflag_global) output.total_virial = total_virial_;
  if (vflag_atom) {
    virials_.resize(9 * n_centers);
    output.virials = virials_.data();
  }
  if (cvflag_atom) {
    neighbor_virials_.resize(9 * n_atoms);
    output.neighbor_virials = neighbor_virials_.data();
  }
  const auto& names = model_->atom_columns();
  column_pointers_.assign(names.size(), nullptr);
  for (auto& [name, column] : columns_) {
    column.values.resize(std::max<std::size_t>(n_centers, 1));
    const auto found = std::find(names.begin(), names.end(), name);
    if (found != names.end()) column_pointers_[static_cast<std::size_t>(found - names.begin())] = column.values.data();
  }
  output.columns = column_pointers_.data();
  return output;
}

void PairTesseralBase::evaluate(const EngineInput& input, const EngineOutput& output) {
  try {
    model_->compute(input, output);
  } catch (const tesseral::NonFiniteResult& problem) {
    const double* x = atom->x[problem.atom];
    const std::string tag = atom->tag_enable ? " with ID " + std::to_string(atom->tag[problem.atom]) : "";
    // messages carry a fault to other atoms, whose rank may be the first to stop
    const char* where = model_->n_layers() > 1 ? " there or in the neighbourhood" : "";
    fail_on_this_rank(fmt::format(
        "pair_style {}: the {} of the atom{} at {:g} {:g} {:g} is not finite on step {}: check for atoms on top of "
        "each other{}, non-finite positions and too long a timestep",
        style_, problem.quantity, tag, x[0], x[1], x[2], update->ntimestep, where));
  } catch (const std::bad_alloc&) {
    fail_on_this_rank("pair_style " + style_ + ": out of memory; use more ranks on more nodes, or fewer atoms");
  } catch (const std::exception& problem) {
    fail_on_this_rank("pair_style " + style_ + ": " + problem.what());
  }
}

void PairTesseralBase::add_energies(int n_local) {
  for (int i = 0; i < n_local; ++i) {
    const double energy = units_.energy * energies_[static_cast<std::size_t>(i)];
    if (eflag_global) eng_vdwl += energy;
    if (eflag_atom) eatom[i] += energy;
  }
  const auto found = columns_.find(energy_column);
  if (found == columns_.end()) return;
  for (int i = 0; i < n_local; ++i) {
    found->second.values[static_cast<std::size_t>(i)] = units_.energy * energies_[static_cast<std::size_t>(i)];
  }
}

/// From the model's v [3, 3]. LAMMPS' virial is -dE/dstrain, in the order xx, yy, zz, xy, xz, yz.
void PairTesseralBase::add_virial(const double* v, double* target) const {
  const double w[6] = {v[0], v[4], v[8], 0.5 * (v[1] + v[3]), 0.5 * (v[2] + v[6]), 0.5 * (v[5] + v[7])};
  for (int n = 0; n < 6; ++n) target[n] -= units_.energy * w[n];
}

void PairTesseralBase::add_atom_virials(int n_local) {
  for (int i = 0; i < n_local; ++i) add_virial(virials_.data() + 9 * static_cast<std::size_t>(i), vatom[i]);
}

/// For the heat flux: sum_i r_ij (x) dE_i/dr_ij at the neighbour j, whose velocity it multiplies. Order xx, yy, zz, xy, xz,
/// yz, yx, zx, zy with the index of r first; ghosts' parts go home in compute centroid/stress/atom.
void PairTesseralBase::add_neighbor_virials(int n_atoms) {
  constexpr int order[9] = {0, 4, 8, 1, 2, 5, 3, 6, 7};
  for (int j = 0; j < n_atoms; ++j) {
    for (int n = 0; n < 9; ++n) {
      cvatom[j][n] -=
          units_.energy * neighbor_virials_[9 * static_cast<std::size_t>(j) + static_cast<std::size_t>(order[n])];
    }
  }
}

std::vector<std::string> PairTesseralBase::column_names() const {
  std::vector<std::string> names = {energy_column};
  if (model_) names.insert(names.end(), model_->atom_columns().begin(), model_->atom_columns().end());
  return names;
}

/// The trigger NAME_flag of a column, for fix pair. Columns that are read once are filled on every step, which costs
/// nothing; then readers with and without a trigger all find the present values.
void* PairTesseralBase::extract(const char* name, int& dimension) {
  const std::string word = name, ending = "_flag";
  if (word.size() <= ending.size() || word.substr(word.size() - ending.size()) != ending) return nullptr;
  const std::string column = word.substr(0, word.size() - ending.size());
  const auto names = column_names();
  if (std::find(names.begin(), names.end(), column) == names.end()) return nullptr;
  dimension = 0;
  return &columns_[column].trigger;
}

void* PairTesseralBase::extract_peratom(const char* name, int& n_columns) {
  n_columns = 0;
  const auto names = column_names();
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    fail("there is no per-atom output " + quoted(name) + tesseral::nearest(name, names) +
         (model_ ? "" : "; is pair_coeff missing?"));
  }
  // never null, which fix pair takes for an unknown name, and never shorter than what it reads
  std::vector<double>& values = columns_[name].values;
  values.resize(static_cast<std::size_t>(std::max(atom->nlocal, 1)));
  return values.data();
}

double PairTesseralBase::memory_usage() {
  std::size_t numbers =
      positions_.capacity() + energies_.capacity() + forces_.capacity() + virials_.capacity() + neighbor_virials_.capacity();
  for (const auto& [name, column] : columns_) numbers += column.values.capacity();
  return Pair::memory_usage() +
         static_cast<double>(8 * numbers + 4 * species_.capacity() + sizeof(rows_[0]) * rows_.capacity());
}

}  // namespace LAMMPS_NS
