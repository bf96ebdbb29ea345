// How the two pair styles open a model, and what they say of it.
#include <dlfcn.h>

#include <stdexcept>

#include "model_path.hpp"
#include "native_model.hpp"
#include "pair_tesseral.hpp"
#include "tesseral/json.hpp"
#include "update.h"
#include "utils.h"

namespace LAMMPS_NS {
namespace {

/// The function that opens TorchScript models; loads libtorch at its first call.
tesseral::OpenModelFunction torch_opener() {
  const std::string path = tesseral::plugin_folder() + "/libtesseral_torchscript.so";
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    throw std::runtime_error(
        std::string("pair_style tesseral/torch cannot load its library (") + (reason ? reason : "no reason given") +
        "); it needs the torch version that Tesseral was built with: `pip install tesseral` again, or use "
        "pair_style tesseral, which needs no torch");
  }
  void* function = dlsym(library, "tesseral_open_torch_model");
  if (function == nullptr)
    throw std::runtime_error(path + " belongs to another version of Tesseral: install the package again");
  return reinterpret_cast<tesseral::OpenModelFunction>(function);
}

/// A text of the metadata, or "not stated".
std::string text_of(const tesseral::Json& metadata, const std::string& key) {
  const bool stated = metadata.has(key) && metadata.at(key).kind() == tesseral::Json::Kind::string;
  return stated && !metadata.at(key).text().empty() ? metadata.at(key).text() : "not stated";
}

}  // namespace

std::unique_ptr<tesseral::Model> PairTesseral::open(const std::string& path, const tesseral::ModelOptions& options) {
  return std::make_unique<tesseral::NativeModel>(path, options);
}

std::unique_ptr<tesseral::Model> PairTesseralTorch::open(const std::string& path, const tesseral::ModelOptions& options) {
  if (options.device != "cpu") {
    throw std::invalid_argument("pair_style tesseral/torch computes on the CPU only: write pair_style tesseral device cuda");
  }
  return std::unique_ptr<tesseral::Model>(torch_opener()(path, options));
}

void PairTesseralBase::print_summary() const {
  const tesseral::Json metadata = tesseral::Json::parse(model_->metadata());
  std::string text = "Tesseral model " + path_ + "\n";
  text += "  reference method: " + text_of(metadata, "reference_method") + "\n";
  text += "  " + model_->backend() + ", precision " + options_.precision +
          ", threads per rank: " + std::to_string(options_.threads) + "\n";
  text += "  layers: " + std::to_string(model_->n_layers()) +
          (model_->n_layers() > 1 ? ", with messages between atoms: ghosts get features from their ranks\n" : "\n");
  text += fmt::format("  cutoff: {:g} {} ({:g} Angstrom); 1 eV = {:.10g} in units {}\n", model_->cutoff() * units_.length,
                      units_.length_name, model_->cutoff(), units_.energy, update->unit_style);
  for (std::size_t type = 1; type < species_of_type_.size(); ++type) {
    const int32_t species = species_of_type_[type];
    text += "  atom type " + std::to_string(type) + ": " +
            (species == tesseral::EngineInput::absent ? "NULL, not in the model"
                                                      : model_->species()[static_cast<std::size_t>(species)]) +
            "\n";
  }
  utils::logmesg(lmp, text);
}

}  // namespace LAMMPS_NS
