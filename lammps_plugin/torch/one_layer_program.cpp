#include "one_layer_program.hpp"

#include <algorithm>

namespace tesseral {

OneLayerProgram::OneLayerProgram(TorchProgram program) : TorchModel(std::move(program)) {
  species_ = {0};
  probe("forward(vectors, centers, neighbors, species) -> (energies, gradients[, columns])", [&] {
    for (const auto& column : call().second) columns_.push_back(column.key());
    TORCH_CHECK(std::count(columns_.begin(), columns_.end(), "energy") == 0,
                "the name energy is taken by the energy of an atom; give the column another name");
    evaluate();
  });
}

/// The program's atoms are the centers and, behind them, one atom of each species that stands for all ghosts of that
/// species: a model of one layer sees of a neighbour its species and the edge.
TorchModel::Results OneLayerProgram::run(const EngineInput& input) {
  const int64_t n_centers = input.n_centers;
  const std::size_t n_species = program_.species.size();
  species_.resize(static_cast<std::size_t>(n_centers) + n_species);
  for (int64_t i = 0; i < n_centers; ++i) species_[static_cast<std::size_t>(i)] = std::max(input.species[i], 0);
  for (std::size_t s = 0; s < n_species; ++s) {
    species_[static_cast<std::size_t>(n_centers) + s] = static_cast<int64_t>(s);
  }
  neighbors_.clear();
  for (const int64_t j : edges_.neighbors) neighbors_.push_back(j < n_centers ? j : n_centers + input.species[j]);
  return evaluate();
}

std::pair<c10::intrusive_ptr<c10::ivalue::Tuple>, OneLayerProgram::Columns> OneLayerProgram::call() {
  const torch::jit::IValue value =
      program_.module.forward({edge_vectors(), indices(edges_.centers), indices(neighbors_), indices(species_)});
  TORCH_CHECK(value.isTuple() && value.toTupleRef().elements().size() >= 2, "it returns ", value.tagKind(),
              ", not a tuple of at least energies and gradients");
  const auto answer = value.toTuple();
  Columns columns;
  if (answer->elements().size() > 2)
    columns = c10::impl::toTypedDict<std::string, torch::Tensor>(answer->elements()[2].toGenericDict());
  return {answer, columns};
}

TorchModel::Results OneLayerProgram::evaluate() {
  const auto n_atoms = static_cast<int64_t>(species_.size());
  const auto [answer, columns] = call();
  Results results{on_cpu(answer->elements()[0].toTensor(), {n_atoms}, "energies"),
                  on_cpu(answer->elements()[1].toTensor(), {edges_.size(), 3}, "gradients"),
                  {}};
  for (const std::string& name : columns_) results.columns.push_back(on_cpu(columns.at(name), {n_atoms}, name.c_str()));
  return results;
}

}  // namespace tesseral
