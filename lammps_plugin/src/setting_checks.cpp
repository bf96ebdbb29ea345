// Checks of LAMMPS' settings that would give wrong numbers, and nothing else would show it: all neighbours must be left to
// the model, and nothing be asked for that it cannot give.
#include "atom.h"
#include "compute.h"
#include "force.h"
#include "group.h"
#include "modify.h"
#include "neighbor.h"
#include "pair_tesseral.hpp"

namespace LAMMPS_NS {

/// Edge gradients of the total energy belong to one center's energy in models with one layer only, and the heat flux needs
/// the part of each center.
void PairTesseralBase::check_centroid_stress() {
  const auto computes = modify->get_compute_by_style("^centroid/stress/atom");
  if (model_->n_layers() == 1 || computes.empty()) return;
  fail("compute " + std::string(computes[0]->id) +
       " of style centroid/stress/atom, and a heat flux by it, need a model with " + "one layer, but this one has " +
       std::to_string(model_->n_layers()) +
       ": messages make an atom's energy depend on more than its own neighbours; compute stress/atom is available");
}

/// `neigh_modify exclude` must not take away neighbours that the model needs.
void PairTesseralBase::check_exclusions() {
  bool excluded = false;
  for (int n = 0; n < neighbor->nex_type; ++n) excluded |= in_model(neighbor->ex1_type[n], neighbor->ex2_type[n]);
  for (int n = 0; n < neighbor->nex_group; ++n) {
    const bool first = any_in_model(neighbor->ex1_group[n]), second = any_in_model(neighbor->ex2_group[n]);
    excluded |= first && second;
  }
  for (int n = 0; n < neighbor->nex_mol; ++n) excluded |= any_in_model(neighbor->ex_mol_group[n]);
  if (excluded) {
    fail(
        "neigh_modify exclude takes neighbours away from atoms of the model, which would give wrong forces: remove it, and "
        "hold atoms with fix setforce or by leaving them out of the integration");
  }
}

/// Whether atoms of a group on any rank are in the model.
bool PairTesseralBase::any_in_model(int group_index) const {
  int mine = 0, anywhere = 0;
  for (int i = 0; i < atom->nlocal; ++i) {
    if ((atom->mask[i] & group->bitmask[group_index]) && in_model(atom->type[i], atom->type[i])) mine = 1;
  }
  MPI_Allreduce(&mine, &anywhere, 1, MPI_INT, MPI_MAX, world);
  return anywhere;
}

/// Pairs of the model's types that a hybrid style gave to another of its styles.
void PairTesseralBase::init_list(int id, NeighList* ptr) {
  Pair::init_list(id, ptr);
  check_pairs();
}

void PairTesseralBase::check_pairs() {
  for (int i = 1; i <= atom->ntypes; ++i) {
    for (int j = i; j <= atom->ntypes; ++j) {
      if (!in_model(i, j) || pairs_.count({i, j})) continue;
      const std::string pair = std::to_string(i) + " " + std::to_string(j);
      fail("a later pair_coeff gave the atom types " + pair +
           " to another style, but the model needs them to know its neighbours: map "
           "one of them to NULL, or use hybrid/overlay to add a style");
    }
  }
}

/// `special_bonds` must not take bonded atoms of the model out of each other's neighbourhoods. Some ranks may have none:
/// this is no collective.
void PairTesseralBase::check_special_neighbors() {
  const int* flag = neighbor->special_flag;  // 0: left out of the neighbour list
  if (atom->molecular == Atom::ATOMIC || (flag[1] && flag[2] && flag[3])) return;
  const char* remedy =
      " left out of the neighbour list by special_bonds, but the model needs all neighbours: write `special_bonds lj/coul 1 "
      "1 1`";
  if (atom->molecular == Atom::TEMPLATE) fail(std::string("bonded atoms of a molecule template are") + remedy);
  for (int i = 0; i < atom->nlocal; ++i) {
    if (!in_model(atom->type[i], atom->type[i])) continue;
    for (int k = 0; k < atom->nspecial[i][2]; ++k) {
      const int distance = k < atom->nspecial[i][0] ? 1 : k < atom->nspecial[i][1] ? 2 : 3;
      const int j = atom->map(atom->special[i][k]);
      if (flag[distance] == 0 && j >= 0 && in_model(atom->type[j], atom->type[j])) {
        fail_on_this_rank("pair_style " + style_ + ": the bonded atoms with IDs " + std::to_string(atom->tag[i]) + " and " +
                          std::to_string(atom->tag[j]) + " are" + remedy);
      }
    }
  }
}

}  // namespace LAMMPS_NS
