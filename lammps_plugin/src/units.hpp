// Units of LAMMPS that the pair styles know.
#pragma once

#include <cstring>

namespace tesseral {

/// What 1 Å and 1 eV are in LAMMPS' units; zero where the unit system is not supported.
struct Units {
  double length = 0;
  double energy = 0;
  const char* length_name = "";

  double force() const { return energy / length; }
};

/// CODATA 2018: e = 1.602176634e-19 C and N_A = 6.02214076e23/mol are exact, and so is 4184 J/kcal; Bohr radius
/// 0.529177210903 Å, Hartree 27.211386245988 eV.
inline Units units_of(const char* style) {
  constexpr double joule = 1.602176634e-19;
  if (std::strcmp(style, "metal") == 0) return {1.0, 1.0, "Angstrom"};
  if (std::strcmp(style, "real") == 0) return {1.0, joule * 6.02214076e23 / 4184.0, "Angstrom"};
  if (std::strcmp(style, "si") == 0) return {1e-10, joule, "m"};
  if (std::strcmp(style, "electron") == 0) return {1.0 / 0.529177210903, 1.0 / 27.211386245988, "Bohr"};
  return {};
}

}  // namespace tesseral
