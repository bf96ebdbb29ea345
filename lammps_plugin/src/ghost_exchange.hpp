// Features of atoms on their way to ghosts and back, by LAMMPS' communication between ranks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tesseral/engine.hpp"

namespace LAMMPS_NS {

class LAMMPS;
class Pair;

/// Starts a pair style's communication of per-atom rows and serves what LAMMPS calls in it: the four functions pack and
/// unpack. Every rank must call the exchange equally often, with no atoms too. The buffers of LAMMPS hold float64; float32
/// rows travel two numbers in the place of one.
class GhostExchange : public tesseral::FeatureExchange {
 public:
  GhostExchange(LAMMPS* lmp, Pair* pair) : lmp_(lmp), pair_(pair) {}

  /// The pair style's comm_forward and comm_reverse: places in LAMMPS' buffers of a row of numbers of so many bytes.
  static int width(int64_t row, std::size_t bytes_per_number);

  void forward(float* rows, int64_t row) override;
  void forward(double* rows, int64_t row) override;
  void reverse(float* rows, int64_t row) override;
  void reverse(double* rows, int64_t row) override;

  int pack_forward(int n, const int* atoms, double* buffer) const;
  void unpack_forward(int n, int first, const double* buffer);
  int pack_reverse(int n, int first, double* buffer) const;
  void unpack_reverse(int n, const int* atoms, const double* buffer);

 private:
  LAMMPS* lmp_;
  Pair* pair_;
  // the exchange under way
  std::byte* rows_ = nullptr;
  std::size_t row_bytes_ = 0;
  int width_ = 0;
  bool single_ = false;  // float32

  template <class Number>
  void start(Number* rows, int64_t row);
  template <class Number>
  void add(int n, const int* atoms, const double* buffer);
  std::byte* row_of(int atom) const { return rows_ + row_bytes_ * static_cast<std::size_t>(atom); }
};

}  // namespace LAMMPS_NS
