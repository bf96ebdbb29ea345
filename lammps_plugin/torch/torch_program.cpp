#include "torch_program.hpp"

#include <ATen/Parallel.h>

#include <stdexcept>

#include "tesseral/json.hpp"

namespace tesseral {
namespace {

constexpr auto metadata_file = "metadata.json";

/// Parameters and buffers to the arithmetic's type; integers stay what they are. Only inputs are differentiated.
void convert_numbers(torch::jit::Module& module, torch::Dtype dtype) {
  for (auto tensor : module.parameters()) {
    if (tensor.is_floating_point()) tensor.set_data(tensor.detach().to(dtype));
    tensor.set_requires_grad(false);
  }
  for (auto tensor : module.buffers()) {
    if (tensor.is_floating_point()) tensor.set_data(tensor.to(dtype));
  }
}

}  // namespace

std::string reason(const std::exception& problem) {
  const auto* error = dynamic_cast<const c10::Error*>(&problem);
  std::string text = error ? error->what_without_backtrace() : problem.what();
  text.erase(text.find_last_not_of(" \n") + 1);
  return text.substr(text.find_last_of('\n') + 1);
}

TorchSettings::TorchSettings(int threads)
    : optimize_(torch::jit::getGraphExecutorOptimize()), threads_(at::get_num_threads()) {
  // Atoms come and go: a program specialised to their number would be compiled again and again.
  torch::jit::setGraphExecutorOptimize(false);
  if (threads_ != threads) at::set_num_threads(threads);
}

TorchSettings::~TorchSettings() {
  torch::jit::setGraphExecutorOptimize(optimize_);
  if (threads_ != at::get_num_threads()) at::set_num_threads(threads_);
}

TorchProgram::TorchProgram(const std::string& path, const ModelOptions& options)
    : path(path), dtype(options.precision == "float64" ? torch::kFloat64 : torch::kFloat32), threads(options.threads) {
  const TorchSettings settings(threads);
  torch::jit::ExtraFilesMap files{{metadata_file, ""}};
  try {
    module = torch::jit::load(path, torch::kCPU, files);
  } catch (const std::exception& problem) {
    throw std::runtime_error(path + " is no TorchScript model: " + reason(problem));
  }
  metadata = files.at(metadata_file);
  if (metadata.empty()) {
    throw std::runtime_error(path +
                             " has no metadata.json among its extra files: it must give species, cutoff and n_layers");
  }
  const Json values = Json::parse(metadata);
  for (const Json& name : values.at("species").items()) species.push_back(name.text());
  cutoff = values.at("cutoff").number();
  n_layers = values.at("n_layers").integer();
  if (n_layers < 1) throw std::runtime_error(path + ": n_layers is " + std::to_string(n_layers) + ", must be at least 1");
  convert_numbers(module, dtype);
  module.eval();
}

}  // namespace tesseral
