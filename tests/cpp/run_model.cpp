// Runs a model file as a C++ host without Python would: dlopen the operators, torch::jit::load, evaluate one dimer.
// usage: run_model <operator library> <model.pt>; prints the total energy and the first edge gradient.
#include <dlfcn.h>
#include <torch/script.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  if (!dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL)) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  auto model = torch::jit::load(argv[2]);
  const auto vectors = torch::tensor({0.1, 0.2, 1.3, -0.1, -0.2, -1.3}, torch::kFloat64).reshape({2, 3});
  const auto centers = torch::tensor({0, 1}, torch::kInt64), neighbors = torch::tensor({1, 0}, torch::kInt64);
  const auto species = torch::tensor({0, 1}, torch::kInt64);
  const auto result = model.forward({vectors, centers, neighbors, species}).toTuple();
  const auto energies = result->elements()[0].toTensor(), gradients = result->elements()[1].toTensor();
  const auto* g = gradients.const_data_ptr<double>();
  std::printf("%.15g %.15g %.15g %.15g\n", energies.sum().item<double>(), g[0], g[1], g[2]);
}
