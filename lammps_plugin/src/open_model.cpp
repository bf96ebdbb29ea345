// How the two pair styles open a model.
#include <dlfcn.h>

#include <stdexcept>

#include "model_path.hpp"
#include "native_model.hpp"
#include "pair_tesseral.hpp"

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

}  // namespace

std::unique_ptr<tesseral::Model> PairTesseral::open(const std::string& path, const tesseral::ModelOptions& options) {
  return std::make_unique<tesseral::NativeModel>(path, options);
}

std::unique_ptr<tesseral::Model> PairTesseralTorch::open(const std::string& path, const tesseral::ModelOptions& options) {
  return std::unique_ptr<tesseral::Model>(torch_opener()(path, options));
}

}  // namespace LAMMPS_NS
