// Tables of messages cut into parts of bounded size, as the kernels of messages take them.
#pragma once

#include <cstdint>

#include "kernels.hpp"

namespace tesseral::cuda {

constexpr int most_width = 7;  // outputs of a part, and components of h

/// Outputs that a kernel is compiled for: 1, 3, 5 or 7.
constexpr int compiled_width(int n_outs) {
  return n_outs | 1;
}
/// Length of a row of B in shared memory, so that most of it can be read 16 bytes at a time.
constexpr int coupling_row(int width) {
  return width == 1 ? 1 : width == 3 ? 4 : 8;
}

/// What a path adds to outputs out .. out+n_outs-1 from components component .. component+n_components-1 of h.
struct MessagePart {
  int32_t path;
  int32_t out, n_outs;
  int32_t component, n_components;
  int32_t first_entry;  // of n_components rows of coupling_row(compiled_width(n_outs))
  int32_t first_harmonic, last_harmonic;
};

/// Parts first .. last-1 have the same outputs (or components of h): begin .. begin+size-1.
struct PartGroup {
  int32_t begin, size;
  int32_t first, last;
};

struct Span {
  int32_t first, last;
};

/// A harmonic of a part and the shares that the entries of B have in its gradient.
struct HarmonicShares {
  int32_t harmonic;
  int32_t first, last;
};

/// The parts of a message on the device.
template <class T>
struct PartTables {
  int n_parts, n_groups;
  int most_components;  // of a part
  int couplings;        // of a part's B at most, a multiple of 4
  const MessagePart* parts;
  const PartGroup* groups;  // cover all outputs, or all components
  const Span* entries;      // terms of each
  const int32_t* term_harmonics;
  const T* term_couplings;
  const HarmonicShares* harmonics;
  const int32_t* share_entries;  // within the part
  const T* share_couplings;
};

enum class PartOrder { by_outputs, by_components };

/// Made on the host and copied to the device when it is not there yet.
template <class T>
PartTables<T> part_tables(const MessageShape<T>& shape, PartOrder order);

/// Whether this is the usual message of scalars to degrees 0 .. l_max: path l with outputs l*l .. l*l+2l, each of them the
/// harmonic of the same number times a coupling. Those [n_harmonics] on the device, or null.
template <class T>
const T* scalar_couplings(const MessageShape<T>& shape, int l_max);

}  // namespace tesseral::cuda
