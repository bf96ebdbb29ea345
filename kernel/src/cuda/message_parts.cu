// Cuts the table of a message into parts: the ranges of outputs and of components of h that its paths have, cut to bounded
// lengths, and for each path and pair of ranges a matrix of couplings. Runs on the host.
#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <vector>

#include "message_parts.hpp"
#include "tables.hpp"

namespace tesseral::cuda {
namespace {

struct Interval {
  int32_t begin, end;
};

/// Intervals that cover 0 .. size-1, each of at most most_width numbers and either inside or outside of every given one.
std::vector<Interval> cut(const std::vector<Interval>& given, int32_t size) {
  std::set<int32_t> borders{0, size};
  for (const Interval& own : given) borders.insert({own.begin, own.end});
  std::vector<Interval> pieces;
  for (auto border = borders.begin(); std::next(border) != borders.end(); ++border) {
    const int32_t begin = *border, length = *std::next(border) - begin, count = (length + most_width - 1) / most_width;
    for (int32_t n = 0; n < count; ++n) pieces.push_back({begin + length * n / count, begin + length * (n + 1) / count});
  }
  return pieces;
}

/// For each number below `size` the interval it lies in.
std::vector<int32_t> interval_of(const std::vector<Interval>& intervals, int32_t size) {
  std::vector<int32_t> numbers(static_cast<std::size_t>(size));
  for (std::size_t n = 0; n < intervals.size(); ++n) {
    std::fill(numbers.begin() + intervals[n].begin, numbers.begin() + intervals[n].end, static_cast<int32_t>(n));
  }
  return numbers;
}

/// An entry of the message's table with its path and component.
struct PlacedEntry {
  int32_t path, component, out;
  Span terms;
};

template <class T>
std::vector<PlacedEntry> placed_entries(const MessageTable<T>& table) {
  std::vector<PlacedEntry> placed;
  for (std::size_t p = 0; p + 1 < table.path_rows.size(); ++p) {
    for (int32_t x = table.path_rows[p]; x < table.path_rows[p + 1]; ++x) {
      const auto& row = table.rows[static_cast<std::size_t>(x)];
      for (int32_t n = row.first_entry; n < row.last_entry; ++n) {
        const auto& entry = table.entries[static_cast<std::size_t>(n)];
        placed.push_back({static_cast<int32_t>(p), row.component, entry.out, {entry.first_term, entry.last_term}});
      }
    }
  }
  return placed;
}

/// For each path that has entries the range of their `number`.
std::vector<Interval> ranges(const std::vector<PlacedEntry>& entries, int32_t PlacedEntry::* number) {
  std::map<int32_t, Interval> of_path;
  for (const PlacedEntry& entry : entries) {
    Interval& range = of_path.try_emplace(entry.path, Interval{entry.*number, entry.*number + 1}).first->second;
    range = {std::min(range.begin, entry.*number), std::max(range.end, entry.*number + 1)};
  }
  std::vector<Interval> found;
  for (const auto& [path, range] : of_path) found.push_back(range);
  return found;
}

/// The tables while they are made.
template <class T>
struct Builder {
  const MessageTable<T>& table;
  std::vector<MessagePart> parts;
  std::vector<PartGroup> groups;
  std::vector<Span> entries;
  std::vector<HarmonicShares> harmonics;
  std::vector<int32_t> share_entries;
  std::vector<T> share_couplings;
  int most_components = 1, most_couplings = 1;

  void add_part(int32_t path, Interval outs, Interval components, const std::vector<PlacedEntry>& own) {
    const int row = coupling_row(compiled_width(outs.end - outs.begin)), n_components = components.end - components.begin;
    const auto first_entry = entries.size(), first_harmonic = harmonics.size();
    entries.resize(first_entry + static_cast<std::size_t>(row * n_components), Span{0, 0});
    std::map<int32_t, std::vector<std::pair<int32_t, T>>> shares;  // of harmonics
    for (const PlacedEntry& entry : own) {
      const int32_t number = (entry.component - components.begin) * row + entry.out - outs.begin;
      entries[first_entry + static_cast<std::size_t>(number)] = entry.terms;
      for (int32_t t = entry.terms.first; t < entry.terms.last; ++t) {
        const auto& term = table.terms[static_cast<std::size_t>(t)];
        shares[term.harmonic].push_back({number, term.coupling});
      }
    }
    for (const auto& [harmonic, list] : shares) {
      const auto first = static_cast<int32_t>(share_entries.size());
      for (const auto& [number, coupling] : list) {
        share_entries.push_back(number);
        share_couplings.push_back(coupling);
      }
      harmonics.push_back({harmonic, first, static_cast<int32_t>(share_entries.size())});
    }
    parts.push_back({path, outs.begin, outs.end - outs.begin, components.begin, n_components,
                     static_cast<int32_t>(first_entry), static_cast<int32_t>(first_harmonic),
                     static_cast<int32_t>(harmonics.size())});
    most_components = std::max(most_components, n_components);
    most_couplings = std::max(most_couplings, row * n_components);
  }

  PartTables<T> copied() const {
    std::vector<int32_t> term_harmonics;
    std::vector<T> term_couplings;
    for (const auto& term : table.terms) {
      term_harmonics.push_back(term.harmonic);
      term_couplings.push_back(term.coupling);
    }
    const auto copy = [](const auto& list) { return on_device(list.data(), list.size()); };
    return {static_cast<int>(parts.size()),
            static_cast<int>(groups.size()),
            most_components,
            (most_couplings + 3) / 4 * 4,
            copy(parts),
            copy(groups),
            copy(entries),
            copy(term_harmonics),
            copy(term_couplings),
            copy(harmonics),
            copy(share_entries),
            copy(share_couplings)};
  }
};

}  // namespace

template <class T>
PartTables<T> part_tables(const MessageShape<T>& shape, PartOrder order) {
  const std::vector<PlacedEntry> entries = placed_entries(*shape.table);
  const std::vector<Interval> outs = cut(ranges(entries, &PlacedEntry::out), shape.n_outputs);
  const std::vector<Interval> components = cut(ranges(entries, &PlacedEntry::component), shape.n_components);
  const std::vector<int32_t> out_piece = interval_of(outs, shape.n_outputs);
  const std::vector<int32_t> component_piece = interval_of(components, shape.n_components);
  const bool by_outputs = order == PartOrder::by_outputs;
  using Key = std::array<int32_t, 3>;  // piece that groups, path, other piece
  std::map<Key, std::vector<PlacedEntry>> sorted;
  for (const PlacedEntry& entry : entries) {
    const int32_t out = out_piece[static_cast<std::size_t>(entry.out)];
    const int32_t component = component_piece[static_cast<std::size_t>(entry.component)];
    sorted[by_outputs ? Key{out, entry.path, component} : Key{component, entry.path, out}].push_back(entry);
  }
  Builder<T> builder{*shape.table, {}, {}, {}, {}, {}, {}};
  auto part = sorted.begin();
  const std::vector<Interval>& pieces = by_outputs ? outs : components;
  for (std::size_t n = 0; n < pieces.size(); ++n) {
    const auto first = static_cast<int32_t>(builder.parts.size());
    for (; part != sorted.end() && part->first[0] == static_cast<int32_t>(n); ++part) {
      const auto other = static_cast<std::size_t>(part->first[2]);
      builder.add_part(part->first[1], by_outputs ? pieces[n] : outs[other], by_outputs ? components[other] : pieces[n],
                       part->second);
    }
    builder.groups.push_back(
        {pieces[n].begin, pieces[n].end - pieces[n].begin, first, static_cast<int32_t>(builder.parts.size())});
  }
  return builder.copied();
}

template <class T>
const T* scalar_couplings(const MessageShape<T>& shape, int l_max) {
  const MessageTable<T>& table = *shape.table;
  const auto n_harmonics = static_cast<std::size_t>((l_max + 1) * (l_max + 1)),
             n_paths = static_cast<std::size_t>(l_max) + 1;
  if (shape.n_components != 1 || shape.n_outputs != shape.n_harmonics ||
      shape.n_harmonics != static_cast<int>(n_harmonics) || table.path_rows.size() != n_paths + 1 ||
      table.terms.size() != n_harmonics) {
    return nullptr;
  }
  std::vector<T> couplings(n_harmonics);
  for (const PlacedEntry& entry : placed_entries(table)) {
    const int32_t l = entry.path, out = entry.out;
    if (entry.terms.last - entry.terms.first != 1 || out < l * l || out > l * l + 2 * l) return nullptr;
    const auto& term = table.terms[static_cast<std::size_t>(entry.terms.first)];
    if (term.harmonic != out) return nullptr;
    couplings[static_cast<std::size_t>(out)] = term.coupling;
  }
  return on_device(couplings.data(), couplings.size());
}

#define TESSERAL_INSTANTIATE_PARTS(T)                                    \
  template PartTables<T> part_tables(const MessageShape<T>&, PartOrder); \
  template const T* scalar_couplings(const MessageShape<T>&, int);
TESSERAL_INSTANTIATE_PARTS(float)
TESSERAL_INSTANTIATE_PARTS(double)

}  // namespace tesseral::cuda
