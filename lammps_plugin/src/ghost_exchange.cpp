#include "ghost_exchange.hpp"

#include <cstring>
#include <type_traits>

#include "comm.h"
#include "lammps.h"
#include "pair.h"

namespace LAMMPS_NS {

int GhostExchange::width(int64_t row, std::size_t bytes_per_number) {
  const std::size_t bytes = static_cast<std::size_t>(row) * bytes_per_number;
  return static_cast<int>((bytes + sizeof(double) - 1) / sizeof(double));
}

template <class Number>
void GhostExchange::start(Number* rows, int64_t row) {
  rows_ = reinterpret_cast<std::byte*>(rows);
  row_bytes_ = static_cast<std::size_t>(row) * sizeof(Number);
  width_ = width(row, sizeof(Number));
  single_ = std::is_same_v<Number, float>;
}

void GhostExchange::forward(float* rows, int64_t row) {
  start(rows, row);
  lmp_->comm->forward_comm(pair_, width_);
}

void GhostExchange::forward(double* rows, int64_t row) {
  start(rows, row);
  lmp_->comm->forward_comm(pair_, width_);
}

void GhostExchange::reverse(float* rows, int64_t row) {
  start(rows, row);
  lmp_->comm->reverse_comm(pair_, width_);
}

void GhostExchange::reverse(double* rows, int64_t row) {
  start(rows, row);
  lmp_->comm->reverse_comm(pair_, width_);
}

int GhostExchange::pack_forward(int n, const int* atoms, double* buffer) const {
  for (int k = 0; k < n; ++k, buffer += width_) std::memcpy(buffer, row_of(atoms[k]), row_bytes_);
  return n * width_;
}

void GhostExchange::unpack_forward(int n, int first, const double* buffer) {
  for (int k = 0; k < n; ++k, buffer += width_) std::memcpy(row_of(first + k), buffer, row_bytes_);
}

int GhostExchange::pack_reverse(int n, int first, double* buffer) const {
  for (int k = 0; k < n; ++k, buffer += width_) std::memcpy(buffer, row_of(first + k), row_bytes_);
  return n * width_;
}

void GhostExchange::unpack_reverse(int n, const int* atoms, const double* buffer) {
  single_ ? add<float>(n, atoms, buffer) : add<double>(n, atoms, buffer);
}

template <class Number>
void GhostExchange::add(int n, const int* atoms, const double* buffer) {
  const std::size_t numbers = row_bytes_ / sizeof(Number);
  for (int k = 0; k < n; ++k, buffer += width_) {
    auto* row = reinterpret_cast<Number*>(row_of(atoms[k]));
    const auto* received = reinterpret_cast<const std::byte*>(buffer);
    for (std::size_t m = 0; m < numbers; ++m) {
      Number value;
      std::memcpy(&value, received + m * sizeof(Number), sizeof(Number));
      row[m] += value;
    }
  }
}

}  // namespace LAMMPS_NS
