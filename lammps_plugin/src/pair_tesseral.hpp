// pair_style tesseral and pair_style tesseral/torch: LAMMPS' conventions around a model.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "ghost_exchange.hpp"
#include "model.hpp"
#include "pair.h"
#include "units.hpp"

namespace LAMMPS_NS {

/// Everything but the opening of the model, which the two styles do in their own ways.
class PairTesseralBase : public Pair {
 public:
  PairTesseralBase(LAMMPS* lmp, const char* style);
  ~PairTesseralBase() override;

  void settings(int narg, char** arg) override;
  void coeff(int narg, char** arg) override;
  void init_style() override;
  void init_list(int id, NeighList* ptr) override;
  double init_one(int i, int j) override;
  void compute(int eflag, int vflag) override;
  void* extract(const char* name, int& dimension) override;
  void* extract_peratom(const char* name, int& columns) override;
  double memory_usage() override;

  // what LAMMPS calls within an exchange of features
  int pack_forward_comm(int n, int* atoms, double* buffer, int, int*) override {
    return exchange_.pack_forward(n, atoms, buffer);
  }
  void unpack_forward_comm(int n, int first, double* buffer) override { exchange_.unpack_forward(n, first, buffer); }
  int pack_reverse_comm(int n, int first, double* buffer) override { return exchange_.pack_reverse(n, first, buffer); }
  void unpack_reverse_comm(int n, int* atoms, double* buffer) override { exchange_.unpack_reverse(n, atoms, buffer); }

 protected:
  virtual std::unique_ptr<tesseral::Model> open(const std::string& path, const tesseral::ModelOptions& options) = 0;

 private:
  /// A per-atom number that `fix pair` reads.
  struct Column {
    std::vector<double> values;  // [nlocal]
    int trigger = 0;             // fix pair sets it before the steps on which it reads
  };

  const std::string style_;
  tesseral::ModelOptions options_;
  std::unique_ptr<tesseral::Model> model_;
  GhostExchange exchange_;
  std::string path_;
  tesseral::Units units_;
  std::vector<int32_t> species_of_type_;  // [ntypes+1]
  std::set<std::pair<int, int>> pairs_;   // of types that LAMMPS gave to this style
  std::map<std::string, Column> columns_;

  // working arrays, kept between steps
  std::vector<double> positions_;        // [n, 3] Å; only where LAMMPS' unit is another
  std::vector<int32_t> species_;         // [n]
  std::vector<int32_t> listed_species_;  // those that belong to list_number_
  int64_t list_number_ = 0;              // EngineInput::list
  std::vector<tesseral::NeighborRow> rows_;
  std::vector<double> energies_, forces_, virials_, neighbor_virials_;
  double total_virial_[9];
  std::vector<double*> column_pointers_;

  [[noreturn]] void fail(const std::string& what);
  [[noreturn]] void fail_on_this_rank(const std::string& what);
  std::string device_of_rank() const;
  void allocate();
  void clear_flags();
  bool in_model(int type_i, int type_j) const;
  bool any_in_model(int group_index) const;
  void prepare_exchange();
  void check_centroid_stress();
  void check_exclusions();
  void check_pairs();
  void check_special_neighbors();
  void leave_out_excluded_atoms();
  void map_types(int n_names, char** names);
  void print_summary() const;
  std::vector<std::string> column_names() const;

  tesseral::EngineInput gather();
  tesseral::EngineOutput prepare(const tesseral::EngineInput& input);
  void evaluate(const tesseral::EngineInput& input, const tesseral::EngineOutput& output);
  void add_energies(int n_local);
  void add_virial(const double* v, double* target) const;
  void add_atom_virials(int n_local);
  void add_neighbor_virials(int n_atoms);
};

/// The native engine.
class PairTesseral : public PairTesseralBase {
 public:
  explicit PairTesseral(LAMMPS* lmp) : PairTesseralBase(lmp, "tesseral") {}

 protected:
  std::unique_ptr<tesseral::Model> open(const std::string& path, const tesseral::ModelOptions& options) override;
};

/// The TorchScript program of a model file; libtorch is loaded when the style opens a model.
class PairTesseralTorch : public PairTesseralBase {
 public:
  explicit PairTesseralTorch(LAMMPS* lmp) : PairTesseralBase(lmp, "tesseral/torch") {}

 protected:
  std::unique_ptr<tesseral::Model> open(const std::string& path, const tesseral::ModelOptions& options) override;
};

}  // namespace LAMMPS_NS
